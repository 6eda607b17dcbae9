"""What a look into a dataset shows: some of its documents, how much of it counts in the loss."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import DOCS, TokenStream, header, mapped

DOCUMENTS = 3  # of a split that are shown: the first, the last and one between
WIDTH = 60  # characters of a text
TOKENS = 4096  # of a document that are looked at; a prompt may be long
BLOCK = 1 << 22  # tokens whose mask is counted at a time


def samples(dataset: Dataset, split: str) -> list[dict[str, Any]]:
    """Some documents of a split: the number of each from 1, how its text begins, and its prompt.

    Where nothing says where documents begin, the split is one.
    """
    stream = dataset.splits[split]
    if not len(stream):
        return []
    starts = beginnings(dataset, split) or [np.zeros(1, dtype="<u8")]
    before = np.cumsum([0, *map(len, starts)])  # documents, by shard
    count = int(before[-1])

    def place(number: int) -> int:
        if number == count:
            return len(stream)
        shard = int(np.searchsorted(before, number, side="right")) - 1
        first = int(stream.ends[shard]) - len(stream.shards[shard])
        return first + int(starts[shard][number - before[shard]])

    shown = []
    numbers = {0, 1, count - 2, count - 1} if dataset.preferences else {0, count // 2, count - 1}
    for number in sorted(n for n in numbers if 0 <= n < count):
        start, end = place(number), place(number + 1)
        about = shortened(dataset, stream, start, min(end - start, TOKENS))
        of_pair = {"answer": ("chosen", "rejected")[number % 2]} if dataset.preferences else {}
        shown.append({"document": number + 1, **of_pair, **about})
    return shown


def questions(dataset: Dataset, count: int, length: int) -> list[tuple[int, ...]]:
    """The tokens before the first answer of some conversations for validation, up to `count` of
    those that are no longer than `length`; of the first one its last tokens where all are longer.
    """
    stream, starts = dataset.splits["val"], beginnings(dataset, "val")
    first = int(starts[0][0]) if starts else 0
    ids, counts = stream.read(first, TOKENS), stream.counts(first, TOKENS)
    begins = [0, *(int(place) - first for place in (starts[0][1:] if starts else []))]
    asked = []
    documents = list(itertools.pairwise([*begins, len(ids)]))
    for start, end in documents[:: 2 if dataset.preferences else 1]:  # a pair has one question
        answers = np.flatnonzero(counts[start:end])
        if len(answers):
            asked.append(tuple(ids[start : start + int(answers[0])].tolist()))
    short = [question for question in asked if len(question) <= length]
    return (short or [question[-length:] for question in asked])[:count]


def shortened(dataset: Dataset, stream: TokenStream, start: int, count: int) -> dict[str, str]:
    """How a document of `count` tokens begins, and its prompt if it has one."""
    ids = stream.read(start, count)
    counts = stream.counts(start, count)
    if dataset.end_of_text is not None:
        kept = ids != dataset.end_of_text
        ids, counts = ids[kept], counts[kept]
    parts = {"prompt": ids[~counts], "text": ids[counts]}
    if not len(parts["prompt"]):
        del parts["prompt"]
    return {name: beginning(dataset, part) for name, part in parts.items()}


def beginning(dataset: Dataset, ids: np.ndarray) -> str:
    """The first characters of tokens, each of which is at least a byte of one."""
    text = dataset.tokenizer.decode(ids[: 4 * WIDTH])
    return text[:WIDTH] + "..." * (len(text) > WIDTH or len(ids) > 4 * WIDTH)


def beginnings(dataset: Dataset, split: str) -> list[np.ndarray]:
    """Where documents begin in each shard of a split, mapped; none in a dataset of one text."""
    by_shard = []
    for shard in dataset.about.splits[split].shards if dataset.about else ():
        if shard.docs is None:
            return []
        path = dataset.path(shard.docs)
        _, count = header(path, DOCS, (8,), "a list of where documents begin")
        by_shard.append(mapped(path, "<u8", count, count))
    return by_shard if sum(map(len, by_shard)) else []


def token_counts(dataset: Dataset) -> np.ndarray:
    """How often each token is in all splits of a dataset, (V,) int64."""
    counts = np.zeros(dataset.vocab_size, dtype=np.int64)
    for stream in dataset.splits.values():
        for at in range(0, len(stream), BLOCK):
            counts += np.bincount(stream.read(at, BLOCK), minlength=len(counts))
    return counts


def counted(stream: TokenStream) -> int:
    """How many of a split's tokens count in the loss."""
    if not stream.masked:
        return len(stream)
    return sum(int(stream.counts(at, BLOCK).sum()) for at in range(0, len(stream), BLOCK))
