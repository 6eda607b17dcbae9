"""Losses of runs as a picture, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.errors import DataError
from bardlet.io.atomic import temporary
from bardlet.report.metrics import Metrics
from bardlet.report.thinning import BUCKETS
from bardlet.system.optional_deps import need

AXES = {"iterations": "iterations", "tokens": "tokens", "seconds": "seconds of training"}
KINDS = (".png", ".svg", ".pdf")


def draw(runs: Sequence[Path], out: Path, *, x: str, log: bool, smooth: float) -> None:
    """Write a picture of train and validation losses to `out`, whose ending says of which kind.

    `x` is one of AXES. `smooth` is the width of the mean over neighbouring iterations, as a part of
    the run; 0 draws them as they are. DataError where there is nothing to draw.
    """
    matplotlib = need("matplotlib", "plot", "bardlet plot")
    figure = need("matplotlib.figure", "plot", "bardlet plot").Figure(
        figsize=(8, 5), layout="constrained"
    )
    axes = figure.subplots()
    drawn = [curve(axes, run, f"C{i % 10}", x, smooth, len(runs) > 1) for i, run in enumerate(runs)]
    if not any(drawn):
        raise DataError(f"no losses in {', '.join(map(str, runs))}", "Train first: bardlet train")
    axes.set_xlabel(AXES[x])
    thousands = need("matplotlib.ticker", "plot", "bardlet plot").EngFormatter(sep="")
    axes.xaxis.set_major_formatter(thousands)
    axes.set_ylabel("loss (nats per token)")
    axes.set_yscale("log" if log else "linear")
    if log:  # a loss spans less than a decade, which has no round powers
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend()
    building = temporary(out)
    try:
        # the same runs give the same file
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(out.suffix, {})
        with matplotlib.rc_context({"svg.hashsalt": "bardlet"}):
            figure.savefig(building, format=out.suffix[1:], dpi=150, metadata=metadata)
        building.replace(out)
    finally:
        building.unlink(missing_ok=True)


def curve(axes: Any, run: Path, colour: str, x: str, smooth: float, several: bool) -> bool:
    """Draw one run; whether it had any loss."""
    metrics = Metrics(run / "metrics.jsonl")
    try:
        metrics.update()
    except OSError as error:
        raise DataError(
            f"cannot read {run / 'metrics.jsonl'}: {error.strerror}",
            "Give the folder that train wrote, such as out/demo",
        ) from None
    iters, losses = metrics.column("iter"), metrics.column("loss")
    done = np.concatenate([[0.0], iters + 1]) if len(iters) else np.zeros(1)
    along = {"iterations": done, "tokens": ahead(metrics.column("tokens")),
             "seconds": ahead(metrics.column("seconds"))}[x]  # fmt: skip
    name = f"{run.as_posix()}, " if several else ""
    at = np.interp(iters, done, along)
    known = np.isfinite(losses) & np.isfinite(at)
    at, losses = at[known], losses[known]
    width = max(1, round(len(losses) * smooth))
    if width > 1:
        axes.plot(*envelope(at, losses), color=colour, alpha=0.25, linewidth=0.8)
    if len(losses):
        means = moving_mean(losses, width)
        axes.plot(*envelope(at, means), color=colour, linewidth=1.6, label=f"{name}train")
    evals = [(e["iter"], e["val_loss"]) for e in metrics.evals
             if isinstance(e.get("val_loss"), int | float)]  # fmt: skip
    if evals:
        places = np.interp([it for it, _ in evals], done, along)
        axes.plot(places, [loss for _, loss in evals], color=colour, linestyle="--", marker="o",
                  markersize=3.5, label=f"{name}validation")  # fmt: skip
    return bool(len(losses)) or bool(evals)


def ahead(values: np.ndarray) -> np.ndarray:
    """Values after each iteration, with 0 before the first: (N + 1,), NaN as the value before."""
    filled = np.concatenate([[0.0], values])
    known = np.maximum.accumulate(np.where(np.isfinite(filled), np.arange(len(filled)), 0))
    return filled[known]


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over `width` values around each, of those that there are at the ends: (N,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(0, places - width // 2), np.minimum(len(values), places + width // 2 + 1)
    return (total[high] - total[low]) / (high - low)


def envelope(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve that a picture shows: of each bucket the least and the greatest."""
    size = len(x) // (2 * BUCKETS) + 1
    if size <= 2:
        return x, y
    starts = np.arange(0, len(x), size)
    parts = [(start, y[start : start + size]) for start in starts]
    at = np.unique([start + f(part) for start, part in parts for f in (np.argmin, np.argmax)])
    return x[at], y[at]
