"""One token step in words, numbers and lines of code: the stations of `bardlet explain`.

Each is a title, the place in the code where it happens, and lines of text. The numbers are those of
analysis/token_step.py.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bardlet.analysis import heads, next_token
from bardlet.analysis.token_step import TokenStep
from bardlet.model import GPT
from bardlet.sampling.filters import Sampling, choose

PACKAGE = Path(__file__).parents[1]
SHOWN = 4  # numbers of a vector, heads of a layer, positions of a head
ROWS = 6  # tokens of a distribution, tokens of a prompt
# where each step happens: a file, and a line of it that does it
CODE = {
    "ids": ("data/tokenizers/char.py", "def encode("),
    "embedding": ("model.py", 'x = self.transformer["wte"](idx)'),
    "positions": ("model.py", 'x = x + self.transformer["wpe"](at)'),
    "rotary": ("model.py", "q, k = rotate(q, rope), rotate(k, rope)"),
    "block": ("model.py", "x = x + self.attn(self.ln_1(x), rope, cache, mask)"),
    "attend": ("model.py", "def attend("),
    "mlp": ("model.py", "return x + self.mlp(self.ln_2(x))"),
    "norm": ("model.py", 'return self.transformer["ln_f"](x)'),
    "logits": ("model.py", "return F.linear(x[:, -1:]"),
    "filters": ("sampling/filters.py", "def filtered("),
    "uniform": ("sample.py", "def uniform_numbers("),
    "pick": ("sampling/filters.py", "def pick("),
}


@dataclass(frozen=True)
class Station:
    """A step on the way."""

    title: str
    code: str  # file:line
    lines: list[str]


@functools.cache
def place(step: str) -> str:
    """Where a step stands in the code, as "bardlet/model.py:291"; without its sources, the file."""
    file, text = CODE[step]
    path = PACKAGE / file
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    at = next((i for i, line in enumerate(lines, 1) if line.strip().startswith(text)), 0)
    return f"bardlet/{file}:{at}" if at else f"bardlet/{file}"


def source(place: str) -> dict[str, Any] | None:
    """The function around a place such as "bardlet/model.py:291"; None without its sources."""
    file, _, line = place.partition(":")
    path = PACKAGE.parent / file
    if not (line and path.is_file()):
        return None
    text = path.read_text(encoding="utf-8")
    around = [
        node for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.lineno <= int(line) <= (node.end_lineno or 0)
    ]  # fmt: skip
    node = max(around, key=lambda node: node.lineno)  # the innermost
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return {"file": file, "line": int(line), "first": node.lineno, "lines": lines}


def stations(
    model: GPT, step: TokenStep, names: Sequence[str], sampling: Sampling, uniform: Tensor,
    seed: int, tokenizer: str,
) -> list[Station]:  # fmt: skip
    """The way of `step` as text: `names` (V,) are the tokens, `uniform` () the number drawn."""
    config, T = model.config, len(step.ids)
    C = config.n_embd
    ids = step.ids
    first = max(0, T - ROWS)
    before = [f"the last {ROWS} of {T}"] if first else []
    shown = "  ".join(f"{names[i]} = {i}" for i in ids[first:])
    encodes = place("ids") if tokenizer == "char" else "bardlet/data/tokenizers"
    title = f"text to ids: {T} of them, by the {tokenizer} tokenizer"
    way = [Station(title, encodes, [*before, shown])]
    rows = [f"{names[i]:<6} row {i} of wte: {vector(x)}"
            for i, x in zip(ids[first:], step.tokens[first:], strict=True)]  # fmt: skip
    way.append(Station(f"ids to vectors: {T} x {C}", place("embedding"), rows))
    if step.positions is not None:
        rows = [f"place {first + i}: {vector(x)}" for i, x in enumerate(step.positions[first:])]
        way.append(Station(f"and where they stand: {T} x {C}, added", place("positions"), rows))
    way += blocks(model, step, names)
    way.append(Station(
        f"the last norm, and {config.vocab_size} scores: one product with "
        f"{config.vocab_size} x {C}", place("logits"),
        [f"normed {vector(step.final)}",
         f"logits {vector(step.logits)}, from {step.logits.min():.2f} to "
         f"{step.logits.max():.2f}"],
    ))  # fmt: skip
    return [*way, *choice(step.logits, names, sampling, uniform, seed)]


def blocks(model: GPT, step: TokenStep, names: Sequence[str]) -> list[Station]:
    """What each block does to the newest position, the first in full and the others in a row."""
    config, layer = model.config, step.layers[0]
    norm = "RMSNorm" if config.llama else "LayerNorm"
    turned = f"; queries and keys turned by their place ({place('rotary')})" * config.llama
    widths = f"{config.n_embd} -> {config.mlp_size} -> {config.n_embd}"
    lines = [
        f"in      {vector(layer.before)}",
        f"{norm:<8}{vector(layer.normed)}",
        f"{config.n_head} heads of {config.head_size}{turned}:",
        *(
            f"  head {h}: {looks(row, step.ids, names)}"
            for h, row in enumerate(layer.heads[:SHOWN])
        ),
        *([f"  and {config.n_head - SHOWN} more"] * (config.n_head > SHOWN)),
        f"attention adds {vector(layer.attention)}",
        f"MLP adds       {vector(layer.mlp)}  ({widths})",
        f"out     {vector(layer.after)}",
    ]
    way = [Station(f"block 0 of {config.n_layer}, for the newest token", place("block"), lines)]
    lines = ["block  looks most at     attention adds   MLP adds   length   read here, it says"]
    for i, layer in enumerate(step.layers):
        mean = layer.heads.mean(0)
        lines.append(
            f"{i:>5}  {looks(mean, step.ids, names, 1):<18}{layer.attention.norm():>16.2f}"
            f"{layer.mlp.norm():>11.2f}{layer.after.norm():>9.2f}   "
            f"{likely(layer.lens.softmax(-1), names)}"
        )
    return [*way, Station("all blocks, mean of their heads", place("mlp"), lines)]


def choice(
    logits: Tensor, names: Sequence[str], sampling: Sampling, uniform: Tensor, seed: int
) -> list[Station]:
    """The distribution, and the token that a random number picks from it."""
    own, drawn = next_token.probabilities(logits, sampling)
    token = int(choose(logits[None], uniform[None], sampling)[0])
    order = own.argsort(descending=True, stable=True).tolist()[:ROWS]
    if token not in order:
        order.append(token)
    how = f"temperature={sampling.temperature:g} top_k={sampling.top_k}"
    lines = [f"token       logit   e^logit / sum   with {how}"]
    lines += [f"{names[i]:<8}{logits[i].item():>9.3f}{own[i].item():>16.2%}{drawn[i].item():>16.2%}"
              for i in order]  # fmt: skip
    rest = [max(0.0, 1 - shares[order].sum().item()) for shares in (own, drawn)]
    lines.append(f"{f'{len(own) - len(order):,} others':<17}{rest[0]:>16.2%}{rest[1]:>16.2%}")
    way = [Station("scores to probabilities", place("filters"), lines)]
    if not sampling.degree:
        lines = [f"temperature=0 draws nothing: the likeliest is {names[token]}"]
        return [*way, Station("the choice", place("pick"), lines)]
    low = drawn[:token].sum().item()
    lines = [
        f"seed {seed} gives the random number {uniform.item():.4f} ({place('uniform')})",
        f"laid end to end in the order of their ids, {names[token]} has the stretch from "
        f"{low:.4f} to {low + drawn[token].item():.4f}: the number falls on it",
    ]
    return [*way, Station(f"the choice: {names[token]}", place("pick"), lines)]


def vector(x: Tensor) -> str:
    """The first numbers of a vector, and its length."""
    numbers = " ".join(f"{v:+.2f}" for v in x[:SHOWN].tolist())
    return f"[{numbers} ...] length {x.norm():.2f}" if x.dim() else f"{x:.2f}"


def looks(row: Tensor, ids: Sequence[int], names: Sequence[str], count: int = SHOWN) -> str:
    """Where a row of attention weights (T,) lies most, by token and how far back it stands."""
    best = row.argsort(descending=True, stable=True).tolist()[:count]
    far = [f" {len(row) - 1 - i} back" * (i < len(row) - 1) for i in best]
    pairs = zip(best, far, strict=True)
    return "  ".join(f"{names[ids[i]]}{back} {row[i]:.0%}" for i, back in pairs)


def likely(probability: Tensor, names: Sequence[str], count: int = 3) -> str:
    values, ids = probability.topk(min(count, len(probability)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return "  ".join(f"{names[i]} {p:.0%}" for i, p in pairs)


def quoted(tokens: Sequence[bytes]) -> list[str]:
    """Every token as it is shown: in quotes, with what cannot be seen spelt out."""
    return [quote(token.decode("utf-8", "backslashreplace")) for token in tokens]


def quote(token: str) -> str:
    """A token in quotes; bytes that are a part of a character, spelt as \\xNN, as they are."""
    return token if heads.PARTIAL.fullmatch(token) else json.dumps(token, ensure_ascii=False)


def describe(way: Sequence[Station]) -> str:
    """The stations as text for a terminal."""
    lines: list[str] = []
    for number, station in enumerate(way, 1):
        lines += ["", f"{number}. {station.title}  [{station.code}]"]
        lines += [f"   {line}" for line in station.lines]
    return "\n".join(lines[1:])
