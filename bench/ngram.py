"""What counting alone reaches: a character model of Kneser-Ney n-gram tables, nothing learnt.

    python bench/ngram.py [--text FILE] [--out FILE.json]

Counted on the train split and scored on the whole validation split, for contexts of 1 to 6
characters. Its losses stand beside those of every trained model here, so that nobody mistakes
counting for learning. Interpolated modified Kneser-Ney smoothing, after Chen and Goodman (1999).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import common
import numpy as np

from bardlet.data.dataset.folder import Dataset

LONGEST = 6  # characters of context


def packed(ids: np.ndarray, n: int, base: int) -> np.ndarray:
    """The n-gram that ends at each position of ids (N,), as an integer in base `base`: (N,) int64.

    Its last token is the lowest digit, so `key // base` is its context and `key % base**(n - 1)`
    the gram without its oldest token. A digit is an id plus one; 0 is before the beginning.
    """
    if base**n >= 1 << 63:
        raise ValueError(f"{n}-grams over {base - 1} tokens do not fit an integer")
    keys = np.zeros(len(ids), dtype=np.int64)
    for age in range(min(n, len(ids))):
        keys[age:] += (ids[: len(ids) - age].astype(np.int64) + 1) * base**age
    return keys


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off counts of 0, 1, 2, and 3 or more: (4,), estimated from all counts (K,)."""
    n1, n2, n3, n4 = (np.count_nonzero(counts == c) for c in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        estimated = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if estimated[1:].min() > 0:  # else unseen tokens would have no probability
            return estimated
    return np.array([0, 0.5, 1.0, 1.5])  # KenLM's, where there is too little to estimate from


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, default: float) -> np.ndarray:
    """The value of each wanted key (N,), `default` where sorted keys (K,) lack it: (N,) float64."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], default)


class Order:
    """The table of one order: discounted probabilities, and the share left to the shorter order."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray, base: int) -> None:
        """`grams` are different packed n-grams in ascending order, (K,), each seen counts (K,)."""
        self.grams, self.base = grams, base
        self.contexts, start = np.unique(grams // base, return_index=True)
        total = np.add.reduceat(counts, start)  # of each context
        taken = discounts(counts)[np.minimum(counts, 3)]
        of = np.repeat(total, np.diff(np.append(start, len(grams))))
        self.probability = (counts - taken) / of
        self.left = np.add.reduceat(taken, start) / total

    def __call__(self, keys: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Probabilities of packed n-grams' last tokens (N,), given those of the shorter order."""
        seen = look_up(self.grams, self.probability, keys, 0.0)
        return seen + look_up(self.contexts, self.left, keys // self.base, 1.0) * shorter


@dataclass
class KneserNey:
    """Tables for every context length from 0 to `longest` at once."""

    vocab_size: int
    raw: list[Order]  # counted as they stand: for the longest order of a model
    continued: list[Order]  # counted by the different tokens before them: for all shorter ones

    @classmethod
    def count(cls, ids: np.ndarray, vocab_size: int, longest: int = LONGEST) -> KneserNey:
        """Tables of the token ids (N,), which must be more than `longest`."""
        base = vocab_size + 1
        raw, continued = [], []
        for n in range(1, longest + 2):
            grams, counts = np.unique(packed(ids, n, base)[n - 1 :], return_counts=True)
            raw.append(Order(grams, counts, base))
            if n > 1:
                endings = np.unique(grams % base ** (n - 1), return_counts=True)
                continued.append(Order(*endings, base))
        return cls(vocab_size, raw, continued)

    def probabilities(self, keys: list[np.ndarray]) -> list[np.ndarray]:
        """The probability of the last token of each gram, by context length from 0 to `longest`.

        keys[n - 1] are the packed n-grams, (N,) each; so are the results.
        """
        shorter = np.full(len(keys[0]), 1 / self.vocab_size)
        result = []
        for n, grams in enumerate(keys):
            result.append(self.raw[n](grams, shorter))
            if n < len(self.continued):
                shorter = self.continued[n](grams, shorter)
        return result

    def losses(self, ids: np.ndarray) -> list[float]:
        """Nats per token of ids (N,), all but the first predicted, by context length from 0."""
        keys = [packed(ids, n + 1, self.vocab_size + 1)[1:] for n in range(len(self.raw))]
        return [float(-np.log(p).mean()) for p in self.probabilities(keys)]


def measure(train: np.ndarray, val: np.ndarray, vocab_size: int) -> list[dict[str, Any]]:
    """A row for each context length: nats per token on val, and the seconds for all together."""
    began = time.perf_counter()
    losses = KneserNey.count(train, vocab_size).losses(val)
    took = time.perf_counter() - began
    return [
        {"context": n, "val_loss": loss, "seconds_for_all": took}
        for n, loss in enumerate(losses)
        if n > 0
    ]


def count(dataset: Dataset) -> list[dict[str, Any]]:
    """The losses of n-gram tables of a dataset, to stand beside those of models."""
    train, val = (stream.read(0, len(stream)) for stream in dataset.splits.values())
    return measure(train, val, dataset.vocab_size)


def table(rows: list[dict[str, Any]]) -> str:
    """The table of what `count` returns."""
    head = f"counting, not learning: Kneser-Ney tables in {rows[0]['seconds_for_all']:.2f} s"
    cells = [[f"{row['context']} before", f"{row['val_loss']:.4f}"] for row in rows]
    return common.table([head, "val loss"], cells)


def main() -> None:
    args = common.arguments(__doc__, peer=False, trains=False, repeats=1).parse_args()
    with common.workspace(args) as work:
        rows = count(work.dataset)
    common.finish(args, runs=rows, tables=[table(rows)])


if __name__ == "__main__":
    main()
