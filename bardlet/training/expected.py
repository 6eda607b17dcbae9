"""How long a run will take, measured before its first step on a few of its sequences."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.system.device import Machine

LARGE = 1e13  # FLOPs of a run, below which it takes a minute or two anywhere, and nothing is said
SEQUENCES = 4  # that are measured
LONG_S = 3600.0  # beyond which a CPU is told what suits it better
SHAKESPEARE = ("tinyshakespeare", "shakespeare_char")


def iteration_s(
    forward: torch.nn.Module, machine: Machine, *, block_size: int, sequences: int
) -> float:
    """The seconds of an iteration of so many sequences; no weight moves, no gradient is left."""
    size = min(SEQUENCES, sequences)
    idx = torch.zeros(size, block_size, dtype=torch.int64, device=machine.device)  # (B, T)
    taken = math.inf
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        with machine.autocast():
            _, loss = forward(idx, idx.clone())
        loss.backward()
        loss.item()  # waits for the device
        taken = min(taken, time.perf_counter() - began)
        if taken > 1.0:
            break
    forward.zero_grad(set_to_none=True)
    return taken * sequences / size


def describe(config: TrainConfig, seconds: float, device: str) -> list[str]:
    """What to say of a run that takes so long, and what suits a CPU better."""
    lines = [f"about {duration(seconds)} on this machine, by {SEQUENCES} sequences measured"]
    if device != "cpu" or seconds < LONG_S or config.init_from not in BUILTIN_INIT:
        return lines
    name = Path(config.dataset).name
    better = f"bardlet train --dataset={config.dataset} --budget=10m sizes a run to this machine"
    if name in SHAKESPEARE:
        better = "bardlet train shakespeare-char learns more in minutes on a CPU"
    return [*lines, f"{better}; Ctrl-C stops this one"]


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"
