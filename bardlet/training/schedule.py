"""Learning rates: pure functions of the iteration, and where optimizers read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bardlet.config import TrainConfig


def learning_rate(config: TrainConfig, it: int) -> float:
    """The learning rate of iteration `it`, counted from 0.

    Both schedules rise linearly over `warmup_iters` and end at `min_lr` after `lr_decay_iters`
    (0: max_iters). "cosine" falls along half a cosine from the end of the warmup, as nanoGPT;
    "trapezoid" stays flat and falls linearly over the last `cooldown_frac` of the iterations.
    """
    peak, floor = config.learning_rate, config.min_lr
    if not config.decay_lr:
        return peak
    end = config.lr_decay_iters or config.max_iters
    if it < config.warmup_iters:
        return peak * (it + 1) / (config.warmup_iters + 1)
    if it >= end:
        return floor
    if config.schedule == "cosine":
        done = (it - config.warmup_iters) / (end - config.warmup_iters)  # in [0, 1)
        return floor + 0.5 * (1.0 + math.cos(math.pi * done)) * (peak - floor)
    left = (end - it) / max(1.0, config.cooldown_frac * end)  # 1 where the cooldown begins
    return floor + min(1.0, left) * (peak - floor)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], scale: float) -> None:
    """Set every group's rate to `scale` times its peak: all groups follow one schedule."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = group["peak_lr"] * scale
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def make_recordable(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Keep every group's rate where its parameters are, in a place that stays: a step that was
    recorded (gpu/graphs.py) reads it there when it is replayed.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
            if "capturable" in group:  # AdamW alone, which else cannot be recorded
                group["capturable"] = True
        # torch warns of steps that are not recorded, and some come before those that are
        optimizer._warned_capturable_if_run_uncaptured = True  # pyright: ignore
