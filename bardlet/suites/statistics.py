"""Means with their standard errors, and differences that are paired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 1337
CONFIDENCE = 0.95


def mean_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, by the sample's standard deviation (n - 1); None for one."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, None
    return mean, float(array.std(ddof=1) / math.sqrt(len(array)))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference, of the second minus the first, with its interval."""

    value: float
    low: float
    high: float

    @property
    def matters(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None
) -> Difference:
    """The difference of the means of two (n,) arrays over the same n things, and the interval that
    holds 95% of RESAMPLES means of things drawn with replacement (Efron and Tibshirani 1993, 13.3).

    `weights` (n,) makes them ratios of sums: sum(values) / sum(weights). The same every time.
    """
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    weights = np.ones(len(differences)) if weights is None else np.asarray(weights, np.float64)
    generator = np.random.default_rng(SEED)
    n = len(differences)
    means = np.empty(RESAMPLES)
    block = max(1, (1 << 22) // n)  # resamples at once: some tens of megabytes
    for begin in range(0, RESAMPLES, block):
        drawn = generator.integers(0, n, size=(min(block, RESAMPLES - begin), n))
        sums = differences[drawn].sum(1) / weights[drawn].sum(1)
        means[begin : begin + len(sums)] = sums
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Difference(
        value=float(differences.sum() / weights.sum()), low=float(low), high=float(high)
    )
