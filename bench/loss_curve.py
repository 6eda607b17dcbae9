"""The validation loss over seconds since launch: nanoGPT with its settings for a CPU, and presets.

    python bench/loss_curve.py --peer PATH [--text FILE] [--presets NAME ...] [--svg FILE.svg]

Each side's own evaluations at its own intervals, as its log has them: nanoGPT estimates on random
batches of the validation split, bardlet evaluates all of it. The seconds have starting Python and
evaluating in them. `--svg` draws the first run of each; it needs matplotlib, which the extra `dev`
brings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from common import PEER, PEER_CPU, SEED, Column, Process

PRESETS = ("shakespeare-char-quick", "demo")
EVALUATION = re.compile(r"step (\d+): train loss [\d.]+, val loss ~?([\d.]+)")


def main() -> None:
    parser = common.arguments(__doc__, repeats=1)
    parser.add_argument("--presets", nargs="+", default=PRESETS, help="of ours")
    parser.add_argument("--svg", type=Path, help="draw the curves into this file")
    args = parser.parse_args()
    with common.workspace(args) as work:

        def peer(number: int) -> dict[str, Any]:
            return curve(work.train_peer(work.new("peer"), *PEER_CPU, shift=number))

        def ours(preset: str) -> Callable[[int], dict[str, Any]]:
            return lambda number: curve(
                work.train_ours(preset, work.new("ours"), f"--seed={SEED + number}")
            )

        runs = common.interleaved(
            {PEER: peer, **{preset: ours(preset) for preset in args.presets}}, args.repeats
        )
    if args.svg:
        draw(runs[: 1 + len(args.presets)], args.svg)
    columns = [Column("seconds", "seconds"), Column("val_loss", "lowest val loss", ".4f")]
    common.finish(args, runs=runs, tables=[common.comparison(runs, columns)])


def curve(ran: Process) -> dict[str, Any]:
    """Every evaluation of a run: `points` of seconds since launch and validation loss."""
    points = [(at, float(m[2])) for at, line in ran.lines if (m := EVALUATION.match(line))]
    best = min(loss for _, loss in points)
    return {"seconds": ran.seconds, "val_loss": best, "points": points}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Write the curves as a picture, seconds on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bardlet"  # the same picture for the same runs
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
    for run, color in zip(runs, ("#8a8a8a", "#c2410c", "#1d4ed8", "#15803d"), strict=False):
        seconds, losses = zip(*run["points"], strict=True)
        axes.plot(seconds, losses, marker="o", markersize=3, color=color, label=run["who"])
        end = f"{losses[-1]:.2f} after {seconds[-1]:.0f} s"
        axes.annotate(
            end, (seconds[-1], losses[-1]), xytext=(0, -12), ha="center",
            textcoords="offset points", fontsize=8, color=color,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(0.06, 0.12)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.set_xlabel("since launch")
    axes.set_ylabel("validation loss, nats per character")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
