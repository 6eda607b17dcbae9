"""One checkpoint folder: all that a model is, safetensors and JSON only, checked when it is read.

    iter-00002000/  model.safetensors  config.json  tokenizer.json  optimizer.safetensors
                    state.json  checksums.json  eval.json

A folder is built under a temporary name, flushed, sealed with the checksums of its files, and
renamed: under its own name it is whole. runs.py says which of a run's checkpoints is meant.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bardlet import runs
from bardlet.data import tokenizer as tokenizers
from bardlet.errors import CheckpointError
from bardlet.files import flush, remove, temporary, write_json, write_text
from bardlet.model import GPT, GPTConfig
from bardlet.runs import damaged, read_json

OPTIMIZER = "optimizer.safetensors"
FILES = ["model.safetensors", OPTIMIZER, "config.json", "tokenizer.json", "state.json"]


def save(
    run: Path, it: int, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: tokenizers.Tokenizer, state: dict[str, Any],
) -> Path:  # fmt: skip
    """Write the state after `it` iterations as a checkpoint of `run`; return its folder.

    `state` is what else a resumed run needs, JSON values only. Raises CheckpointError where the
    disk does not take it, leaving what was there before.
    """
    folder = run / "checkpoints" / runs.name_of(it)
    write(folder, it, model, optimizers, tokenizer, state)
    finish(folder)
    return folder


def write(
    folder: Path, it: int, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: tokenizers.Tokenizer, state: dict[str, Any],
) -> None:  # fmt: skip
    """Write the files of what becomes the checkpoint `folder`, to where the system puts them first.

    What takes long, waiting for the disk, is left to `finish`, which need not be done at once.
    """
    building = temporary(folder)
    weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}  # tied ones once
    version = {"format_version": runs.FORMAT_VERSION}
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        save_file(weights, building / "model.safetensors")
        save_file(optimizer_tensors(model, optimizers), building / OPTIMIZER)
        write_json(building / "config.json", {**version, **dataclasses.asdict(model.config)})
        write_text(building / "tokenizer.json", tokenizer.to_json())
        write_json(building / "state.json", {**version, "iter": it, **state})
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise not_saved(folder, error) from None


def finish(folder: Path) -> None:
    """Make the checkpoint `folder` of what `write` left: on disk, sealed, under its own name."""
    building = temporary(folder)
    try:
        for name in FILES:
            flush(building / name)
        runs.seal(building, FILES)
        remove(folder)  # one that was damaged, and reached again
        building.rename(folder)
        flush(folder.parent)
    except OSError as error:
        raise not_saved(folder, error) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def not_saved(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot save {folder}: {error}", "The ones before it are untouched")


def size_bytes(model: GPT, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """About what a checkpoint takes on disk: the weights, and two or one numbers for each."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = sum(
        p.numel() * p.element_size() * (2 if isinstance(optimizer, torch.optim.AdamW) else 1)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    )
    return weights + moments + (1 << 20)


def load(folder: Path) -> tuple[GPT, tokenizers.Tokenizer, dict[str, Any]]:
    """The model on the CPU, its tokenizer, and state.json with eval.json of a checkpoint.

    Raises CheckpointError where a file is missing, damaged, or of a newer format.
    """
    runs.verify(folder, *(name for name in FILES if name != OPTIMIZER))
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
    for name, p in own.items():
        p.data = weights.pop(name).to(p.dtype)  # no second copy of all of them
    state = read_json(folder / "state.json")
    missing = [key for key in ("iter", "tokens", "dataset", "scaler") if key not in state]
    if missing:
        raise damaged(folder / "state.json", f"it does not say {missing[0]}")
    scores = runs.scores_of(folder)
    if scores is not None:
        state["eval"] = scores
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
    path = folder / OPTIMIZER
    runs.verify(folder, OPTIMIZER)
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
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            # copied, since what safetensors returns is the mapped file
            return {name: file.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error) from None
