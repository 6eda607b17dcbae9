"""How a run computes its loss on its machine: by the core, compiled by torch, or as it is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bardlet.config import TrainConfig
from bardlet.errors import UsageError
from bardlet.gpu import attention, compiling
from bardlet.gpu.compiling import Compilation, compilations
from bardlet.gpu.forward import on_gpu
from bardlet.gpu.graphs import Replay
from bardlet.io import terminal
from bardlet.model import GPT
from bardlet.native.training import NativeGPT, fits
from bardlet.system import device, distributed, memory, sharding
from bardlet.system.device import Machine
from bardlet.system.distributed import Group

COMPILING = "compiling the model"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """How a run computes its loss."""

    forward: torch.nn.Module  # called as a GPT with targets; the logits may be None
    numerics: dict[str, Any]  # settings that change rounding
    name: str  # for people; empty for the model as it is
    peak_flops: Callable[[], float]  # FLOP/s that one process could reach this way
    replay: Replay | None = None  # of iterations that are recorded, where they are


def place(model: GPT, config: TrainConfig, group: Group, machine: Machine) -> None:
    """Put a model where it is computed: on the machine's device, or as `shard` shares it out."""
    blocks = list(model.get_submodule("transformer.h").children())
    if config.recompute == "block":
        memory.recompute(blocks)
    if config.shard == "none" or group.world_size == 1:
        model.to(machine.device)
    else:
        check_shard(config, group.world_size)
        sharding.shard(model, blocks, config.shard, group.world_size, machine.device)


def check_shard(config: TrainConfig, processes: int) -> None:
    """Raise UsageError where a sharded model cannot do what a run asks for.

    Every process gathers weights in every forward pass, so all must make equally many.
    """
    asked = f"shard={config.shard}"
    if config.sample_interval:
        raise UsageError(
            f"{asked}: sample_interval={config.sample_interval} needs the whole model in a process",
            "Leave it out, and sample the run's checkpoints",
        )
    if config.compile is True:
        raise UsageError(f"{asked}: compile=true is not there for it", "Leave it out")
    even = processes // math.gcd(processes, config.batch_size)
    steps = config.gradient_accumulation_steps
    if config.sequences_per_iter % processes:
        near = sorted({max(even, steps // even * even), (steps // even + 1) * even})
        raise UsageError(
            f"{asked} needs as many sequences on each process: {config.batch_size} x {steps} are "
            f"not a multiple of {processes}",
            f"Give --gradient_accumulation_steps={' or '.join(map(str, near))}",
        )


def select(
    config: TrainConfig, model: GPT, machine: Machine, *, sequences: int, flops: float,
    processes: int, before: Mapping[str, Any],
) -> Backend:  # fmt: skip
    """The fastest way for iterations of so many FLOPs, in micro-batches of up to `sequences`.

    `processes` share each of them, which changes the order of sums and the masks of dropout.
    `before` is what the run has computed with up to here, for it to go on with.
    """
    logits = bool(config.distill_from) or config.objective != "lm"  # a loss of more than targets
    plain = forward = on_gpu(model, machine.device, sequences, logits=logits)
    name = ""
    if wants_compile(config, model, machine, flops, before):
        idx = torch.zeros(sequences, config.block_size, dtype=torch.int64, device=machine.device)
        masked = config.doc_mask and config.objective == "lm"
        first = torch.zeros_like(idx) if masked else None  # another graph
        if distributed.here().main:
            terminal.say(f"{COMPILING}, which takes up to some minutes")
        ways = compilations(machine.device.type, flops * config.max_iters)
        if config.objective != "lm":  # whose batches are of many lengths: one graph holds for few
            ways = [Compilation()]
        forward, name = compiled(model, ways, idx, machine, first, logits) or (plain, "")
    if forward is plain and core_trains(config, model):
        forward = NativeGPT(model, machine.dtype)
    core = isinstance(forward, NativeGPT)
    alone = processes == config.gradient_accumulation_steps == 1
    replays = (
        alone and compiling.records(machine.device.type, flops) and recordable(config, machine)
    )
    way = "compiled core" if core else name
    return Backend(
        forward=forward, numerics={**machine.facts(), "core": core, "compiled": bool(name),
                  "processes": processes},
        name=", ".join(filter(None, (way, "CUDA graphs" if replays else ""))),
        peak_flops=forward.peak_flops if isinstance(forward, NativeGPT) else machine.peak_flops,
        replay=Replay() if replays else None,
    )  # fmt: skip


def recordable(config: TrainConfig, machine: Machine) -> bool:
    """Whether an iteration is the same kernels every time, and none of them waits for the host.

    Pairs are of many lengths, a step that may be skipped is judged first, what is computed again
    asks for the state of random numbers, and state that rests in main memory comes and goes.
    """
    judged = config.skip_spikes or machine.dtype == torch.float16
    usual = config.objective == "lm" and config.recompute == "none" and not config.offload
    return usual and not judged and not config.eval_only


def compiled(
    model: GPT, ways: Sequence[Compilation], idx: torch.Tensor, machine: Machine,
    first: torch.Tensor | None, logits: bool,
) -> tuple[torch.nn.Module, str] | None:  # fmt: skip
    """The model compiled in the first way that works, and the way's name; None where none does.

    Document masks are tried by FlexAttention's kernels before the dense ones. Where memory runs
    out, half the sequences are tried.
    """
    kernels = [] if first is None else attention.kernels(
        machine.device, machine.dtype, model.config.head_size
    )  # fmt: skip
    micro_batcher = memory.MicroBatcher(len(idx))
    for blocks in (*kernels, None):
        fast = on_gpu(model, machine.device, len(idx), logits=logits, blocks=blocks)
        if blocks and getattr(fast, "blocks", None) != blocks:
            continue
        # kernels that are not torch's own work or not, however the rest is compiled
        for way in ways[:1] if blocks and blocks.flash else ways:
            name = ", ".join(filter(None, (way.name, blocks.name if blocks else "")))
            attempt = functools.partial(compiled_for, fast, idx, first, machine, name, way)
            forward = micro_batcher.run(attempt)
            if forward is not fast:
                return forward, name
    return None


def compiled_for(
    model: torch.nn.Module, idx: torch.Tensor, first: torch.Tensor | None, machine: Machine,
    name: str, way: Compilation, size: int,
) -> torch.nn.Module:  # fmt: skip
    """The model compiled for `size` of the sequences, or the model itself where that fails."""
    first = None if first is None else first[:size]
    return device.try_compile(model, idx[:size], machine, first, name, **way.options)


def wants_compile(
    config: TrainConfig, model: GPT, machine: Machine, flops: float, before: Mapping[str, Any]
) -> bool:
    """Whether to try torch.compile; a resumed run does as it did before, for equal rounding."""
    if config.eval_only or sharding.is_sharded(model):  # evaluation runs the model as it is
        return False
    if isinstance(config.compile, bool):
        return config.compile
    if "compiled" in before:
        return before["compiled"]
    if config.objective != "lm":  # whose batches are of many lengths, each compiled anew
        return False
    pays = device.compile_pays(machine.device.type, flops * config.max_iters)
    return pays and not core_trains(config, model)  # which is faster


def core_trains(config: TrainConfig, model: GPT) -> bool:
    """Whether the compiled core computes the gradients; it keeps all activations, and computes mean
    losses only, no log-probability of a sequence.
    """
    wanted = config.recompute == "none" and config.objective == "lm"
    return wanted and fits(model, training=True)
