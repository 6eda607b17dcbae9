"""Models side by side: which differences of their losses and scores matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bardlet.suites.losses import TextLosses
from bardlet.suites.scoring import Result
from bardlet.suites.statistics import CONFIDENCE, Difference, paired_bootstrap

METHOD = f"paired bootstrap, {CONFIDENCE:.0%} interval"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model against the best one, by one measure."""

    measure: str
    best: str
    other: str
    difference: Difference  # of the other minus the best
    over: str  # what was paired

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "measure": self.measure, "best": self.best, "other": self.other, "over": self.over,
            "method": METHOD, "difference": self.difference.value, "low": self.difference.low,
            "high": self.difference.high, "matters": self.difference.matters,
        }  # fmt: skip

    def __str__(self) -> str:
        d = self.difference
        verdict = "this matters" if d.matters else "this may be chance"
        return (
            f"{self.measure}: {self.other} has {d.value:+.4f} against {self.best}, "
            f"{d.low:+.4f} to {d.high:+.4f} ({METHOD}, over {self.over}): {verdict}"
        )


def pairs_of_losses(losses: Mapping[str, TextLosses]) -> list[Pair]:
    """Each model against that with the fewest bits per byte, of those measured on its text."""
    if len(losses) < 2:
        return []
    best = min(losses, key=lambda name: losses[name].bits_per_byte)
    ours = losses[best]
    numbers, over = ours.segments()
    size = int(numbers.max()) + 1
    first = np.bincount(numbers, ours.nats, minlength=size) / math.log(2)
    weights = np.bincount(numbers, ours.bytes, minlength=size)
    result = []
    for name, theirs in losses.items():
        if name == best or theirs.text != ours.text:
            continue
        second = np.bincount(theirs.segments()[0], theirs.nats, minlength=size) / math.log(2)
        used = weights > 0  # a document may be empty
        difference = paired_bootstrap(first[used], second[used], weights[used])
        result.append(Pair(
            measure="bits per byte", best=best, other=name, difference=difference, over=over
        ))  # fmt: skip
    return result


def pairs_of_tasks(results: Mapping[str, Sequence[Result]]) -> list[Pair]:
    """Each model against the best of each task, over the examples that both could score."""
    pairs = []
    for tasks in zip(*results.values(), strict=True):
        by_name = dict(zip(results, tasks, strict=True))
        accuracies = {name: result.scores["acc"] or 0.0 for name, result in by_name.items()}
        best = max(accuracies, key=accuracies.__getitem__)
        ours = {row["line"]: row["acc"] for row in by_name[best].examples}
        for name, result in by_name.items():
            theirs = {row["line"]: row["acc"] for row in result.examples}
            both = sorted(ours.keys() & theirs.keys())
            if name == best or not both:
                continue
            first = np.array([ours[line] for line in both])
            second = np.array([theirs[line] for line in both])
            pairs.append(Pair(
                measure=f"{result.task} acc", best=best, other=name,
                difference=paired_bootstrap(first, second), over=f"{len(both):,} examples",
            ))  # fmt: skip
    return pairs
