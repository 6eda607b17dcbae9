"""A step of Muon in the compiled core."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from bardlet import native

Coefficients = Sequence[tuple[float, float, float]]


class Matrix(ctypes.Structure):
    """The struct of that name in native/src/muon.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "momentum")),
        *((name, ctypes.c_int32) for name in ("rows", "columns")),
    )


class Rule(ctypes.Structure):
    """The struct of that name in native/src/muon.h."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("rate", "momentum", "decay", "min_norm")),
        ("coefficients", ctypes.c_void_p),
        ("iterations", ctypes.c_int32),
    )


def fits(weight: Tensor, rows: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether the core can step a parameter of stacked matrices, multiplying in `dtype`."""
    return (
        weight.device.type == "cpu"
        and native.library() is not None
        and weight.dtype == torch.float32
        and not any(size % native.UNIT for size in (weight.size(1), *rows))
        and (dtype == torch.float32 or bool(native.core().bardlet_bf16()))
    )


def step(
    matrices: Sequence[tuple[Tensor, Tensor, Tensor]], mine: Sequence[bool], *, rate: float,
    momentum: float, decay: float, coefficients: Coefficients, min_norm: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    """Move (weight, gradient, momentum) of each matrix, (m, n) float32 each, as optim.Muon does.

    Of matrices that are not `mine` only the momentum moves: another process steps them.
    `decay` is what remains of a weight; products are taken in `dtype`, norms in float32, and a
    matrix is divided by `min_norm` at least.
    """
    for each in matrices:
        if each[0].dim() != 2 or len({t.shape for t in each}) > 1:
            shapes = ", ".join(str(tuple(t.shape)) for t in each)
            raise ValueError(f"weight, gradient and momentum have shapes {shapes}, not one (m, n)")
    items = (Matrix * len(matrices))(
        *(Matrix(*map(native.pointer, each), *each[0].shape) for each in matrices)
    )
    for item, own in zip(items, mine, strict=True):
        item.weight = item.weight if own else None
    flat = [number for row in coefficients for number in row]
    numbers = (ctypes.c_float * len(flat))(*flat)
    address = ctypes.addressof(numbers)
    rule = Rule(rate, momentum, decay, min_norm, address, len(coefficients))
    native.in_scratch(
        native.core().bardlet_muon, items, len(items), ctypes.byref(rule), native.threads(),
        dtype == torch.bfloat16,
    )  # fmt: skip
