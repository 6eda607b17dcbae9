"""What a loss means: what guessing and counting reach on the same validation text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from bardlet.data.dataset.folder import Dataset

TRAIN, VAL = 20_000_000, 1_000_000  # tokens that are counted and scored, at most
ORDERS = 4  # the longest n-gram
KINDS = ("unigram", "bigram", "trigram", "fourgram")


def lines(dataset: Dataset) -> list[dict[str, Any]]:
    """Losses in nats per token: of equal chances, then of counting tokens, pairs and so on.

    Empty for datasets in which not every token counts in the loss.
    """
    if any(stream.masked for stream in dataset.splits.values()):
        return []
    result: list[dict[str, Any]] = [uniform(dataset.vocab_size)]
    train = dataset.splits["train"].read(0, min(TRAIN, len(dataset.splits["train"])))
    val = dataset.splits["val"].read(0, min(VAL, len(dataset.splits["val"])))
    if len(train) and len(val) > 1:
        scores = zip(KINDS, ngram_losses(train, val, dataset.vocab_size), strict=False)
        result += [{"kind": kind, "loss": loss} for kind, loss in scores]
    return result


def uniform(vocab_size: int) -> dict[str, Any]:
    """The loss of a model that thinks every token equally likely: where training begins."""
    return {"kind": "uniform", "loss": math.log(vocab_size), "vocab_size": vocab_size}


def ngram_losses(train: np.ndarray, val: np.ndarray, vocab_size: int) -> Iterator[float]:
    """The mean loss on `val` of tables of 1 to ORDERS tokens counted on `train`, both (N,) int64.

    Each order is interpolated with the one before by Witten and Bell's weights (1991). As
    evaluation does, the first token of `val` is left out. Orders whose keys do not fit an integer
    are left out.
    """
    probability = np.full(len(val) - 1, 1 / vocab_size)
    for order in range(1, ORDERS + 1):
        if vocab_size**order >= 1 << 62 or len(train) < order:
            return
        grams, counts = np.unique(ngrams(train, order, vocab_size)[order - 1 :], return_counts=True)
        contexts, first = np.unique(grams // vocab_size, return_index=True)
        totals = np.add.reduceat(counts, first)  # of each context
        kinds = np.diff(np.append(first, len(grams)))  # different tokens after it
        wanted = ngrams(val, order, vocab_size)[1:]
        seen = looked_up(grams, counts, wanted)
        total, after = (looked_up(contexts, x, wanted // vocab_size) for x in (totals, kinds))
        whole = np.arange(1, len(val)) >= order - 1  # the context lies within the text
        mixed = (seen + after * probability) / np.maximum(total + after, 1)
        probability = np.where(whole & (total > 0), mixed, probability)
        yield float(-np.log(probability).mean())


def ngrams(ids: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """The n-gram that ends at each place as an integer, its last token the lowest digit: (N,).

    Before the beginning stands token 0.
    """
    keys = np.zeros(len(ids), dtype=np.int64)
    for age in range(order):
        keys[age:] += ids[: len(ids) - age] * vocab_size**age
    return keys


def looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where sorted keys lack it."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def common_tokens(dataset: Dataset, count: int = 12) -> list[dict[str, Any]]:
    """The commonest tokens of the training split, with their share."""
    stream = dataset.splits["train"]
    ids = stream.read(0, min(TRAIN, len(stream)))
    counts = np.bincount(ids, minlength=1)
    pieces = dataset.tokenizer.tokens()
    largest = np.argsort(-counts, kind="stable")[:count]
    return [
        {"text": pieces[i].decode("utf-8", "backslashreplace"), "share": counts[i] / len(ids)}
        for i in largest.tolist()
        if counts[i]
    ]
