"""What guessing and counting reach, beside a naive computation."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import some_text

from bardlet.data.dataset.folder import Dataset
from bardlet.report import reference


def naive(train: list[int], val: list[int], order: int, vocab_size: int) -> float:
    """The loss of Witten and Bell's interpolation, token by token."""
    grams = Counter(tuple(train[i : i + n]) for n in range(1, order + 1)
                    for i in range(len(train) - n + 1))  # fmt: skip
    total: Counter[tuple[int, ...]] = Counter()
    kinds: Counter[tuple[int, ...]] = Counter()
    for gram, count in grams.items():
        total[gram[:-1]] += count
        kinds[gram[:-1]] += 1

    def probability(at: int) -> float:
        p = 1 / vocab_size
        for n in range(1, order + 1):
            if at - n + 1 < 0:
                break
            context = tuple(val[at - n + 1 : at])
            if total[context]:
                seen = grams[(*context, val[at])]
                p = (seen + kinds[context] * p) / (total[context] + kinds[context])
        return p

    return -sum(math.log(probability(at)) for at in range(1, len(val))) / (len(val) - 1)


def test_losses_are_those_of_a_naive_computation() -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(0, 7, 400) * generator.integers(0, 2, 400)
    val = generator.integers(0, 8, 90)  # with a token that training does not have
    losses = list(reference.ngram_losses(train, val, 8))
    wanted = [naive(train.tolist(), val.tolist(), n, 8) for n in range(1, reference.ORDERS + 1)]
    assert losses == pytest.approx(wanted, abs=1e-9)


def test_orders_that_do_not_fit_an_integer_are_left_out() -> None:
    ids = np.arange(50, dtype=np.int64)
    assert len(list(reference.ngram_losses(ids, ids, 200_000))) == 3
    assert len(list(reference.ngram_losses(ids[:2], ids, 10))) == 2


def test_lines_of_a_dataset(dataset_folder: Path) -> None:
    dataset = Dataset(dataset_folder)
    lines = {line["kind"]: line["loss"] for line in reference.lines(dataset)}
    assert lines["uniform"] == math.log(dataset.vocab_size)
    assert list(lines.values()) == sorted(lines.values(), reverse=True)
    common = reference.common_tokens(dataset)
    text = some_text(6000)[:5400]
    assert common[0]["text"] == " "
    assert common[0]["share"] == pytest.approx(text.count(" ") / len(text), abs=0.01)
