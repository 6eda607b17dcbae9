"""A step of AdamW, and the norm of gradients, in the compiled core."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bardlet import native
from bardlet.system.sharding import is_sharded


class Moments(ctypes.Structure):
    """The struct of that name in native/src/adamw.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "mean", "square", "steps")),
        ("size", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("decay", "scale")),
    )


class Rule(ctypes.Structure):
    """AdamRule in native/src/adamw.h."""

    _fields_ = tuple((name, ctypes.c_double) for name in ("rate", "beta1", "beta2", "eps"))


def fits(tensors: Iterable[Tensor]) -> bool:
    """Whether the core can step these parameters, or take the norm of such gradients."""
    return native.library() is not None and all(
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.is_contiguous()
        and tensor.numel() % native.UNIT == 0
        and not is_sharded(tensor)
        for tensor in tensors
    )


def steps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the core takes an optimizer's steps: those of a plain AdamW."""
    return (
        isinstance(optimizer, torch.optim.AdamW)
        and not any(group["amsgrad"] or group["maximize"] for group in optimizer.param_groups)
        and fits(p for group in optimizer.param_groups for p in group["params"])
    )


def step(optimizer: Any) -> bool:
    """Take the step of optim.AdamW, its gradients multiplied by its `scale`, which is 1 afterwards.

    Returns False where the core cannot, and nothing has moved.
    """
    if not steps(optimizer):
        return False
    scale, optimizer.scale = optimizer.scale, 1.0
    for group in optimizer.param_groups:
        params, grads, means, squares, counts = ([] for _ in range(5))
        optimizer._init_group(group, params, grads, means, squares, [], counts)
        decay = 1 - group["lr"] * group["weight_decay"]
        items = (Moments * len(params))(
            *(
                Moments(*map(native.pointer, each), each[0].numel(), decay, scale)
                for each in zip(params, grads, means, squares, counts, strict=True)
            )
        )
        rule = Rule(group["lr"], *group["betas"], group["eps"])
        native.core().bardlet_adamw(items, len(items), ctypes.byref(rule), native.threads())
    return True


def norm(grads: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, (,) float32."""
    items = (Moments * len(grads))(
        *(Moments(gradient=native.pointer(g), size=g.numel()) for g in grads)
    )
    result = ctypes.c_double()
    native.core().bardlet_norm(items, len(items), native.threads(), ctypes.byref(result))
    return torch.tensor(result.value, dtype=torch.float32)
