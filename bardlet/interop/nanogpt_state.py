"""Half-done runs of nanoGPT: the iteration, options and AdamW state in its ckpt.pt, in and out.

AdamW's state is by number there: first what is decayed, then the rest, each in the order of the
model's parameters, which is ours. Early versions had them sorted by name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bardlet.config import coerce
from bardlet.interop import tensor_names
from bardlet.interop.verify import Moments
from bardlet.model import GPT, GPTConfig

# options that mean the same here and are of the run, not of the machine
OPTIONS = (
    "eval_interval", "eval_iters", "log_interval", "always_save_checkpoint", "wandb_project",
    "wandb_run_name", "batch_size", "gradient_accumulation_steps", "learning_rate", "max_iters",
    "weight_decay", "beta1", "beta2", "grad_clip", "decay_lr", "warmup_iters", "lr_decay_iters",
    "min_lr",
)  # fmt: skip
MAX_ITERS = 1 << 40
UNMEASURED = 1e9  # best_val_loss before the first evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run of nanoGPT is."""

    iter: int
    best_val_loss: float | None
    options: Mapping[str, Any]
    moments: Moments  # empty where the file has none that fit


def read(saved: Mapping[str, Any], config: GPTConfig) -> Progress:
    """What a ckpt.pt, whose content is `saved`, says beside its weights."""
    it = saved.get("iter_num")
    best = saved.get("best_val_loss")
    best = best.item() if isinstance(best, Tensor) and best.numel() == 1 else best
    best = best if isinstance(best, float) and math.isfinite(best) and best < UNMEASURED else None
    theirs = saved.get("config")
    options: dict[str, Any] = {}
    for name in OPTIONS:
        if isinstance(theirs, dict) and name in theirs:
            try:
                options[name] = coerce(name, theirs[name])
            except ValueError:
                continue
    if options:  # a file without them has no run to go on with
        options |= {**dataclasses.asdict(config), "optimizer": "adamw"}
    return Progress(
        iter=it if type(it) is int and 0 <= it < MAX_ITERS else 0,
        best_val_loss=best, options=options,
        moments=read_moments(saved.get("optimizer"), config),
    )  # fmt: skip


def ordered(shapes: Mapping[str, torch.Size]) -> list[str]:
    """The parameters in the order of AdamW's state: matrices, then vectors."""
    return sorted(shapes, key=lambda name: len(shapes[name]) < 2)


def read_moments(optimizer: Any, config: GPTConfig) -> Moments:
    """AdamW's state by parameter; empty where it is not that of this model."""
    shapes = tensor_names.shapes(config)
    try:
        state, groups = optimizer["state"], optimizer["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        entries = [state[number] for number in numbers]
        for names in (ordered(shapes), ordered(dict(sorted(shapes.items())))):
            if [entry["exp_avg"].shape for entry in entries] == [shapes[n] for n in names]:
                return {
                    name: fitting(entry, shapes[name])
                    for name, entry in zip(names, entries, strict=True)
                }
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError):
        pass
    return {}


def fitting(entry: Mapping[str, Any], shape: torch.Size) -> dict[str, Tensor]:
    """The state of one parameter, float32; ValueError where it has another shape."""
    tensors = {
        "exp_avg": entry["exp_avg"], "exp_avg_sq": entry["exp_avg_sq"],
        "step": torch.as_tensor(entry["step"]),
    }  # fmt: skip
    for name, tensor in tensors.items():
        if tensor.shape != (() if name == "step" else shape):
            raise ValueError(f"{name} has another shape")
    return {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}


def cropped(moments: Moments, block_size: int) -> Moments:
    """The state of a model of which the first positions are kept."""
    name = "transformer.wpe.weight"
    if name not in moments:
        return moments
    positions = {k: v[:block_size].clone() if v.dim() else v for k, v in moments[name].items()}
    return {**moments, name: positions}


def write(model: GPT, moments: Moments, options: Mapping[str, Any]) -> dict[str, Any]:
    """What nanoGPT's AdamW loads, for a model whose state is `moments`, or is still empty."""
    parameters = dict(model.named_parameters())
    names = ordered({name: p.shape for name, p in parameters.items()})
    decay = float(options.get("weight_decay", 0.1))
    optimizer = torch.optim.AdamW(
        [{"params": [parameters[n] for n in names if parameters[n].dim() >= 2],
          "weight_decay": decay},
         {"params": [parameters[n] for n in names if parameters[n].dim() < 2],
          "weight_decay": 0.0}],
        lr=float(options.get("learning_rate", 6e-4)),
        betas=(float(options.get("beta1", 0.9)), float(options.get("beta2", 0.95))),
    )  # fmt: skip
    state = {i: dict(moments[name]) for i, name in enumerate(names) if name in moments}
    return {**optimizer.state_dict(), "state": state}


def optimizer_of(model: GPT, moments: Moments) -> list[torch.optim.Optimizer]:
    """An AdamW with this state, for a checkpoint to be written; none where there is no state."""
    if not moments:
        return []
    optimizer = torch.optim.AdamW(model.parameters())
    for name, p in model.named_parameters():
        optimizer.state[p] = dict(moments[name])
    return [optimizer]
