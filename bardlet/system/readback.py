"""Numbers that a device has yet to compute, on their way to the host."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """A copy of a device's numbers, which is read later than it is asked for.

    On CUDA the copy is queued behind what computes the numbers: reading waits for that much, and
    not for what was queued since.
    """

    def __init__(self, values: Tensor) -> None:
        self.host, self.copied = values, None
        if values.is_cuda:
            self.host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.host.copy_(values, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The numbers, as soon as they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.host.tolist()
