"""What a model wrote that stands word for word in its training text: the runs, and how much.

The samples are small and the training text is large, so the samples' n-grams are hashed and the
text is read past them once or twice, a piece at a time. Memory is bounded whatever the text's size.

Limits: runs are of whole tokens, so text that a BPE cut elsewhere in training is found but for its
ends; one phrase repeated over and over, in samples and text, takes as long as it has pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.tokenizers.base import Tokenizer

# Long enough that chance and idiom seldom reach it: GPT-4's report (arXiv:2303.08774, appendix C)
# takes 50 equal characters for the same text.
RUN_BYTES = 50
PIECE = 1 << 16  # positions looked up at once: what is computed of them stays in the cache
TABLE_BITS = 18
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
OPEN, CLOSE = "\u27e6", "\u27e7"  # double square brackets, which hardly any text has


@dataclass(frozen=True, kw_only=True)
class Run:
    """Tokens of a sample that stand in a stream in the same order."""

    start: int  # in the sample
    tokens: int
    place: int  # in the stream

    @property
    def end(self) -> int:
        return self.start + self.tokens


def report(
    dataset: Dataset, tokenizer: Tokenizer, rows: Sequence[np.ndarray], min_run: int = 0
) -> dict[str, Any]:
    """What of the samples `rows`, (N,) ids each, is in the dataset's train split, as JSON values.

    `min_run` is the length from which a run counts, in tokens; 0: as many as 50 bytes have on
    average. Validation text of the same size is searched as well, as a measure of what is usual.
    """
    train, val = dataset.splits["train"], dataset.splits["val"]
    widths = tokenizer.token_bytes()[train.read(0, PIECE)]
    min_run = min_run or max(2, round(RUN_BYTES / widths.mean()))
    size = max((len(row) for row in rows), default=0)
    step = (len(val) - size) // max(1, len(rows) - 1)
    held_out = [val.read(i * step, size) for i in range(len(rows))] if step >= size > 0 else []
    runs_by_row = runs_in(train, [*rows, *held_out], min_run)
    samples = [
        {
            **summary([row], [runs], min_run),
            "runs": [run_facts(run, row, tokenizer) for run in runs],
        }
        for row, runs in zip(rows, runs_by_row, strict=False)
    ]
    return {
        "min_run": min_run,
        **summary(rows, runs_by_row[: len(rows)], min_run),
        "validation": summary(held_out, runs_by_row[len(rows) :], min_run) if held_out else None,
        "samples": samples,
    }


def run_facts(run: Run, row: np.ndarray, tokenizer: Tokenizer) -> dict[str, Any]:
    text = tokenizer.decode(row[run.start : run.end])
    return {"start": run.start, "tokens": run.tokens, "place": run.place, "text": text}


def summary(
    rows: Sequence[np.ndarray], runs_by_row: Sequence[Sequence[Run]], min_run: int
) -> dict[str, Any]:
    """The longest run in tokens, and the share of tokens that lie in runs of at least `min_run`."""
    covered = [stretches([run for run in runs if run.tokens >= min_run]) for runs in runs_by_row]
    inside = sum(end - start for parts in covered for start, end in parts)
    return {
        "longest": max((run.tokens for runs in runs_by_row for run in runs), default=0),
        "share": inside / max(1, sum(map(len, rows))),
    }


def stretches(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """What the runs cover of their sample: (start, end) front to back, overlapping ones joined."""
    parts: list[tuple[int, int]] = []
    for run in runs:
        if parts and run.start < parts[-1][1]:
            parts[-1] = parts[-1][0], max(parts[-1][1], run.end)
        else:
            parts.append((run.start, run.end))
    return parts


def marked(row: np.ndarray, runs_found: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> str:
    """The text of a sample with its runs, as the report tells them, between brackets."""
    runs = [Run(start=run["start"], tokens=run["tokens"], place=run["place"]) for run in runs_found]
    stream, text, at = tokenizer.stream(), "", 0
    for start, end in stretches(runs):
        text += stream.feed(row[at:start].tolist()) + OPEN
        text += stream.feed(row[start:end].tolist()) + CLOSE
        at = end
    return text + stream.feed(row[at:].tolist())  # without a character that is only begun


def runs_in(stream: TokenStream, rows: Sequence[np.ndarray], min_run: int) -> list[list[Run]]:
    """For each sample its runs in the stream that lie in no longer one, front to back.

    All of at least `min_run` tokens are there, and the longest even where it is shorter. Of several
    places in the stream one is named.
    """
    runs_by_row: list[list[Run]] = [[] for _ in rows]
    todo = [i for i, row in enumerate(rows) if len(row)]
    # A fourth of what counts finds the longest run of most samples in the first pass.
    gram = max(1, min_run // 4)
    while todo and gram:
        for i, runs in zip(todo, search(stream, [rows[i] for i in todo], gram), strict=True):
            longest = max((run.tokens for run in runs), default=0)
            runs_by_row[i] = [run for run in runs if run.tokens >= min(min_run, longest)]
        todo = [i for i in todo if not runs_by_row[i]]
        gram //= 2
    return runs_by_row


def search(stream: TokenStream, rows: Sequence[np.ndarray], gram: int) -> list[list[Run]]:
    """For each sample its runs of at least `gram` tokens that lie in no longer one."""
    query = np.concatenate(rows).astype(np.int64)  # (Q,)
    ends = np.repeat(np.cumsum([len(row) for row in rows]), [len(row) for row in rows])  # (Q,)
    begins = ends - np.repeat([len(row) for row in rows], [len(row) for row in rows])  # (Q,)
    reach = max(len(row) for row in rows)
    # a model's vocabulary can be padded beyond its tokenizer's
    hashes = Hashes(max(stream.vocab_size, int(query.max()) + 1), PIECE + reach, gram)
    whole = np.flatnonzero(np.arange(len(query)) + gram <= ends)  # where a gram fits its sample
    if not len(whole):
        return [[] for _ in rows]
    values = np.concatenate([hashes.of(part) for part in pieces_of(query, gram)])[whole]
    order = np.argsort(values)
    values, whole = values[order], whole[order]
    table = np.zeros(1 << TABLE_BITS, dtype=bool)
    table[values >> np.uint64(64 - TABLE_BITS)] = True
    lengths = np.zeros(len(query), dtype=np.int64)
    places = np.zeros(len(query), dtype=np.int64)
    for first in range(0, len(stream) - gram + 1, PIECE):
        ids = stream.read(first, PIECE + reach)
        seen = hashes.of(ids[: PIECE + gram - 1])
        likely = np.flatnonzero(table[seen >> np.uint64(64 - TABLE_BITS)])
        low = np.searchsorted(values, seen[likely], side="left")
        counts = np.searchsorted(values, seen[likely], side="right") - low
        at = np.repeat(likely, counts)  # (hits,) places in ids
        within = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        of = whole[np.repeat(low, counts) + within]  # (hits,) places in the query
        # what begins earlier is found there, and is longer
        later = (at > 0) & (of > begins[of]) & (ids[at - 1] == query[of - 1])
        at, of = at[~later], of[~later]
        size = common(ids, at, query, of, ends[of])
        better = np.flatnonzero((size >= gram) & (size > lengths[of]))
        better = better[np.argsort(size[better], kind="stable")]  # the longest is written last
        lengths[of[better]], places[of[better]] = size[better], first + at[better]
    return [maximal(lengths, places, end - len(row), end) for row, end in
            zip(rows, np.cumsum([len(row) for row in rows]).tolist(), strict=True)]  # fmt: skip


def pieces_of(query: np.ndarray, gram: int) -> list[np.ndarray]:
    """The query in pieces that have each of its grams once, in order."""
    return [query[i : i + PIECE + gram - 1] for i in range(0, len(query) - gram + 1, PIECE)]


def common(
    ids: np.ndarray, at: np.ndarray, query: np.ndarray, of: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """How many tokens are equal from ids[at] and query[of] on, before `ends`: (hits,) int64.

    Compared token by token: a hash that was equal by chance makes no run.
    """
    size = np.zeros(len(at), dtype=np.int64)
    limit = np.minimum(ends - of, len(ids) - at)
    alive = np.arange(len(at))
    while len(alive := alive[size[alive] < limit[alive]]):
        n = size[alive]
        alive = alive[ids[at[alive] + n] == query[of[alive] + n]]
        size[alive] += 1
    return size


def maximal(lengths: np.ndarray, places: np.ndarray, begin: int, end: int) -> list[Run]:
    """The runs of the sample at query[begin:end] that lie in no longer one."""
    runs, reached = [], begin
    for i in np.flatnonzero(lengths[begin:end]).tolist():
        start, size = begin + i, int(lengths[begin + i])
        if start + size > reached:
            reached = start + size
            runs.append(Run(start=i, tokens=size, place=int(places[start])))
    return runs


class Hashes:
    """64-bit hashes of all n-grams of a piece of text, from one running sum."""

    def __init__(self, vocab_size: int, size: int, gram: int) -> None:
        """For pieces of up to `size` + gram tokens, with ids below vocab_size."""
        self.gram = gram
        generator = np.random.default_rng(0)
        self.values = generator.integers(0, 1 << 63, size=vocab_size, dtype=np.uint64)
        self.up = powers(BASE, size + gram)
        self.down = powers(pow(BASE, -1, 1 << 64), size + gram)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The hash of each n-gram of ids (T,): (T - gram + 1,) uint64."""
        count = max(0, len(ids) - self.gram + 1)
        sums = np.cumsum(self.values[ids] * self.up[: len(ids)])  # modulo 2^64
        sums = np.concatenate((np.zeros(1, dtype=np.uint64), sums))
        return (sums[self.gram : self.gram + count] - sums[:count]) * self.down[:count]


def powers(base: int, count: int) -> np.ndarray:
    """base^0 .. base^(count - 1) modulo 2^64."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def describe(result: dict[str, Any]) -> str:
    """The report in a few lines for people."""
    runs = [run for sample in result["samples"] for run in sample["runs"]]
    if not runs:
        return "no token of it stands in the training text"
    longest = max(runs, key=lambda run: run["tokens"])
    lines = [
        f"longest run that stands in the training text: {longest['tokens']} tokens, "
        f"{longest['text']!r}, at its token {longest['place']:,}",
        f"in runs of at least {result['min_run']} tokens: {result['share']:.1%} of the text",
    ]
    if result["validation"]:
        usual = result["validation"]
        lines.append(
            f"validation text of the same size: longest run {usual['longest']} tokens, "
            f"{usual['share']:.1%}"
        )
    return "\n".join(lines)
