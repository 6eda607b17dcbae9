"""Addresses of tensors, as the compiled core gets them: checked, since it trusts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pointer(tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
    """The address of a tensor's numbers. ValueError where the core cannot read them there."""
    if tensor.device.type != "cpu" or tensor.dtype != dtype or not tensor.is_contiguous():
        layout = "contiguous" if tensor.is_contiguous() else "strided"
        raise ValueError(
            f"the core reads contiguous {dtype} on a CPU, not {layout} {tensor.dtype} on "
            f"{tensor.device}"
        )
    return tensor.data_ptr()


def pointers(tensors: Sequence[Tensor]) -> list[int]:
    """The addresses of float32 tensors, as `pointer` has them."""
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.dtype is torch.float32 and tensor.is_contiguous()):
            pointer(tensor)  # which says what is wrong
    return [tensor.data_ptr() for tensor in tensors]


class Places:
    """Where float32 tensors are that seldom move. All are checked when one has moved; those that
    were are held, so that nothing else comes to be there.
    """

    def __init__(self) -> None:
        self.addresses: list[int] = []
        self.held: list[Tensor] = []

    def moved(self, tensors: Sequence[Tensor]) -> bool:
        """Whether they are elsewhere than at the last call. Errors as of `pointer`."""
        if self.addresses == [tensor.data_ptr() for tensor in tensors]:
            return False
        self.addresses = pointers(tensors)
        self.held = [tensor.detach() for tensor in tensors]
        return True
