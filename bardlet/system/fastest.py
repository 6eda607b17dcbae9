"""Which way to share work out among processes is the fastest here: each is timed in first steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bardlet.io.terminal import say
from bardlet.system import memory
from bardlet.system.distributed import Group, exchange_device
from bardlet.system.sharding import is_sharded, local
from bardlet.system.sharing import EVERYWHERE, ONCE, ROUND, ROUNDS

TRIALS = 2  # steps that each way is timed in, after a first one that is not
COPIES = 6  # of what is exchanged: sent, received, whole, stepped


class Fastest:
    """The way of one optimizer, which all processes agree on."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.way = EVERYWHERE if group.world_size == 1 else ""
        self.left: list[str] = []  # steps that are still to be timed, by their ways
        self.seconds: dict[str, float] = {}

    def run(self, step: Callable[[str], object], matrices: Sequence[Tensor]) -> None:
        """Take a step in the fastest way, or, of the first ones, in each way in turn."""
        if self.way:
            step(self.way)
            return
        device = local(matrices[0]).device
        if not self.left:
            self.left = self.trials(matrices, device)
        way = self.left.pop(0)
        finish(device)
        began = time.perf_counter()
        step(way)
        finish(device)
        # what comes first also loads kernels and opens connections
        if way in self.seconds:
            self.seconds[way] = min(self.seconds[way], time.perf_counter() - began)
        self.seconds.setdefault(way, float("inf"))
        if not self.left:
            self.choose()

    def trials(self, matrices: Sequence[Tensor], device: torch.device) -> list[str]:
        """The ways of the first steps: those for which all processes have the memory."""
        if torch.are_deterministic_algorithms_enabled():  # batches of another size may round so
            return [ROUNDS]
        whole = sum(p.numel() for p in matrices)
        shared = is_sharded(matrices[0])
        processes = matrices[0].device_mesh.size(-1) if shared else 1  # pyright: ignore
        free = int(min(memory.free(device), 1 << 60))
        room = self.group.smallest(free, exchange_device()) / (4 * COPIES)  # in numbers
        ways = [ROUNDS]
        if whole > ROUND * processes and whole / processes <= room:
            ways.append(ONCE)
        if not shared or whole <= room:
            ways.append(EVERYWHERE)
        return ways if len(ways) == 1 else (1 + TRIALS) * ways

    def choose(self) -> None:
        """Take the way that took all processes together the least time, and say so."""
        ways = list(self.seconds)
        totals = self.group.sum([self.seconds[way] for way in ways], exchange_device())
        times = dict(sorted(zip(ways, totals, strict=True), key=lambda pair: pair[1]))
        self.way, *others = times
        if self.group.main and others:
            each = {way: 1000 * times[way] / self.group.world_size for way in times}
            slower = ", ".join(f"{way} {each[way]:,.1f}" for way in others)
            say(f"muon: matrices are {self.way}: {each[self.way]:,.1f} ms a step; {slower}")


def finish(device: torch.device) -> None:
    """Return when a device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
