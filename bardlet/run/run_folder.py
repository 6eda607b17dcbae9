"""A run's folder: its checkpoints, and the one that a name means.

    out/<run>/checkpoints/iter-00002000/   one state of the run (checkpoint.py)
    out/<run>/checkpoints/best, last       the name of one of them
    out/<run>/.lock                        held by the process that trains in it (lock.py)

Only names and JSON are read here, so that the command line need not wait for torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bardlet.errors import CheckpointError
from bardlet.io import schema
from bardlet.io.atomic import flush, remove, sha256, write_json, write_text
from bardlet.io.safe_read import read_text, regular, within
from bardlet.run.state import (
    FORMAT_VERSION,
    Checksums,
    FileSum,
    RunState,
    Scores,
    corrupt,
    read_as,
    read_json,
)  # fmt: skip

CHECKSUMS, EVAL, STATE = "checksums.json", "eval.json", "state.json"
FIRST_WITH_CHECKSUMS = 2


def name_of(it: int) -> str:
    """The name of the checkpoint after `it` iterations."""
    return f"iter-{it:08d}"


def iter_of(folder: Path) -> int:
    """How many iterations the checkpoint `folder` is of, by its name."""
    return int(folder.name.removeprefix("iter-"))


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the oldest first. CheckpointError where one lies elsewhere:
    what is pruned here must be this run's.
    """
    folders = (run / "checkpoints").glob("iter-*")
    kept = sorted((p for p in folders if p.name[5:].isdecimal() and p.is_dir()), key=iter_of)
    try:
        for folder in kept:
            within(folder, run)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename} {error.strerror}", "Move the run as a whole, or link to the whole"
        ) from None
    return kept


def is_run(path: Path) -> bool:
    """Whether a run was trained in a folder, whatever model of another program lies there too.

    What reads a model asks this first: the run just trained is the one that is meant.
    """
    return bool(checkpoints(path))


def newest(run: Path) -> Path:
    """The checkpoint after the most iterations. CheckpointError where there is none."""
    kept = checkpoints(run)
    if not kept:
        raise CheckpointError(f"{run} has no checkpoint", "Train first: bardlet train")
    return kept[-1]


def set_pointer(run: Path, name: str, folder: Path) -> None:
    """Let `name` ("best" or "last") be the checkpoint `folder`, in one step."""
    write_text(run / "checkpoints" / name, folder.name + "\n")


def read_pointer(run: Path, name: str) -> Path | None:
    """The checkpoint folder that `best` or `last` of a run names, where there is one."""
    kept = checkpoints(run)
    try:
        text = read_text(run / "checkpoints" / name, inside=run, max_bytes=schema.LONGEST).strip()
    except (OSError, ValueError):
        return None
    folder = run / "checkpoints" / text
    return folder if folder in kept else None


def find(path: Path, name: str = "best") -> Path:
    """The checkpoint folder of a run's folder or of a checkpoint's own.

    `name` is "best" (the last one where validation never improved), "last" or a folder's name,
    whose number may be without zeros.
    """
    if (path / "model.safetensors").is_file() and not is_run(path):
        return path
    if not path.is_dir():
        raise CheckpointError(f"no run at {path}", f"Train one: bardlet train --out_dir {path}")
    kept = checkpoints(path)
    number = re.fullmatch(r"iter-(\d{1,18})", name)
    names = (name, name_of(int(number[1]))) if number else (name,)
    folder = next((p for p in kept if p.name in names), None) or read_pointer(path, name)
    if folder is None and name in ("best", "last") and kept:
        folder = read_pointer(path, "last") or kept[-1]
    if folder is None:
        have = f"It has {', '.join(p.name for p in kept)}" if kept else "Train first: bardlet train"
        raise CheckpointError(f"{path} has no checkpoint {name!r}", have)
    return folder


def prune(run: Path, keep: int) -> None:
    """Remove all checkpoints but `best`, `last` and the `keep` newest up to `last`.

    One that is newer than `last` was corrupt when the run was resumed.
    """
    best, last = read_pointer(run, "best"), read_pointer(run, "last")
    kept = [p for p in checkpoints(run) if last is None or iter_of(p) <= iter_of(last)]
    for folder in checkpoints(run):
        if folder not in (best, last, *kept[-keep:]):
            remove(folder)


def write_checksums(folder: Path, names: list[str]) -> None:
    """Write checksums.json of a checkpoint: the size and sha256 of each of these files."""
    write_versioned(folder / CHECKSUMS, Checksums(files={n: checksum(folder / n) for n in names}))
    flush(folder)


def checksum(path: Path) -> FileSum:
    return FileSum(bytes=path.stat().st_size, sha256=sha256(path))


def write_versioned(path: Path, value: Checksums | Scores | RunState) -> None:
    """Write a file of a checkpoint with the version of its format."""
    write_json(path, {"format_version": FORMAT_VERSION, **schema.to_json(value)})


def read_checksums(folder: Path) -> dict[str, FileSum]:
    """What checksums.json says of each file of a checkpoint. CheckpointError without it."""
    return dict(read_as(Checksums, folder / CHECKSUMS).files)


def verify(folder: Path, *names: str) -> None:
    """Raise CheckpointError where a file of a checkpoint is not as written: of `names`, or of all
    but its losses, which another evaluation gives.

    A checkpoint of format 1 has no checksums: it is taken as it is.
    """
    if not (folder / CHECKSUMS).exists() and version_of(folder) < FIRST_WITH_CHECKSUMS:
        return
    files = read_checksums(folder)
    for name in names or files.keys() - {EVAL}:
        path = folder / Path(name).name
        try:
            regular(path, folder)
        except OSError as error:
            raise corrupt(path, error) from None
        if name not in files or path.stat().st_size != files[name].bytes:  # EVAL may not be in it
            raise corrupt(path, f"{path.stat().st_size} bytes are not what was written")
        if sha256(path) != files[name].sha256:
            raise corrupt(path, "its sha256 is not that of what was written")


def version_of(folder: Path) -> int:
    return read_json(folder / "config.json").get("format_version", 1)


def write_scores(folder: Path, scores: Scores) -> None:
    """Add its losses to a checkpoint. Their checksum says that they are whole."""
    write_json(folder / EVAL, schema.to_json(scores))
    files = read_checksums(folder)
    write_versioned(folder / CHECKSUMS, Checksums(files={**files, EVAL: checksum(folder / EVAL)}))


def read_scores(folder: Path) -> Scores | None:
    """The losses of a checkpoint, where it was evaluated."""
    try:
        verify(folder, EVAL)
        return read_as(Scores, folder / EVAL)
    except CheckpointError:
        return None


def read_state(folder: Path) -> RunState:
    """state.json of a checkpoint, with its losses.

    The evaluation comes after the state was saved, and counts with those without progress.
    """
    state, scores = read_as(RunState, folder / STATE), read_scores(folder)
    if state.compiled is not None:
        state = dataclasses.replace(state, numerics={"compiled": state.compiled}, compiled=None)
    if scores is None:
        return state
    guards = dataclasses.replace(state.guards, since_best=scores.since_best)
    return dataclasses.replace(state, scores=scores, guards=guards)


def finished(folder: Path) -> bool:
    """Whether a run ended with this checkpoint: it is of the last iteration, or of the last
    evaluation that early stopping waits for, and its losses are known.
    """
    state = read_state(folder)
    return state.scores is not None and (
        state.iter >= state.option("max_iters", math.inf)
        or 0 < state.option("patience", 0) <= state.scores.since_best
    )


def saved_options(run: Path, name: str = "") -> Mapping[str, Any] | None:
    """The options of a run as its newest checkpoint that can be read has them, or the one that
    `name` means.
    """
    for folder in [find(run, name)] if name else reversed(checkpoints(run)):
        with contextlib.suppress(CheckpointError):
            verify(folder, STATE)
            options = read_as(RunState, folder / STATE).config
            if options:
                return options
    return None
