"""What attention heads look at, in numbers and as a triangle of text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SHADES = ".123456789#"  # tenths of a weight, rounded; # is all of it
PARTIAL = re.compile(r"(?:\\x[0-9a-f]{2})+")  # a token that is part of a character
MAX_TRIANGLE = 64  # tokens: a row of it fits a wide terminal


def facts(weights: Tensor) -> dict[str, float]:
    """Where a head with weights (T, T) looks, means over the positions that have a choice.

    `itself`, `before` and `first`: the share on the position itself, on the one before it and on
    the first; `distance`: how many tokens back, on average; `spread`: e to the entropy, the number
    of positions that the weight is spread over as if evenly.
    """
    T = len(weights)
    rows = weights[1:].double() if T > 1 else weights.double()  # the first sees itself alone
    at = torch.arange(T)
    query = at[1:] if T > 1 else at
    back = (query[:, None] - at[None, :]).clamp_min(0)  # (rows, T)
    entropy = -(rows * rows.clamp_min(1e-300).log()).sum(-1)
    before = rows[torch.arange(len(rows)), (query - 1).clamp_min(0)].mean() if T > 1 else 0.0
    return {
        "itself": rows[torch.arange(len(rows)), query].mean().item(),
        "before": float(before), "first": rows[:, 0].mean().item(),
        "distance": (rows * back).sum(-1).mean().item(), "spread": entropy.exp().mean().item(),
    }  # fmt: skip


def triangle(weights: Tensor, names: Sequence[str]) -> str:
    """Weights (T, T) as text: a row for each query, a column for each key, tenths as digits."""
    shown = [narrow(name) for name in names]
    width = max(map(columns, shown), default=1)
    firsts = ["~" if PARTIAL.fullmatch(name) else name[:1] for name in shown]
    over = "".join(first + " " * (2 - columns(first)) for first in firsts)
    lines = [" " * (width + 1) + over]
    for query, name in enumerate(shown):
        digits = (weights[query, : query + 1] * 10).round().int().tolist()
        row = " ".join(SHADES[digit] for digit in digits)
        lines.append(f"{' ' * (width - columns(name))}{name} {row}")
    return "\n".join(line.rstrip() for line in lines)


def narrow(token: str) -> str:
    """A token as it heads a row: what cannot be seen by a sign."""
    token = token.translate({10: "\u21b5", 9: "\u21e5", 32: "\u2423"})
    return "".join(c if c.isprintable() else "?" for c in token) or "?"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: a Chinese character two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def describe(info: dict[str, Any], weights: Tensor, names: Sequence[str]) -> str:
    """The weights (T, T) that `info` names as a triangle, and its table of heads."""
    lines = []
    if len(names) <= MAX_TRIANGLE:
        lines += [f"{info['shown']}: rows look at columns, in tenths", triangle(weights, names), ""]
    else:
        lines += [f"{len(names)} tokens: a triangle is shown of up to {MAX_TRIANGLE}", ""]
    lines.append("layer  head  itself  one before  first  tokens back  spread over")
    lines += [
        f"{row['layer']:>5}  {row['head']:>4}  {row['itself']:>6.0%}  {row['before']:>10.0%}  "
        f"{row['first']:>5.0%}  {row['distance']:>11.1f}  {row['spread']:>11.1f}"
        for row in info["heads"]
    ]  # fmt: skip
    return "\n".join(lines)
