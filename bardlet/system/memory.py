"""Going on with less when memory runs out: the same work in smaller pieces."""

from __future__ import annotations

import contextlib
import gc
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from bardlet.errors import TrainingError

T = TypeVar("T")
WORDS = ("out of memory", "not enough memory", "can't allocate", "cannot allocate memory")


class Pieces:
    """How many sequences are computed at once: as many as asked, halved when memory runs out."""

    def __init__(
        self, size: int, *, alone: bool = True, tell: Callable[[int], object] = lambda size: None
    ) -> None:
        """`alone`: no other process waits for this one's part, so that it can be begun again.

        `tell` is called with the new size after each halving.
        """
        self.size, self.alone, self.tell = size, alone, tell

    def fit(self, work: Callable[[int], T]) -> T:
        """work(size), begun again at half the size as often as memory runs out.

        `work` computes in pieces of `size` what comes to the same for any. TrainingError where
        one sequence is too much.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                if self.size == 1 or not self.alone:
                    raise TrainingError(
                        f"out of memory with {self.size} sequences at once",
                        "Lower batch_size, block_size or the model's size",
                    ) from None
            # outside the handler, whose traceback holds what is to be freed
            self.size //= 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(f"out of memory: going on with {self.size} at once", stacklevel=2)
            self.tell(self.size)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    text = str(error).lower()
    out = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return out or any(words in text for words in WORDS)


def available() -> float:
    """Bytes of main memory that this process can take, as far as the system says; else infinite."""
    free = [math.inf]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        free.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" is none
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{n}").read_text("ascii")) for n in ("max", "current"))
        free.append(limit - used)
    return min(free)
