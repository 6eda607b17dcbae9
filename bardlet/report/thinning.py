"""Curves with as many points as a picture has columns, in which no spike is lost."""

from __future__ import annotations

from typing import Any

import numpy as np

BUCKETS = 700  # of a curve: a line of the page has about as many pixels


def thinned(x: np.ndarray, y: np.ndarray, buckets: int = BUCKETS) -> dict[str, Any]:
    """A curve as JSON values: `x` and `mean`, and where lines are joined `low` and `high`.

    x and y (N,) float64, NaN where y is not known. Up to two lines a bucket, every line is a point;
    beyond, `per_point` neighbouring lines are one, at the last of them, with their least, their
    greatest and their mean value.
    """
    n = len(x)
    size = -(-n // buckets)
    if n == 0 or size <= 2:
        return {"per_point": 1, "x": whole(x), "mean": rounded(y)}
    starts = np.arange(0, n, size)
    ends = np.append(starts[1:], n) - 1
    known = ~np.isnan(y)
    counts = np.add.reduceat(known, starts)
    totals = np.add.reduceat(np.where(known, y, 0.0), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, totals / counts, np.nan)
    return {
        "per_point": size, "x": whole(x[ends]), "mean": rounded(mean),
        "low": rounded(np.fmin.reduceat(y, starts)), "high": rounded(np.fmax.reduceat(y, starts)),
    }  # fmt: skip


def rounded(values: np.ndarray) -> list[float | None]:
    """Six digits of each value, None for NaN."""
    return [None if value != value else float(f"{value:.6g}") for value in values.tolist()]


def whole(values: np.ndarray) -> list[int]:
    return [int(value) for value in values.tolist()]
