"""torch's optimizers without what it wraps around their methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bardlet.system.offload import Offload


def plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch's optimizers without what it wraps around it for torch.compile.

    The first call of a wrapped one imports the whole compiler: a second, more than training's first
    steps take.
    """
    return getattr(method, "__wrapped__", method)


class Optimizer(torch.optim.Optimizer):
    """What Muon and AdamW have in common."""

    add_param_group = plain(torch.optim.Optimizer.add_param_group)
    zero_grad = plain(torch.optim.Optimizer.zero_grad)
    state_dict = plain(torch.optim.Optimizer.state_dict)
    offload: Offload | None = None  # where its state rests, if that is not the device
