"""Checkpoint folders: all that a model is, safetensors and JSON only, whole on disk or not there.

    out/<run>/checkpoints/iter-00002000/  model.safetensors  config.json  tokenizer.json
                                          optimizer.safetensors  state.json  eval.json
    out/<run>/checkpoints/best            the name of one of them; so does `last`

A folder is written under a temporary name, flushed and renamed; then `last` or `best` is moved to
it, then what neither names is removed. A kill between any two of these leaves a run that loads.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bardlet.data import tokenizer as tokenizers
from bardlet.errors import CheckpointError
from bardlet.model import GPT, GPTConfig

FORMAT_VERSION = 1


def name_of(it: int) -> str:
    """The folder's name for the state after `it` iterations."""
    return f"iter-{it:08d}"


def save(
    run: Path, it: int, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: tokenizers.Tokenizer, state: dict[str, Any],
) -> Path:  # fmt: skip
    """Write the state after `it` iterations as a checkpoint of `run`; return its folder.

    `state` is what else a resumed run needs, JSON values only. Raises CheckpointError where the
    disk does not take it, leaving what was there before.
    """
    folder = run / "checkpoints" / name_of(it)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    config = {"format_version": FORMAT_VERSION, **dataclasses.asdict(model.config)}
    weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}  # tied ones once
    try:
        building.mkdir(parents=True, exist_ok=True)
        save_file(weights, building / "model.safetensors")
        save_file(optimizer_tensors(model, optimizers), building / "optimizer.safetensors")
        flush(building / "model.safetensors")
        flush(building / "optimizer.safetensors")
        write_json(building / "config.json", config)
        write_text(building / "tokenizer.json", tokenizer.to_json())
        write_json(building / "state.json", {"format_version": FORMAT_VERSION, "iter": it, **state})
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
        flush(folder.parent)
    except (OSError, SafetensorError) as error:
        need = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
        raise CheckpointError(
            f"cannot save {folder}: {error}",
            f"A checkpoint takes about {need / 1e6:.0f} MB; the ones before it are untouched",
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def point(run: Path, name: str, folder: Path) -> None:
    """Let `name` ("best" or "last") be the checkpoint `folder`, in one step."""
    write_text(run / "checkpoints" / name, folder.name + "\n")


def conclude(run: Path, it: int, scores: dict[str, float], best: bool) -> None:
    """Add its losses to the checkpoint after `it` iterations, and let `best` name it if it is."""
    folder = run / "checkpoints" / name_of(it)
    if best:
        point(run, "best", folder)
    # last, because its presence tells a resumed run that this evaluation is done
    write_json(folder / "eval.json", scores)
    prune(run)


def prune(run: Path) -> None:
    """Remove the checkpoints that neither `best` nor `last` names, and what a kill left behind."""
    root = run / "checkpoints"
    keep = {pointed(run, name) for name in ("best", "last")}
    for folder in root.iterdir():
        if folder.is_dir() and folder not in keep and folder.name.lstrip(".").startswith("iter-"):
            shutil.rmtree(folder, ignore_errors=True)


def pointed(run: Path, name: str) -> Path | None:
    """The checkpoint folder that `best` or `last` of a run names, where there is one."""
    try:
        text = (run / "checkpoints" / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = run / "checkpoints" / Path(text).name
    return folder if text and folder.is_dir() else None


def find(path: Path, which: str = "best") -> Path:
    """The checkpoint folder of a run's folder or of a checkpoint's own.

    `which` is "best" (the last one where validation never improved), "last" or a folder's name.
    """
    if (path / "model.safetensors").is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no run at {path}", f"Train one: bardlet train --out_dir {path}")
    named = path / "checkpoints" / which
    folder = named if named.is_dir() else pointed(path, which)
    if folder is None and which == "best":
        folder = pointed(path, "last")
    if folder is None:
        kept = sorted(p.name for p in (path / "checkpoints").glob("iter-*"))
        have = f"It has {', '.join(kept)}" if kept else "Train first: bardlet train"
        raise CheckpointError(f"{path} has no checkpoint {which!r}", have)
    return folder


def load(folder: Path) -> tuple[GPT, tokenizers.Tokenizer, dict[str, Any]]:
    """The model on the CPU, its tokenizer, and state.json with eval.json of a checkpoint.

    Raises CheckpointError where a file is missing, damaged, or of a newer format.
    """
    config = read_json(folder / "config.json")
    known = {f.name for f in dataclasses.fields(GPTConfig)}
    try:
        model = GPT(GPTConfig(**{k: v for k, v in config.items() if k in known}))
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError, AttributeError) as error:
        raise damaged(folder / "config.json", error) from None
    weights = read_tensors(folder / "model.safetensors")
    own = dict(model.named_parameters())  # tied ones once
    if {n: w.shape for n, w in weights.items()} != {n: p.shape for n, p in own.items()}:
        raise damaged(folder / "model.safetensors", "its tensors do not fit config.json")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(weights[name])
    state = read_json(folder / "state.json")
    missing = [key for key in ("iter", "tokens", "dataset", "scaler") if key not in state]
    if missing:
        raise damaged(folder / "state.json", f"it does not say {missing[0]}")
    if (folder / "eval.json").is_file():
        state["eval"] = read_json(folder / "eval.json")
    return model, tokenizers.load(folder / "tokenizer.json"), state


def optimizer_tensors(
    model: GPT, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:  # fmt: skip
    """The optimizers' state as named tensors: "<parameter>/<what>"."""
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {
        f"{names[p]}/{what}": value.detach().contiguous()
        for optimizer in optimizers
        for p, entries in optimizer.state.items()
        for what, value in entries.items()
    }


def load_optimizers(
    folder: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer]
) -> None:  # fmt: skip
    """Put a checkpoint's optimizer state into freshly built optimizers."""
    path = folder / "optimizer.safetensors"
    names = {p: n for n, p in model.named_parameters()}
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in read_tensors(path).items():
        name, _, what = key.rpartition("/")
        saved.setdefault(name, {})[what] = value
    for optimizer in optimizers:
        state = optimizer.state_dict()
        params = [p for group in optimizer.param_groups for p in group["params"]]
        missing = [names[p] for p in params if names[p] not in saved]
        if missing and saved:
            raise damaged(path, f"no state for {missing[0]}: was another optimizer used?")
        state["state"] = {i: saved[names[p]] for i, p in enumerate(params) if names[p] in saved}
        optimizer.load_state_dict(state)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error) from None


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of a checkpoint, its format checked."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document.get("format_version", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise damaged(path, error) from None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, this bardlet reads up to {FORMAT_VERSION}",
            "A newer bardlet wrote it: upgrade with pip install -U bardlet",
        )
    return document


def damaged(path: Path, why: object) -> CheckpointError:
    """What to say of a file that cannot be used."""
    first = (str(why).splitlines() or [""])[0]
    return CheckpointError(
        f"{path} is missing or damaged: {first}", "`--checkpoint last` or `best` may name another"
    )


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file in one step."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, wait until it is on disk, and rename it."""
    building = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        building.write_text(text, encoding="utf-8", errors="surrogatepass", newline="\n")
        flush(building)
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files where the system has that, is on disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
