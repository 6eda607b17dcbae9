"""Which differences matter: by the known error of a mean, and by hand-made losses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bardlet.suites.comparison import pairs_of_losses, pairs_of_tasks
from bardlet.suites.losses import TextLosses
from bardlet.suites.scoring import Result
from bardlet.suites.statistics import paired_bootstrap


def losses(nats: np.ndarray, text: str = "t", bytes_each: int = 2) -> TextLosses:
    """Of tokens of two bytes, or so many; 80 bytes are a document."""
    count = len(nats)
    return TextLosses(
        nats=nats, bytes=np.full(count, bytes_each), ends=np.arange(1, count + 1) * bytes_each,
        documents=np.arange(count) * bytes_each // 80, text=text,
    )  # fmt: skip


def test_the_interval_is_that_of_a_mean() -> None:
    """For many normal differences the bootstrap's interval is mean +- 1.96 standard errors."""
    generator = np.random.default_rng(1)
    first = generator.normal(3, 5, 2000)
    second = first + generator.normal(0.1, 0.5, 2000)
    found = paired_bootstrap(first, second)
    difference = second - first
    stderr = difference.std(ddof=1) / math.sqrt(2000)
    assert found.value == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - 1.96 * stderr, abs=0.1 * stderr)
    assert found.high == pytest.approx(difference.mean() + 1.96 * stderr, abs=0.1 * stderr)
    assert found.matters and found == paired_bootstrap(first, second)
    assert not paired_bootstrap(first, first[::-1].copy()).matters  # as good, in another order


def test_weights_make_a_ratio_of_sums() -> None:
    found = paired_bootstrap(np.array([1.0, 1.0]), np.array([2.0, 5.0]), np.array([1.0, 9.0]))
    assert found.value == pytest.approx(5 / 10)
    assert (found.low, found.high) == pytest.approx((4 / 9, 1.0))


def test_chance_is_told_from_what_matters() -> None:
    """At a level of 5%, about one of twenty differences of nothing is taken for one."""
    generator = np.random.default_rng(2)
    said = [paired_bootstrap(np.zeros(60), generator.normal(0, 1, 60)).matters for _ in range(60)]
    assert sum(said) <= 8


def test_losses_are_paired_over_documents_against_the_best() -> None:
    generator = np.random.default_rng(3)
    base = generator.exponential(2, 4000)
    noise = generator.normal(0, 0.3, 4000)
    models = {
        "worse": losses(base + 0.05 + noise), "best": losses(base), "elsewhere": losses(base, "u"),
        "as good": losses(base + noise - noise.mean() + 1e-4),
    }  # fmt: skip
    pairs = pairs_of_losses(models)
    assert [(pair.best, pair.other, pair.over) for pair in pairs] == [
        ("best", "worse", "100 documents"), ("best", "as good", "100 documents"),
    ]  # fmt: skip
    wanted = models["worse"].bits_per_byte - models["best"].bits_per_byte
    assert pairs[0].difference.value == pytest.approx(wanted)
    assert pairs[0].difference.matters and not pairs[1].difference.matters
    assert "this matters" in str(pairs[0]) and "may be chance" in str(pairs[1])
    assert pairs_of_losses({"best": models["best"]}) == []


def test_tokens_of_other_lengths_are_paired_by_their_bytes() -> None:
    """Two tokens in one: the same losses, and so no difference in any document."""
    base = np.random.default_rng(4).exponential(2, 4000)
    merged = losses(base[::2] + base[1::2], bytes_each=4)
    difference = pairs_of_losses({"a": losses(base), "b": merged})[0].difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((0, 0, 0))


def test_tasks_are_paired_over_what_both_could_score() -> None:
    def result(right: list[int], lines: range) -> Result:
        rows = tuple({"line": i, "acc": acc} for i, acc in zip(lines, right, strict=True))
        acc = sum(right) / len(right)
        return Result(task="t", kind="cloze", scores={"acc": acc}, examples=rows, cut=0)

    pairs = pairs_of_tasks({
        "a": [result([1, 1, 1, 1] * 10, range(40))], "b": [result([0, 1] * 15, range(5, 35))],
    })  # fmt: skip
    assert (pairs[0].best, pairs[0].other, pairs[0].over) == ("a", "b", "30 examples")
    assert pairs[0].difference.value == -0.5 and pairs[0].difference.matters
