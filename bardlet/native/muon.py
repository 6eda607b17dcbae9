"""Muon's Newton-Schulz iterations in the compiled core."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from bardlet import native


def fits(x: Tensor) -> bool:
    """Whether the core can work on matrices (N, m, n) like these."""
    formats = (torch.bfloat16, torch.float32)
    on_cpu = x.device.type == "cpu" and x.dtype in formats and native.library() is not None
    if not on_cpu or any(size % native.UNIT for size in x.shape[1:]):
        return False
    return x.dtype == torch.float32 or bool(native.core().bardlet_bf16())


def newton_schulz(x: Tensor, coefficients: Sequence[tuple[float, float, float]]) -> None:
    """What optim.newton_schulz iterates, in place on contiguous x (N, m, n), m <= n."""
    flat = [number for row in coefficients for number in row]
    arguments = (
        native.pointer(x), *x.shape, (ctypes.c_float * len(flat))(*flat), len(coefficients),
        torch.get_num_threads(), int(x.dtype == torch.bfloat16),
    )  # fmt: skip
    orthogonalise = native.core().bardlet_orthogonalise
    orthogonalise(*arguments, native.scratch.of(orthogonalise(*arguments, None)))
