"""What a run will take on GPUs that are not here: `bardlet plan CONFIG --nodes 8 --gpu h100`.

Nothing is measured: `scaling.py` computes all of it from published rates.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from bardlet.config import Auto, TrainConfig
from bardlet.data.dataset import mixture
from bardlet.errors import BardletError, UsageError
from bardlet.model import GPTConfig
from bardlet.planning import rates, scaling
from bardlet.planning.rates import Gpu
from bardlet.planning.scaling import Layout
from bardlet.training.expected import duration
from bardlet.training.resume import model_config

GPT2_VOCAB = 50304  # assumed where neither an option nor a dataset says it: nanoGPT's
USABLE = 0.92  # of a GPU's memory, beside CUDA, NCCL and what lies between allocations
SHARDS = ("none", "node", "full")
# the range of the published runs that the model was checked on (docs/scaling.md)
CHECKED_GPUS = 128
CHECKED_TOKENS = 8192  # of a micro-batch on a GPU, at least
GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The GPUs that a run is planned for."""

    gpu: Gpu
    nodes: int
    gpus_per_node: int
    network: float  # bytes/s of each GPU to other nodes
    price: float  # of a GPU-hour; 0: not asked for

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def plan(config: TrainConfig, cluster: Cluster) -> dict[str, Any]:
    """What a run takes on a cluster, as JSON values, with the layout that is fastest and fits.

    Raises UsageError where even one sequence does not fit, and for what the model does not cover.
    """
    taught = config.stages > 1 or config.distill_from
    if config.lora_rank or taught or config.objective != "lm":
        raise UsageError(
            "a plan for other machines does not cover lora_rank, stages, distill_from and "
            "objective=dpo", "Leave out --gpu: plan measures such a run here",
        )  # fmt: skip
    notes: list[str] = []
    vocab_size = config.vocab_size or known_vocab(config, notes)
    shape = model_config(config, vocab_size)
    if isinstance(config.batch_size, Auto):
        notes.append(f"batch_size=auto needs the GPU itself: {config.batch_size} is taken at most")
    sequences = config.sequences_per_iter
    share = math.ceil(sequences / cluster.gpus)
    if sequences % cluster.gpus:
        notes.append(
            f"{sequences:,} sequences a step are not equal shares for {cluster.gpus} GPUs: the "
            f"step takes as long as the GPUs with {share} of them"
        )
    options: list[dict[str, Any]] = []
    for away in (config.offload, True):  # which is slower, so it is for what fits no other way
        if not any(each["fits"] for each in options):
            options += [
                option(config, cluster, shape, share, kind, again, away)
                for kind in allowed_shards(cluster, config.shard)
                for again in ((True,) if config.recompute == "block" else (False, True))
            ]
    fitting = [each for each in options if each["fits"]]
    if not fitting:
        smallest = min(each["memory"]["total"] for each in options)
        raise UsageError(
            f"one sequence takes {smallest / GIGABYTE:,.0f} GB of a GPU at least, and "
            f"{cluster.gpu.name} has {cluster.gpu.memory / GIGABYTE:,.0f}",
            "Plan for more GPUs, a shorter --block_size or a smaller model",
        )
    best = min(fitting, key=lambda each: each["step_s"])
    tokens = sequences * config.block_size
    speed, flops = tokens / best["step_s"], scaling.flops_per_token(shape)
    seconds = config.max_iters * best["step_s"]
    gpu_hours = cluster.gpus * seconds / 3600
    notes += unchecked(cluster, best["batch_size"] * config.block_size)
    notes.append("evaluations, saves and restarts are not counted")
    return {
        "gpu": cluster.gpu.name, "nodes": cluster.nodes, "gpus": cluster.gpus,
        "parameters": scaling.parameters(shape), "vocab_size": vocab_size,
        "iterations": config.max_iters, "tokens_per_iter": tokens,
        "tokens": config.max_iters * tokens, "flops": config.max_iters * tokens * flops,
        **best, "tokens_per_s": speed, "tokens_per_s_per_gpu": speed / cluster.gpus,
        "mfu": speed * flops / cluster.gpus / cluster.gpu.peak,
        "hours": seconds / 3600, "gpu_hours": gpu_hours,
        "cost": gpu_hours * cluster.price if cluster.price else None,
        "available": USABLE * cluster.gpu.memory, "options": options, "notes": notes,
    }  # fmt: skip


def unchecked(cluster: Cluster, tokens: int) -> list[str]:
    """What of a plan no published run stands behind; `tokens` are of a GPU's micro-batch."""
    notes = []
    if cluster.gpu.estimated:
        notes.append(f"estimated of {cluster.gpu.name}: {cluster.gpu.estimated}")
    if cluster.gpus > CHECKED_GPUS:
        notes.append(f"the model was checked on runs of {CHECKED_GPUS} GPUs at most")
    if tokens < CHECKED_TOKENS:
        notes.append(
            f"a GPU has {tokens:,} tokens at a time and the model was checked on "
            f"{CHECKED_TOKENS:,} and more: small products and messages are slower than this says"
        )
    return notes


def known_vocab(config: TrainConfig, notes: list[str]) -> int:
    """The vocabulary of the run's dataset, or GPT-2's where the dataset is not here."""
    try:
        return mixture.opened(config.dataset).vocab_size
    except BardletError:
        notes.append(
            f"the dataset {config.dataset} is not here: a vocabulary of {GPT2_VOCAB:,} is assumed, "
            "--vocab_size says it"
        )
        return GPT2_VOCAB


def allowed_shards(cluster: Cluster, asked: str) -> tuple[str, ...]:
    """The values of `shard` that mean something there, or the one that was asked for."""
    if cluster.gpus == 1:
        return SHARDS[:1]
    if asked != "none":
        return (asked,)
    return SHARDS if 1 < cluster.gpus_per_node < cluster.gpus else ("none", "full")


def option(
    config: TrainConfig,
    cluster: Cluster,
    shape: GPTConfig,
    share: int,
    shard: str,
    again: bool,
    away: bool,
) -> dict[str, Any]:
    """One way to lay the run out, with the largest micro-batch that fits, the configured at most.

    It is halved as training halves it where memory runs out; tokens in a step stay the same.
    """
    layout = Layout(
        gpus=cluster.gpus, per_node=cluster.gpus_per_node, network=cluster.network, shard=shard,
        recompute=float(again), sequences=share, batch_size=min(config.batch_size, share),
        optimizer=config.optimizer, offload=away,
        fused_blocks=config.compile is not False and shard == "none",
        gather_bytes=4, summed_once=True,  # as system/sharding.py has it
    )  # fmt: skip
    room = USABLE * cluster.gpu.memory
    held = scaling.memory(shape, layout)
    while held.total > room and layout.batch_size > 1:
        layout = dataclasses.replace(layout, batch_size=math.ceil(layout.batch_size / 2))
        held = scaling.memory(shape, layout)
    step = scaling.step(shape, cluster.gpu, layout)
    inside, outside = scaling.sent(shape, layout)
    return {
        "shard": shard, "recompute": "block" if again else "none",
        "offload": away,
        "batch_size": layout.batch_size, "micro_batches": layout.micro_batches,
        "step_s": step.seconds, "step": dataclasses.asdict(step),
        "memory": {**dataclasses.asdict(held), "total": held.total}, "fits": held.total <= room,
        "sent_in_node_bytes": inside, "sent_between_nodes_bytes": outside,
        "main_memory_bytes": scaling.states(shape, layout) if away else 0,
        "bus_bytes": scaling.crossing(shape, layout),
    }  # fmt: skip


def describe(planned: dict[str, Any], price: float) -> str:
    """A plan for people."""
    step, held = planned["step"], planned["memory"]
    parts = ", ".join(f"{name} {1000 * value:,.1f}" for name, value in step.items())
    sizes = ", ".join(f"{name} {held[name] / GIGABYTE:,.1f}" for name in held if name != "total")
    nodes = f" in {planned['nodes']:,} nodes" if planned["nodes"] > 1 else ""
    sent = f"{planned['sent_in_node_bytes'] / GIGABYTE:,.2f} GB within the node"
    if planned["nodes"] > 1:
        sent += f", {planned['sent_between_nodes_bytes'] / GIGABYTE:,.2f} GB to others"
    if planned["offload"]:
        sent += (
            f"; {planned['bus_bytes'] / GIGABYTE:,.2f} GB to and from main memory, which holds "
            f"{planned['main_memory_bytes'] / GIGABYTE:,.1f} GB for each GPU"
        )
    lines = [
        f"parameters   {planned['parameters'] / 1e6:,.1f}M, vocabulary {planned['vocab_size']:,}",
        f"machines     {planned['gpus']:,} {planned['gpu']}{nodes}, by published rates: nothing "
        "is measured",
        f"layout       shard={planned['shard']}, recompute={planned['recompute']}, "
        f"{'offload, ' if planned['offload'] else ''}"
        f"{planned['micro_batches']} micro-batches of {planned['batch_size']} on each GPU",
        f"training     {planned['iterations']:,} iterations of {planned['tokens_per_iter']:,} "
        f"tokens, {planned['tokens']:,} tokens, {planned['flops']:.3g} FLOPs",
        f"step         {1000 * planned['step_s']:,.1f} ms: {parts}",
        f"speed        {planned['tokens_per_s']:,.0f} tokens/s, "
        f"{planned['tokens_per_s_per_gpu']:,.0f} of each GPU, MFU {planned['mfu']:.1%}",
        f"memory       {held['total'] / GIGABYTE:,.1f} of {planned['available'] / GIGABYTE:,.1f} "
        f"GB of a GPU: {sizes}",
        f"sent         by each GPU in a step: {sent}",
        f"time         {duration(3600 * planned['hours'])}, {planned['gpu_hours']:,.1f} GPU-hours",
    ]
    if planned["cost"] is not None:
        lines.append(f"cost         {planned['cost']:,.0f} at {price:g} a GPU-hour")
    for each in planned["options"]:
        room = "fits" if each["fits"] else "does not fit"
        away = " offload" if each["offload"] else ""
        lines.append(
            f"  shard={each['shard']:<4} recompute={each['recompute']:<5}{away} {room}: "
            f"{each['memory']['total'] / GIGABYTE:,.1f} GB, {1000 * each['step_s']:,.1f} ms"
        )
    return "\n".join([*lines, *(f"note         {text}" for text in planned["notes"])])


def cluster_of(gpu: str, nodes: int, gpus_per_node: int, network: float, price: float) -> Cluster:
    """The cluster of a command's options; UsageError names all that are out of range."""
    wrong = [
        f"{name}={value} must be from {low} to {high}"
        for name, value, low, high in (
            ("nodes", nodes, 1, 4096), ("gpus_per_node", gpus_per_node, 1, 72),
            ("network", network, 0.1, 10_000), ("price", price, 0, 10_000),
        )
        if not low <= value <= high
    ]  # fmt: skip
    if wrong:
        raise UsageError("; ".join(wrong), "A plan for one GPU has --nodes 1 --gpus_per_node 1")
    return Cluster(
        gpu=rates.find(gpu), nodes=nodes, gpus_per_node=gpus_per_node, network=network / 8 * 1e9,
        price=price,
    )  # fmt: skip
