"""Memory: how much is available, and less of it: recomputed blocks, and smaller micro-batches."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from bardlet.errors import TrainingError, is_out_of_memory

T = TypeVar("T")
PROVEN = 2  # batches that a size fits in: the second one beside what optimizers keep
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")  # keys of memory.stat


class MicroBatcher:
    """The number of sequences that are computed at once, halved when memory runs out."""

    def __init__(self, size: int, *, can_retry: bool = True, overlap: bool = False) -> None:
        """`can_retry`: no other process waits for this one, which may compute its part again.

        With `overlap`, processes exchange gradients while they compute them, once a size is proven.
        """
        self.size, self.can_retry, self.overlap = size, can_retry, overlap
        self.agreed, self.fitted = 0, 0  # the size of all processes, and the batches it fitted in

    @property
    def proven(self) -> bool:
        """Whether the size has been seen to fit on all processes, so that they need not ask."""
        return self.overlap and self.agreed == self.size and self.fitted >= PROVEN

    @property
    def settled(self) -> bool:
        """Whether the last micro-batch exchanges gradients as they come."""
        return not self.can_retry or self.proven

    def settle(self, size: int) -> None:
        """Go on with the smallest size of all processes, with which all are done."""
        self.fitted = self.fitted + 1 if size == self.agreed else 1
        self.agreed = self.size = size

    def run(self, work: Callable[[int], T]) -> T:
        """The result of work(size), computed again at half the size whenever memory runs out.

        `work` computes in micro-batches of `size`, with the same result for any size.
        TrainingError where one sequence does not fit.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1 or self.settled:
                    raise too_many(self.size) from None
            # outside the handler, whose traceback holds what is to be freed
            self.size = halved(self.size)

    def part(self, work: Callable[..., T], *batch: torch.Tensor) -> T:
        """The result of work(*batch), a micro-batch of what `run` computes."""
        return work(*batch)


def return_freed() -> None:
    """Return to the system what was freed: allocators keep it, as device.tune_process asks glibc's
    to do, wherever it lies between what is in use.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def too_many(size: int) -> TrainingError:
    """What ends a run whose memory has run out for good."""
    return TrainingError(
        f"out of memory with {size} sequences at once",
        "Lower batch_size, block_size or the model's size",
    )


def halved(size: int) -> int:
    """Half of it, after memory has run out; gives back what nothing refers to, and warns."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn(f"out of memory: going on with {size // 2} at once", stacklevel=3)
    return size // 2


def recompute(blocks: Iterable[torch.nn.Module]) -> None:
    """Let blocks keep their inputs alone for the backward pass, which computes the rest again.

    arXiv:1604.06174. Losses and gradients stay as they are, bit for bit, dropout included.
    """
    for block in blocks:
        block.forward = functools.partial(recomputed, block.forward)


def recomputed(forward: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
    """The result of a forward pass whose activations are computed again where they are needed."""
    if not torch.is_grad_enabled():
        return forward(*args)
    from torch.utils.checkpoint import checkpoint

    return checkpoint(forward, *args, use_reentrant=False)


def available() -> float:
    """Bytes of main memory that this process can take, as far as the system says; else infinite.

    In containers and jobs that is what the limits of all cgroups around the process leave.
    """
    free = [math.inf]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        free.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError):
        groups = Path("/proc/self/cgroup").read_text("utf-8", errors="surrogateescape")
        for _, controllers, path in (line.split(":", 2) for line in groups.splitlines()):
            if controllers == "":  # version 2
                free += left_by(Path("/sys/fs/cgroup"), path, "max", "current", "")
            elif "memory" in controllers.split(","):
                root = Path("/sys/fs/cgroup/memory")
                free += left_by(root, path, "limit_in_bytes", "usage_in_bytes", "total_")
    return max(0.0, min(free))


def free(device: torch.device) -> float:
    """Bytes that this process can take on a device, beside its like on the same machine."""
    if device.type != "cuda":
        return available() / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def left_by(root: Path, path: str, limit: str, used: str, prefix: str) -> Iterator[float]:
    """Bytes that the cgroup at `path`, and each one above it, leaves below its limit.

    A cgroup's usage counts the page cache, which the kernel gives up before it refuses memory: as
    in MemAvailable, files and reclaimable slabs are free. memory.stat has them after `prefix`.
    """
    group = root / path.strip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        # "max" is not a number; a container may not see the path that its host knows
        with contextlib.suppress(OSError, ValueError):
            bound, usage = (int((folder / f"memory.{n}").read_text("ascii")) for n in (limit, used))
            with contextlib.suppress(OSError, ValueError):
                rows = (folder / "memory.stat").read_text("ascii").splitlines()
                stat = dict(row.split() for row in rows)
                usage -= sum(int(stat.get(prefix + name, 0)) for name in RECLAIMABLE)
            yield bound - max(0, usage)
