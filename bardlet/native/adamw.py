"""A step of AdamW, and the norm of gradients, in the compiled core."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bardlet import native
from bardlet.native.addresses import Places, pointers
from bardlet.system.sharding import is_sharded

# the struct of that name in native/src/adamw.h
MOMENTS = np.dtype(
    [
        *((name, "u8") for name in ("weight", "gradient", "mean", "square", "steps")),
        ("size", "i8"), ("decay", "f4"), ("scale", "f4"),
    ]
)  # fmt: skip


class Rule(ctypes.Structure):
    """AdamRule in native/src/adamw.h."""

    _fields_ = tuple((name, ctypes.c_double) for name in ("rate", "beta1", "beta2", "eps"))


def fits(tensors: Sequence[Tensor]) -> bool:
    """Whether the core can step these parameters, or take the norm of such gradients."""
    return (
        native.library() is not None
        and all(
            t.is_cpu and t.dtype is torch.float32 and t.is_contiguous()
            and not t.numel() % native.UNIT
            for t in tensors
        )
        and not (tensors and is_sharded(tensors[0]))  # all are alike
    )  # fmt: skip


def steps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the core takes an optimizer's steps: those of a plain AdamW."""
    return (
        isinstance(optimizer, torch.optim.AdamW)
        and not any(group["amsgrad"] or group["maximize"] for group in optimizer.param_groups)
        and fits([p for group in optimizer.param_groups for p in group["params"]])
    )


class Table:
    """What the core is told of a group's parameters, and of their state."""

    def __init__(self) -> None:
        self.places, self.items = Places(), np.zeros(0, MOMENTS)

    def of(self, params: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]]) -> np.ndarray:
        """MOMENTS of each, but for gradients and factors. ValueError where the core cannot read a
        tensor, or it has another size than its parameter.
        """
        columns = {
            "weight": params, "mean": [state["exp_avg"] for state in states],
            "square": [state["exp_avg_sq"] for state in states],
        }  # fmt: skip
        steps = [state["step"] for state in states]
        if self.places.moved([*itertools.chain(*columns.values(), steps)]):
            self.items = np.zeros(len(params), MOMENTS)
            self.items["size"] = sizes = [p.numel() for p in params]
            self.items["steps"] = pointers(steps)
            for name, tensors in columns.items():
                if [tensor.numel() for tensor in tensors] != sizes:
                    raise ValueError(f"{name}: sizes differ from the parameters' {sizes}")
                self.items[name] = pointers(tensors)
        return self.items


def step(optimizer: Any, tables: Sequence[Table]) -> None:
    """Take the step of optim.AdamW, its gradients multiplied by its `scale`, which is 1 afterwards.

    Groups that differ in their decay alone are stepped in one call. `tables` are kept between
    steps, as many as there are groups.
    """
    scale, optimizer.scale = optimizer.scale, 1.0
    alike = itertools.groupby(
        optimizer.param_groups, lambda group: (group["lr"], *group["betas"], group["eps"])
    )
    for (rule, groups), table in zip(alike, tables, strict=False):
        params, decays = [], []
        for group in groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not all(optimizer.state[p] for p in moved):  # before the first step
                optimizer._init_group(group, *([] for _ in range(6)))
            params += moved
            decays += [1 - group["lr"] * group["weight_decay"]] * len(moved)
        items = table.of(params, [optimizer.state[p] for p in params])
        items["gradient"] = pointers([p.grad for p in params])
        items["decay"], items["scale"] = decays, scale
        native.core().bardlet_adamw(
            items.ctypes.data, len(items), ctypes.byref(Rule(*rule)), native.threads()
        )


def norm(grads: Sequence[Tensor]) -> Tensor | None:
    """The norm of all gradients together, (,) float32; None where the core cannot take it."""
    if not fits(grads):
        return None
    items = np.zeros(len(grads), MOMENTS)
    items["gradient"] = [g.data_ptr() for g in grads]
    items["size"] = [g.numel() for g in grads]
    result = ctypes.c_double()
    native.core().bardlet_norm(
        items.ctypes.data, len(items), native.threads(), ctypes.byref(result)
    )
    return torch.scalar_tensor(result.value, dtype=torch.float32)
