"""Seconds from launch to the end of the first optimizer step, with nanoGPT's settings for a CPU.

    python bench/first_step.py --peer PATH [--text FILE] [--repeats 5] [--out FILE.json]

Both sides evaluate before they train. As documented: the peer on 20 batches of either split,
bardlet on the whole validation split and as many batches of train. The other rows evaluate a single
batch of either. A run ends at its first line of an iteration.
"""

from __future__ import annotations

from typing import Any

import common
from common import OURS, PEER, PEER_CPU, SEED, Column

PRESET = "shakespeare-char-classic-cpu"
FIRST = "iter 0:"
CASES = {
    "as documented": ([], []),
    "one batch evaluated": (["--eval_iters=1"], ["--eval_iters=1", "--eval_full=False"]),
}


def main() -> None:
    args = common.arguments(__doc__, repeats=5).parse_args()
    columns = [Column("seconds", "seconds", ".2f", better="less")]
    runs, tables = [], []
    with common.workspace(args) as work:
        for case, (to_peer, to_ours) in CASES.items():

            def peer(number: int, options: list[str] = to_peer) -> dict[str, Any]:
                flags = [*PEER_CPU, *options]
                return first(work.train_peer(work.new("peer"), *flags, shift=number, until=FIRST))

            def ours(number: int, options: list[str] = to_ours) -> dict[str, Any]:
                flags = ["--log_interval=1", f"--seed={SEED + number}", *options]
                return first(work.train_ours(PRESET, work.new("ours"), *flags, until=FIRST))

            case_runs = common.interleaved({PEER: peer, OURS: ours}, args.repeats, case=case)
            runs += case_runs
            tables.append(common.comparison(case_runs, columns))
    common.finish(args, runs=runs, tables=tables)


def first(ran: common.Process) -> dict[str, Any]:
    """When the first line of an iteration came."""
    return {"seconds": next(at for at, line in ran.lines if line.startswith(FIRST))}


if __name__ == "__main__":
    main()
