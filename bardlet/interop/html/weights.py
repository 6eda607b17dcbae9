"""Weights as the page reads them (web/matrix.js): one tensor after another, rounded to a dtype."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from bardlet.errors import CheckpointError
from bardlet.interop import tensor_names
from bardlet.model import GPT

DTYPES = ("float32", "float16", "int8")
STEPS = 127  # of int8, on either side of zero


def cropped(model: GPT, vocab_size: int) -> GPT:
    """The model without the tokens at the end of its vocabulary that stand for no text."""
    if vocab_size == model.config.vocab_size:
        return model
    rows = ("transformer.wte.weight", "lm_head.weight")
    weights = {
        name: p.detach()[:vocab_size].clone() if name in rows else p.detach()
        for name, p in model.named_parameters()
    }
    config = dataclasses.replace(model.config, vocab_size=vocab_size)
    return tensor_names.build(config, weights).eval()


def packed(model: GPT, dtype: str) -> tuple[list[dict[str, Any]], bytes, GPT]:
    """What the page is told of its tensors, their bytes, and the model that these make.

    Vectors are float32. Matrices are `dtype`; int8 with a float32 scale for each row, its largest
    weight divided by 127. Floats come byte by byte, all lowest ones first, which gzip finds more
    in. CheckpointError for weights that float16 does not reach, or that are not finite.
    """
    table, parts, weights = [], [], {}
    for name, p in model.named_parameters():
        values = p.detach().numpy().reshape(-1, p.size(-1)).astype("<f4")
        kind = dtype if p.dim() > 1 else "float32"
        stored, rounded = encoded(values, kind)
        if not np.isfinite(rounded).all():
            wider = "Export as float32" if np.isfinite(values).all() else "Its training diverged"
            raise CheckpointError(f"{name} has weights that are not finite in {kind}", wider)
        rows, cols = values.shape
        table.append({"name": name, "rows": rows, "cols": cols, "dtype": kind})
        parts.append(stored)
        weights[name] = torch.from_numpy(rounded.reshape(p.shape))
    return table, b"".join(parts), tensor_names.build(model.config, weights).eval()


def encoded(values: np.ndarray, kind: str) -> tuple[bytes, np.ndarray]:
    """The bytes of a matrix (R, C) float32 in a dtype, and the values that these stand for."""
    if kind == "float32":
        return planes(values), values
    if kind == "float16":
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        return planes(halves), halves.astype(np.float32)
    scales = (np.abs(values).max(axis=1, initial=0) / np.float32(STEPS)).astype("<f4")  # (R,)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.nan_to_num(np.rint(values / scales[:, None]))
    steps = steps.clip(-STEPS, STEPS).astype(np.int8)
    return steps.tobytes() + planes(scales), steps * scales[:, None]


def planes(values: np.ndarray) -> bytes:
    """The bytes of numbers in little endian, all first bytes first, then all second ones."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).reshape(-1, flat.itemsize).T.tobytes()
