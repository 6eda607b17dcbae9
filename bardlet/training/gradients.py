"""The norm of an iteration's gradients, and clipping by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bardlet.native import adamw
from bardlet.optim import AdamW
from bardlet.system import sharding


def total_norm(params: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, over all processes that share them: (,)."""
    grads = [p.grad for p in params if p.grad is not None]
    if grads and (norm := adamw.norm(grads)) is not None:
        return norm
    return sharding.summed_over_all(torch.nn.utils.get_total_norm(grads))


def clip(
    params: Sequence[Tensor], optimizers: Sequence[torch.optim.Optimizer], max_norm: float,
    norm: Tensor,
) -> None:  # fmt: skip
    """Scale all gradients, whose norm is `norm`, down to `max_norm` where it is more.

    Where the core steps all of them, it scales them on the way.
    """
    if all(isinstance(each, AdamW) and each.by_core for each in optimizers):
        for each in optimizers:
            each.scale = min(1.0, (max_norm / (norm + 1e-6)).item())  # pyright: ignore
    else:
        params = [p for p in params if p.grad is not None]
        torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
