"""What the training text says of a context: how often it stands there, and what follows it.

This is what a model could have learnt by heart, and what an n-gram table, which only counts, says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bardlet.analysis.counts import SplitText, has_words

LONGEST = 6  # tokens of context of the n-gram table, as in bench/ngram.py
LOOKED_AT = 1024  # bytes of a context, at most
KINDS = 2000  # different tokens that follow, at most; the commonest
TOP = 20  # tokens of the n-gram table


def evidence(
    split: SplitText, *others: SplitText, ids: Sequence[int], places: int = 4
) -> dict[str, Any]:
    """The longest end of the context `ids` (T,) that stands in a split's text, as JSON values.

    `count` is how often it stands there, `next` how often each token follows it, the commonest
    first, `left_out` how many kinds of token there are besides. Empty, it stands at every byte.
    `word` is the context's last word, as often as it is a whole word in the text, and in that of
    all splits together.
    """
    context = longest(split, b"".join(split.pieces[i] for i in ids)[-LOOKED_AT:])
    at = split.positions(context)
    counts = split.next_tokens(at, len(context))
    kinds = np.flatnonzero(counts)
    kinds = kinds[np.argsort(-counts[kinds], kind="stable")]
    table = ngram(split, ids)
    likeliest = np.argsort(-table, kind="stable")[:TOP]
    return {
        "context": context.decode("utf-8", "replace"), "count": len(at),
        "next": [{"id": int(i), "count": int(counts[i])} for i in kinds[:KINDS]],
        "left_out": max(0, len(kinds) - KINDS), "word": last_word(context, split, *others),
        "snippets": split.snippets(at, len(context), places) if context else [],
        "ngram": [[int(i), float(table[i])] for i in likeliest],
    }  # fmt: skip


def last_word(context: bytes, *splits: SplitText) -> dict[str, Any] | None:
    """How often the last word of a context is a whole word in the first split, and in all."""
    text = re.search(r"\w+$", context.decode("utf-8", "ignore"))
    if text is None or not has_words(text[0]):
        return None
    word = text[0].encode()
    counts = [len(split.whole_words(split.positions(word), word)) for split in splits]
    return {"text": text[0], "count": counts[0], "all": sum(counts)}


def longest(split: SplitText, context: bytes) -> bytes:
    """The longest end of a context, of whole characters, that stands in the text.

    Where it does, so do all shorter ones: found by halves.
    """
    # a byte of 10xxxxxx goes on a character that has begun
    starts = [i for i, byte in enumerate(context) if byte & 0xC0 != 0x80] + [len(context)]
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if split.count(context[starts[middle] :]):
            high = middle
        else:
            low = middle + 1
    return context[starts[low] :]


def ngram(split: SplitText, ids: Sequence[int]) -> np.ndarray:
    """What an n-gram table of the text gives each token after `ids` (T,): (V,), sums to 1.

    Interpolated by Witten and Bell (1991): a context that is followed by n tokens of k kinds gives
    each as many parts as it follows, and k parts to the context without its oldest token.
    """
    V = len(split.pieces)
    table = np.full(V, 1 / V)
    for size in range(min(LONGEST, len(ids)) + 1):
        context = b"".join(split.pieces[i] for i in ids[len(ids) - size :])
        at = split.positions(context)
        if not len(at):
            break
        counts = split.next_tokens(at, len(context))
        kinds = np.count_nonzero(counts)
        if kinds:
            table = (counts + kinds * table) / (counts.sum() + kinds)
    return table
