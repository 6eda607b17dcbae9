"""Tokenizers side by side on a text: how short they make it, how fast, and which to take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.errors import DataError

MAX_CHARACTERS = 20_000_000  # characters of each text that are looked at, from everywhere in it
MIN_OCCURRENCES = 100  # of a token on average, for a model to learn what it means
EXAMPLE = 60  # characters


def compare(
    names: Sequence[str], texts: Mapping[str, str], *, vocab_size: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """The figures of each tokenizer on each of the texts, and a recommendation, as JSON values.

    Whatever is made for a text is made for all of them together. A tokenizer that is not available
    or cannot encode a text has its reason in place of figures.
    """
    texts = {name: text[:MAX_CHARACTERS] for name, text in texts.items()}
    whole = "\n".join(texts.values())
    rows = []
    for name in names:
        say(f"{name} ...")
        began = time.perf_counter()
        try:
            size = vocab_size if name == "bpe" else 0
            tokenizer = factory.choose(name, whole, vocab_size=size, say=say)
            made_s = time.perf_counter() - began
            rows.append({"tokenizer": name, "made_s": made_s, **figures(tokenizer, texts)})
        except DataError as error:
            rows.append({"tokenizer": name, "problem": str(error)})
    return {"tokenizers": rows, **recommendation(rows)}


def figures(tokenizer: Tokenizer, texts: Mapping[str, str]) -> dict[str, Any]:
    """What one tokenizer makes of the texts."""
    total = {"tokens": 0, "bytes": 0}
    took, exact, per_text = 0.0, True, {}
    if isinstance(tokenizer, BPETokenizer):
        _ = tokenizer.quick  # loading is not part of the speed
    for name, text in texts.items():
        began = time.perf_counter()
        ids = tokenizer.encode(text)
        took += time.perf_counter() - began
        exact = exact and tokenizer.decode(ids) == text
        size = len(text.encode("utf-8"))
        per_text[name] = size / max(len(ids), 1)
        total = {"tokens": total["tokens"] + len(ids), "bytes": total["bytes"] + size}
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        **total,
        "bytes_per_token": total["bytes"] / max(total["tokens"], 1),
        "bytes_per_token_of": per_text,
        "tokens_per_vocabulary": total["tokens"] / tokenizer.vocab_size,
        "encode_mb_per_s": total["bytes"] / 1e6 / took if took else 0.0,
        "exact": exact,
        "example": {name: example(tokenizer, text) for name, text in texts.items()},
    }


def example(tokenizer: Tokenizer, text: str) -> list[str]:
    """The tokens of the text's first line with something on it; a byte of a character as \\xNN."""
    line = next((line for line in text.splitlines() if line.strip()), "")[:EXAMPLE]
    pieces = tokenizer.tokens()
    return [pieces[i].decode("utf-8", "backslashreplace") for i in tokenizer.encode(line)]


def recommendation(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Which tokenizer to take, and why.

    Fewer tokens mean more text in the context and in each step, as long as each is seen often.
    """
    if all("problem" in row for row in rows):
        return {"recommended": "", "why": "none of them is available"}
    exact = [row for row in rows if row.get("exact")]
    if not exact:
        return {"recommended": "", "why": "none of them gives the text back as it is"}
    learnable = [row for row in exact if row["tokens_per_vocabulary"] >= MIN_OCCURRENCES]
    if not learnable:
        best = max(exact, key=lambda row: row["tokens_per_vocabulary"])
        return {
            "recommended": best["tokenizer"],
            "why": f"the text is small: even of its {best['vocab_size']:,} tokens each is seen "
            f"{best['tokens_per_vocabulary']:,.0f} times only",
        }
    best = max(learnable, key=lambda row: row["bytes_per_token"])
    return {
        "recommended": best["tokenizer"],
        "why": f"{best['bytes_per_token']:.2f} bytes in a token, and each of its "
        f"{best['vocab_size']:,} tokens is seen {best['tokens_per_vocabulary']:,.0f} times on "
        f"average ({MIN_OCCURRENCES} or more are enough to learn it)",
    }


def table(comparison: dict[str, Any]) -> str:
    """A result of `compare`, for people."""
    head = "tokenizer             vocabulary     tokens  bytes/token   MB/s  exact"
    lines = [head]
    for row in comparison["tokenizers"]:
        if "problem" in row:
            lines.append(f"{row['tokenizer']:<20}  {row['problem']}")
            continue
        lines.append(
            f"{row['tokenizer'][-20:]:<20}  {row['vocab_size']:>10,} {row['tokens']:>10,}"
            f"  {row['bytes_per_token']:>11.2f} {row['encode_mb_per_s']:>6,.0f}"
            f"  {'yes' if row['exact'] else 'NO':>5}"
        )
        for name, tokens in row["example"].items():
            several = len(row["example"]) > 1
            measured = f"{name}, {row['bytes_per_token_of'][name]:.2f}: " if several else ""
            lines.append(f"    {measured}{'|'.join(tokens)}")
    choice, why = comparison["recommended"] or "none", comparison["why"]
    return "\n".join([*lines, f"take {choice}: {why}"])
