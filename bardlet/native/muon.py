"""A step of Muon in the compiled core."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bardlet import native
from bardlet.native.addresses import pointers

Coefficients = Sequence[tuple[float, float, float]]


# the struct of that name in native/src/muon.h
MATRIX = np.dtype(
    [("weight", "u8"), ("gradient", "u8"), ("momentum", "u8"), ("rows", "i4"), ("columns", "i4")]
)


class Rule(ctypes.Structure):
    """The struct of that name in native/src/muon.h."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("rate", "momentum", "decay", "min_norm")),
        ("coefficients", ctypes.c_void_p),
        ("iterations", ctypes.c_int32),
    )


def fits(weights: Sequence[Tensor], rows: Sequence[Sequence[int]], dtype: torch.dtype) -> bool:
    """Whether the core can step parameters of stacked matrices, multiplying in `dtype`."""
    return (
        native.library() is not None
        and all(w.is_cpu and w.dtype is torch.float32 for w in weights)
        and not any(w.size(1) % native.UNIT for w in weights)
        and not any(height % native.UNIT for each in rows for height in each)
        and (dtype == torch.float32 or bool(native.core().bardlet_bf16()))
    )


@functools.lru_cache(maxsize=16)
def layout(
    rows: tuple[tuple[int, ...], ...], columns: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The MATRIX of each matrix, without addresses, the number of the parameter that it is stacked
    in, and the bytes before it there; of parameters with so many rows in each, and columns.
    """
    stack = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    matrices = np.zeros(len(stack), MATRIX)
    matrices["rows"] = [height for each in rows for height in each]
    matrices["columns"] = np.array(columns, int)[stack]
    begins = [sum(each[:i]) for each in rows for i in range(len(each))]
    return matrices, stack, 4 * np.array(begins, np.uint64) * matrices["columns"].astype(np.uint64)


def step(
    weights: Sequence[Tensor], grads: Sequence[Tensor], momenta: Sequence[Tensor],
    rows: Sequence[Sequence[int]], mine: Sequence[bool], *, rate: float, momentum: float,
    decay: float, coefficients: Coefficients, min_norm: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    """Move parameters of stacked matrices, (m, n) float32 each, as optim.Muon does.

    `rows` has the row counts of the matrices in each, which is all of its rows. Of matrices that
    are not `mine` only the momentum moves: another process steps them. `decay` is what remains of a
    weight; products are taken in `dtype`, norms in float32, and a matrix is divided by `min_norm`
    at least.
    """
    shapes = [w.shape for w in weights]
    heights = zip(shapes, rows, strict=True)
    if any(len(shape) != 2 or sum(each) != shape[0] for shape, each in heights):
        raise ValueError(f"{shapes} are not matrices of {rows} rows")
    if not shapes == [g.shape for g in grads] == [m.shape for m in momenta]:
        raise ValueError(f"gradients and momenta have other shapes than weights: {shapes}")
    empty, stack, begins = layout(tuple(map(tuple, rows)), tuple(shape[1] for shape in shapes))
    items = empty.copy()
    for name, tensors in (("weight", weights), ("gradient", grads), ("momentum", momenta)):
        items[name] = np.array(pointers(tensors), np.uint64)[stack] + begins
    items["weight"] *= np.array(mine, np.uint64)  # null: not to be stepped
    flat = [number for row in coefficients for number in row]
    numbers = (ctypes.c_float * len(flat))(*flat)
    address = ctypes.addressof(numbers)
    rule = Rule(rate, momentum, decay, min_norm, address, len(coefficients))
    native.in_scratch(
        native.core().bardlet_muon, items.ctypes.data, len(items), ctypes.byref(rule),
        native.threads(), dtype == torch.bfloat16,
    )  # fmt: skip
