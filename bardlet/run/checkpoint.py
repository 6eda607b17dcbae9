"""One checkpoint folder: all that a model is, safetensors and JSON only, checked when it is read.

    iter-00002000/  model.safetensors  config.json  tokenizer.json  optimizer.safetensors
                    state.json  checksums.json  eval.json

A folder is built under a temporary name, flushed, sealed with the checksums of its files, and
renamed: under its own name it is whole. run_folder.py says which of a run's checkpoints is meant.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bardlet.data.tokenizers import base as tokenizers
from bardlet.errors import CheckpointError
from bardlet.io.atomic import flush, remove, temporary, write_json, write_text
from bardlet.model import GPT
from bardlet.run import run_folder, shards, weights
from bardlet.run.state import FORMAT_VERSION, RunState, corrupt
from bardlet.system import offload, sharding
from bardlet.system.distributed import Group

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
FILES = [WEIGHTS, OPTIMIZER, "config.json", "tokenizer.json", "state.json"]


def save(
    run: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: tokenizers.Tokenizer, state: RunState,
) -> Path:  # fmt: skip
    """Write a checkpoint of `run` after `state.iter` iterations; return its folder.

    Raises CheckpointError where the disk does not take it, leaving what was there before.
    """
    folder = run / "checkpoints" / run_folder.name_of(state.iter)
    write(folder, model, optimizers, tokenizer, state)
    finish(folder)
    return folder


def write(
    folder: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: tokenizers.Tokenizer, state: RunState,
) -> None:  # fmt: skip
    """Write the files of what becomes the checkpoint `folder`, to where the system puts them first.

    What takes long, waiting for the disk, is left to `finish`, which need not be done at once.
    """
    building = temporary(folder)
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, tensors in tensor_files(model, optimizers).items():
            save_file(tensors, building / name)
        write_documents(building, model, tokenizer, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise not_saved(folder, error) from None


def write_together(
    folder: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: tokenizers.Tokenizer, state: RunState, group: Group,
) -> None:  # fmt: skip
    """Write the same files by all processes of `group`, each its part of a sharded model.

    All must call it. Raises CheckpointError on the main process where one has failed.
    """
    building = temporary(folder, group.agree(os.getpid()))
    files = tensor_files(model, optimizers)
    problem: OSError | None = None
    try:
        if group.main:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            for name, tensors in files.items():
                shards.create(building / name, tensors)
            write_documents(building, model, tokenizer, state)
    except OSError as error:
        problem = error
    if group.first(problem is not None) < 0:
        try:
            for name, tensors in files.items():
                elsewhere = group.rank != group.local_rank
                shards.fill(building / name, tensors, main=group.main, elsewhere=elsewhere)
        except OSError as error:
            problem = error
        failed = group.first(problem is not None)
        if failed > 0 and not problem:
            problem = OSError(f"process {failed} could not write its part into this folder")
    if problem and group.main:
        shutil.rmtree(building, ignore_errors=True)
        raise not_saved(folder, problem)


def tensor_files(
    model: GPT, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, dict[str, Tensor]]:  # fmt: skip
    """The tensors of each file of a checkpoint by name."""
    parameters = {n: p.detach().contiguous() for n, p in model.named_parameters()}  # tied ones once
    return {WEIGHTS: parameters, OPTIMIZER: optimizer_tensors(model, optimizers)}


def write_documents(
    building: Path, model: GPT, tokenizer: tokenizers.Tokenizer, state: RunState
) -> None:  # fmt: skip
    """Write what else than tensors a checkpoint has."""
    version = {"format_version": FORMAT_VERSION}
    write_json(building / "config.json", {**version, **dataclasses.asdict(model.config)})
    write_text(building / "tokenizer.json", tokenizer.to_json())
    run_folder.write_versioned(building / "state.json", state)


def finish(folder: Path) -> None:
    """Make the checkpoint `folder` of what `write` left: on disk, sealed, under its own name."""
    building = temporary(folder)
    try:
        for name in FILES:
            flush(building / name)
        run_folder.write_checksums(building, FILES)
        remove(folder)  # one that was corrupt, and reached again
        building.rename(folder)
        flush(folder.parent)
    except OSError as error:
        raise not_saved(folder, error) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def not_saved(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot save {folder}: {error}", "The ones before it are untouched")


def size_bytes(model: GPT, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """About what a checkpoint takes on disk: the weights, and the optimizers' state."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return parameters + optimizer_bytes(optimizers) + (1 << 20)


def optimizer_bytes(optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """What the optimizers remember of gradients: two numbers for each or, for Muon's, one."""
    return sum(
        p.numel() * p.element_size() * (2 if isinstance(optimizer, torch.optim.AdamW) else 1)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    )


def load(folder: Path) -> tuple[GPT, tokenizers.Tokenizer, RunState]:
    """The model on the CPU, its tokenizer, and the state of the run of a checkpoint.

    Raises CheckpointError where a file is missing, corrupt, or of a newer format.
    """
    run_folder.verify(folder, *(name for name in FILES if name != OPTIMIZER))
    model = weights.untrained(folder)
    weights.load_into(model, folder / "model.safetensors")
    state = run_folder.read_state(folder)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise corrupt(folder / "tokenizer.json", "it has more tokens than the model")
    return model, tokenizers.with_end_of_text(tokenizer, state.dataset.end_of_text), state


def optimizer_tensors(
    model: GPT, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:  # fmt: skip
    """The optimizers' state as named tensors: "<parameter>/<what>"."""
    offload.wait(optimizers)
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {
        f"{names[p]}/{what}": value.detach().contiguous()
        for optimizer in optimizers
        for p, entries in optimizer.state.items()
        for what, value in entries.items()
    }


def read_moments(
    folder: Path, params: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, Tensor]]:  # fmt: skip
    """The optimizers' state in a checkpoint, by parameter; empty before the first step.

    It is shared out among processes as the parameters of these names are.
    """
    run_folder.verify(folder, OPTIMIZER)
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.mapped(folder / OPTIMIZER):
        name, _, what = key.rpartition("/")
        saved.setdefault(name, {})[what] = sharding.like(value, (params or {}).get(name))
    return saved


def load_optimizers(
    folder: Path, model: GPT, optimizers: Sequence[torch.optim.Optimizer]
) -> None:  # fmt: skip
    """Put a checkpoint's optimizer state into freshly built optimizers."""
    path = folder / OPTIMIZER
    names = {p: n for n, p in model.named_parameters()}
    saved = read_moments(folder, dict(model.named_parameters()))
    for optimizer in optimizers:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        missing = [names[p] for p in params if names[p] not in saved]
        if missing and saved:
            raise corrupt(path, f"no state for {missing[0]}: was another optimizer used?")
        for p in params:
            check_moments(path, names[p], p, saved.get(names[p]), optimizer)
        offload.put_state(optimizer, {p: saved[names[p]] for p in params if names[p] in saved})


def check_moments(
    path: Path, name: str, p: Tensor, saved: dict[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
) -> None:  # fmt: skip
    """Raise CheckpointError where a parameter's saved state is not what the optimizer keeps.

    What computes with it trusts its shape, the compiled core down to the address.
    """
    if saved is None:  # no step was taken yet
        return
    adamw = isinstance(optimizer, torch.optim.AdamW)
    shape = tuple(p.shape)
    want = {"exp_avg": shape, "exp_avg_sq": shape, "step": ()} if adamw else {"momentum": shape}
    have = {what: tuple(value.shape) for what, value in saved.items()}
    if have != want:
        raise corrupt(path, f"the state of {name} does not fit it: {have}")
