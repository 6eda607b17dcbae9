"""Tokens trained on in a second, at identical maths: the same gpt2 shapes, batches and optimizer.

    python bench/throughput.py --peer PATH [--text FILE] [--compile] [--shapes 4L/128] [--repeats 3]

Neither side drops out, but for the row of the peer's own recipe. An iteration's time is the median
over a run's log lines, the first few left out; both sides count forward, backward and step, and
evaluate next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common
from common import OURS, OURS_NO_EVAL, PEER, PEER_CPU, PEER_GPU, PEER_NO_EVAL, Column, Workspace


@dataclass(frozen=True)
class Shape:
    """A model and batch: our preset of it, the peer's options, and how long to run."""

    preset: str
    peer: list[str]
    tokens: int  # in an iteration
    iters: int  # timed
    drop: int  # iterations before those
    documented_dropout: float


SHAPES = {
    "6L/384": Shape("shakespeare-char-classic", PEER_GPU, 64 * 256, 4, 2, 0.2),
    "4L/128": Shape("shakespeare-char-classic-cpu", PEER_CPU, 12 * 64, 200, 20, 0.0),
}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--compile", action="store_true", help="the peer compiled, as one more row")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--iters", type=int, help="timed iterations; default: by the shape")
    args = parser.parse_args()
    runs, tables = [], []
    columns = [
        Column("tokens_per_s", "tokens/s", ",.0f", better="more"),
        Column("ms", "ms per iteration", ",.1f"),
    ]
    with common.workspace(args) as work:
        for name in args.shapes:
            contenders = contenders_of(work, SHAPES[name], args.iters, args.compile)
            case_runs = common.interleaved(contenders, args.repeats, case=name)
            runs += case_runs
            tables.append(common.comparison(case_runs, columns))
    notes = ["auto: the number format that bardlet chooses, bfloat16 where the CPU multiplies it"]
    common.finish(args, runs=runs, tables=tables, notes=notes)


def contenders_of(
    work: Workspace, shape: Shape, iters: int | None, compiled: bool
) -> dict[str, Callable[[int], dict[str, Any]]]:
    """The rows of a shape's table: name to measurement."""
    count = (iters or shape.iters) + shape.drop

    def measured(ran: common.Process) -> dict[str, Any]:
        ms = common.per_iteration(ran.iterations, shape.drop)
        return {"tokens_per_s": shape.tokens * 1000 / ms, "ms": ms}

    def peer(*options: str) -> Callable[[int], dict[str, Any]]:
        # the peer stops after the iteration whose number is max_iters
        flags = [*shape.peer, *PEER_NO_EVAL, f"--max_iters={count - 1}", *options]
        return lambda number: measured(work.train_peer(work.new("peer"), *flags, shift=number))

    def ours(*options: str) -> Callable[[int], dict[str, Any]]:
        flags = [*OURS_NO_EVAL, f"--max_iters={count}", "--log_interval=1", "--dropout=0.0"]
        return lambda number: measured(
            work.train_ours(
                shape.preset, work.new("ours"), *flags, f"--seed={common.SEED + number}", *options
            )
        )

    contenders = {f"{PEER}, float32": peer("--dropout=0.0")}
    if shape.documented_dropout:
        dropout = shape.documented_dropout
        contenders[f"{PEER}, documented: dropout {dropout}"] = peer(f"--dropout={dropout}")
    if compiled:
        contenders[f"{PEER}, compiled"] = peer("--dropout=0.0", "--compile=True")
    contenders[f"{OURS}, auto"] = ours("--dtype=auto")
    contenders[f"{OURS}, float32"] = ours("--dtype=float32")
    return contenders


if __name__ == "__main__":
    main()
