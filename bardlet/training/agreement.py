"""What all processes of a run have in common: options, data, code, number format, and the batch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import bardlet
from bardlet import native
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import UsageError
from bardlet.system import meeting
from bardlet.system.device import Machine
from bardlet.system.distributed import Group

SAID = 3  # differences that are spelt out
# where the data and the run are may differ between machines; what is in them may not
PATHS = ("dataset", "out_dir")


def check(config: TrainConfig, group: Group, machine: Machine, dataset: Dataset) -> None:
    """Raise UsageError, on all processes, where one differs from the main one."""
    if group.world_size == 1:
        return
    texts = meeting.told_to_main(json.dumps(facts(config, machine, dataset)))

    def compare() -> None:
        if problem := difference([json.loads(text) for text in texts]):
            raise UsageError(problem, "Give all the same command, data and version of bardlet")

    meeting.from_main(compare)


def facts(config: TrainConfig, machine: Machine, dataset: Dataset) -> dict[str, Any]:
    """What has to be equal on all processes, and, as `host`, where this one is."""
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in PATHS}
    core = native.library() is not None and machine.device.type == "cpu"
    return {
        "host": socket.gethostname(), "dataset": dataset.hash, **options,
        "device": machine.device.type, **machine.facts(), "threads": 0,
        "compiled core": core, "bardlet": bardlet.__version__, "code": code_hash(),
        "torch": torch.__version__,
    }  # fmt: skip


def shares(config: TrainConfig, processes: int) -> list[str]:
    """How the sequences of an iteration are shared out and computed, in a line, where that needs
    to be said. UsageError where there is not one for each process.
    """
    sequences, size = config.sequences_per_iter, config.batch_size
    if sequences < processes:
        raise UsageError(
            f"{sequences} sequences an iteration are too few for {processes} processes",
            f"Give at least --tokens_per_step={processes * config.block_size}",
        )
    if processes == 1 and not config.tokens_per_step:
        return []
    less, more = sequences // processes, -(-sequences // processes)
    each = f"{less:,}" if less == more else f"{less:,} or {more:,}"
    where = f"{each} on each of {processes} processes" if processes > 1 else "on one process"
    times = -(-more // size)
    return [
        f"batch: {sequences * config.block_size:,} tokens an iteration, {sequences:,} sequences, "
        f"{where}, {min(size, more):,} at once{f', {times:,} times' if times > 1 else ''}"
    ]


def code_hash() -> str:
    """A hash of the package's modules, which someone may have changed on one machine only."""
    folder = Path(bardlet.__file__).parent
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def difference(ranks: Sequence[Mapping[str, Any]]) -> str:
    """In what the first process that differs from process 0 does so; empty where none does."""
    first = ranks[0]
    for rank, other in enumerate(ranks):
        names = [n for n in {**first, **other} if n != "host" and first.get(n) != other.get(n)]
        if names:
            said = [f"{n}={shown(other.get(n))}, not {shown(first.get(n))}" for n in names[:SAID]]
            more = f", and {len(names) - SAID} more" if len(names) > SAID else ""
            return (
                f"process {rank} on {other['host']} differs from process 0 on {first['host']}: "
                f"{'; '.join(said)}{more}"
            )
    return ""


def shown(value: Any) -> str:
    """A value for people; of a hash its beginning is enough."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
