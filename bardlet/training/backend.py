"""How a run computes its loss on its machine: by the core, compiled by torch, or as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bardlet.config import TrainConfig
from bardlet.io import terminal
from bardlet.model import GPT
from bardlet.native.training import NativeGPT, fits
from bardlet.system import device, distributed, memory
from bardlet.system.device import Machine

COMPILING = "compiling the model"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """How a run computes its loss."""

    forward: torch.nn.Module  # called as a GPT with targets; the logits may be None
    numerics: dict[str, Any]  # settings that change rounding
    name: str  # for people; empty for the model as it is
    peak_flops: Callable[[], float]  # FLOP/s that one process could reach this way


def place(model: GPT, config: TrainConfig, machine: Machine) -> None:
    """Put a model on the machine's device, with what its blocks are to recompute."""
    if config.recompute == "block":
        memory.recompute(model.get_submodule("transformer.h").children())
    model.to(machine.device)


def select(
    config: TrainConfig, model: GPT, machine: Machine, *, sequences: int, flops: float,
    processes: int, before: Mapping[str, Any],
) -> Backend:  # fmt: skip
    """The fastest way for iterations of so many FLOPs, in micro-batches of up to `sequences`.

    `processes` share each of them, which changes the order of sums and the masks of dropout.
    `before` is what the run has computed with up to here, for it to go on with.
    """
    forward: torch.nn.Module = model
    if wants_compile(config, model, machine, flops, before):
        idx = torch.zeros(sequences, config.block_size, dtype=torch.int64, device=machine.device)
        first = torch.zeros_like(idx) if config.doc_mask else None  # another graph
        if distributed.here().main:
            terminal.say(f"{COMPILING}, which takes up to some minutes")
        forward = device.try_compile(model, idx, machine, first)
    if forward is model and core_trains(config, model):
        forward = NativeGPT(model, machine.dtype)
    core = isinstance(forward, NativeGPT)
    compiled = forward is not model and not core
    return Backend(
        forward=forward, numerics={**machine.facts(), "core": core, "compiled": compiled,
                  "processes": processes},
        name="compiled core" if core else "compiled" if compiled else "",
        peak_flops=forward.peak_flops if isinstance(forward, NativeGPT) else machine.peak_flops,
    )  # fmt: skip


def wants_compile(
    config: TrainConfig, model: GPT, machine: Machine, flops: float, before: Mapping[str, Any]
) -> bool:
    """Whether to try torch.compile; a resumed run does as it did before, for equal rounding."""
    if config.eval_only:  # evaluation runs the model as it is
        return False
    if isinstance(config.compile, bool):
        return config.compile
    if "compiled" in before:
        return before["compiled"]
    pays = device.compile_pays(machine.device.type, flops * config.max_iters)
    return pays and not core_trains(config, model)  # which is faster


def core_trains(config: TrainConfig, model: GPT) -> bool:
    """Whether the compiled core computes the gradients; it keeps all activations."""
    return config.recompute == "none" and fits(model, training=True)
