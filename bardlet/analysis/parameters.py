"""Where a model's parameters are: every weight with its shape and share, and what training keeps.

A learner's table: 0.8M or 124M parameters are a few kinds of matrices, once a block.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from torch import Tensor

from bardlet.model import GPT

BLOCK = re.compile(r"transformer\.h\.(\d+)\.")
BYTES = 4  # of a weight, a gradient and a moment in float32
WHAT = {
    "transformer.wte.weight": "a row for each token",
    "transformer.wpe.weight": "a row for each position",
    "ln_1.weight": "norm before attention",
    "attn.c_attn.weight": "queries, keys and values of all heads",
    "attn.c_proj.weight": "what the heads gathered, back to the width",
    "attn.q_norm.weight": "norm of a query",
    "attn.k_norm.weight": "norm of a key",
    "ln_2.weight": "norm before the MLP",
    "mlp.c_fc.weight": "the MLP's way up",
    "mlp.c_proj.weight": "and down",
    "transformer.ln_f.weight": "the last norm",
    "lm_head.weight": "a row for each token again: scores",
}


def table(model: GPT, optimizer: str) -> dict[str, Any]:
    """Every parameter of a model with its share, totals by part, and bytes in training.

    Tied weights are counted once. `optimizer` is adamw or muon. Memory is that of what does not
    depend on the batch, in float32: weights, their gradients and the optimizer's moments.
    """
    named = dict(model.named_parameters())
    total = sum(p.numel() for p in named.values())
    parts: defaultdict[str, int] = defaultdict(int)
    for name, p in named.items():
        parts[part_of(name)] += p.numel()
    moments = sum(p.numel() * moments_of(name, p, optimizer) for name, p in named.items())
    return {
        "parameters": model.num_params(),  # as nanoGPT counts them, without positions
        "total": total,
        "tied": model.config.tied,
        "weights": [
            {"name": name, "shape": list(p.shape), "count": p.numel(), "share": p.numel() / total,
             "part": part_of(name), "what": WHAT.get(BLOCK.sub("", name), "")}
            for name, p in named.items()
        ],
        "parts": {part: {"count": n, "share": n / total} for part, n in parts.items()},
        "optimizer": optimizer,
        "memory": {
            "weights_bytes": BYTES * total, "gradients_bytes": BYTES * total,
            "moments_bytes": BYTES * moments,
        },
    }  # fmt: skip


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: "block 0", "wte", "lm_head"."""
    inside = BLOCK.match(name)
    return f"block {inside[1]}" if inside else name.removeprefix("transformer.").split(".")[0]


def moments_of(name: str, p: Tensor, optimizer: str) -> int:
    """How many numbers an optimizer keeps for each of a parameter's: AdamW two, Muon one."""
    return 1 if optimizer == "muon" and p.dim() == 2 and BLOCK.match(name) else 2


def describe(info: dict[str, Any]) -> str:
    """The table for people: blocks that have the first one's shapes are summed up in a line."""
    first = [row for row in info["weights"] if not re.fullmatch(r"block [1-9]\d*", row["part"])]
    width = max(len(row["name"]) for row in first)
    lines = [f"{'weight':<{width}}  {'shape':>13}  {'count':>13}  {'share':>6}"]

    def line(name: str, shape: str, count: int, share: float, what: str) -> str:
        return f"{name:<{width}}  {shape:>13}  {count:>13,}  {share:>6.1%}  {what}".rstrip()

    blocks = [part for part in info["parts"] if part.startswith("block ")]
    last_of_block = [row["name"] for row in first if row["part"] == "block 0"][-1]
    for row in first:
        shape = " x ".join(map(str, row["shape"]))
        lines.append(line(row["name"], shape, row["count"], row["share"], row["what"]))
        if row["name"] == last_of_block:
            each = info["parts"]["block 0"]
            lines.append(line("  block 0 in all", "", each["count"], each["share"], ""))
            if len(blocks) > 1:
                count = sum(info["parts"][part]["count"] for part in blocks[1:])
                name = f"  blocks 1 to {len(blocks) - 1}, alike"
                lines.append(line(name, "", count, count / info["total"], ""))
    lines.append(line("all", "", info["total"], 1.0, "the head is wte itself" * info["tied"]))
    if info["parameters"] != info["total"]:
        lines.append(f"{info['parameters']:,} without positions, as nanoGPT counts")
    memory = info["memory"]
    shown = {name: f"{memory[f'{name}_bytes'] / 1e6:,.1f} MB" for name in
             ("weights", "gradients", "moments")}  # fmt: skip
    lines.append(
        f"in training, float32: weights {shown['weights']}, gradients {shown['gradients']}, "
        f"{info['optimizer']}'s moments {shown['moments']}; activations come on top "
        "(`bardlet plan`)"
    )
    return "\n".join(lines)
