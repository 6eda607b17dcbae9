"""Blocks of gradients that are taken again and again, and lie where they lay."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

ALIGNED = 16  # numbers: a cache line


class Block:
    """A block of float32 that is taken again once nothing refers to it any more.

    Freed and asked for anew in each iteration, a block of many megabytes comes to lie elsewhere now
    and then, since smaller things are put where it was: two of them have cost as much as two more.
    """

    def __init__(self) -> None:
        self.numbers = np.empty(0, dtype=np.float32)

    def take(self, size: int) -> Tensor:
        """`size` numbers of any values, which are the caller's and those of its views."""
        # a tensor holds the array that it was made of: else this object does alone
        if len(self.numbers) != size or sys.getrefcount(self.numbers) > 2:
            whole = np.empty(size + ALIGNED, dtype=np.float32)
            first = -(whole.ctypes.data // 4) % ALIGNED
            self.numbers = whole[first : first + size]
        return torch.from_numpy(self.numbers)
