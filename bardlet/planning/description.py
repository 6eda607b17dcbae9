"""A plan in words: what a run takes of memory, time and disk, in a line each."""

from __future__ import annotations

from typing import Any

from bardlet.config import TrainConfig
from bardlet.training.expected import duration
from bardlet.training.preferences import DPO

MEGABYTE = 1e6


def describe(config: TrainConfig, planned: dict[str, Any]) -> str:
    """A plan for people."""
    epochs = f", {planned['epochs']:.2f} epochs" if planned["epochs"] is not None else ""
    how = ""
    if "device" in planned:
        core = ", compiled core" if planned["core"] else ", compiled" if planned["compiled"] else ""
        how = f"{planned['device']}, {planned['dtype']}{core}"
    of_what = "pairs" if config.objective == DPO else f"sequences of {config.block_size}"
    lines = [
        f"parameters   {planned['parameters']:,}, vocabulary {planned['vocab_size']:,}",
        f"batches      {planned['batch_size']} x {planned['gradient_accumulation_steps']} "
        f"{of_what}: {planned['tokens_per_iter']:,} tokens an iteration",
        f"training     {planned['iterations']:,} iterations, {planned['tokens']:,} tokens{epochs}, "
        f"{planned['flops']:.3g} FLOPs",
    ]
    sizes = planned["memory"]
    names = ("weights", "gradients", "optimizer", "logits", "activations", "process")
    names += tuple(name for name in ("teachers", "reference") if sizes[name])
    parts = ", ".join(f"{n} {sizes[n] / MEGABYTE:,.0f}" for n in names if n in sizes)
    lines.append(f"memory       {total(sizes, 'available')}: {parts}")
    if sizes["offloaded"]:
        size = sizes["offloaded"] / MEGABYTE
        lines.append(f"offload      {size:,.0f} MB in main memory, {2 * size:,.0f} moved in a step")
    times = planned["time"]
    if times["total_s"] is not None:
        lines.append(
            f"time         {duration(times['total_s'])} on {how}: start {times['start_s']:.1f} s, "
            f"{1000 * times['iteration_s']:.1f} ms an iteration, "
            f"{times['evaluations']} evaluations {times['evaluations_s']:.1f} s, "
            f"{times['saves']} saves {times['saves_s']:.1f} s"
        )
    if "chain_s" in times:
        lines.append(f"stages       {config.stages}, {duration(times['chain_s'])} in all")
    disk = planned["disk"]
    lines.append(
        f"disk         {total(disk, 'free')}: {disk['checkpoints']} checkpoints of "
        f"{disk['checkpoint'] / MEGABYTE:,.1f} MB at most"
    )
    return "\n".join([*lines, *(f"not known    {text}" for text in planned["unknown"])])


def total(part: dict[str, Any], room: str) -> str:
    """How much of it, of how much there is."""
    needed = (
        f"{part['total'] / MEGABYTE:,.0f} MB" if part["total"] is not None else "more than fits"
    )
    there = "unknown" if part[room] is None else f"{part[room] / MEGABYTE:,.0f}"
    return f"{needed} of {there} MB, {'fits' if part['fits'] else 'DOES NOT FIT'}"
