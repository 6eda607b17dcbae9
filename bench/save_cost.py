"""What saving costs training: seconds that the loop is longer for each checkpoint.

    python bench/save_cost.py [--text FILE] [--preset shakespeare-char-best] [--iters 40]
                              [--every 5] [--repeats 3] [--out FILE.json]

The same run with a checkpoint every few iterations and with none but the last, in turns. The loop's
time is that from the first iteration's line to the last one's. Beside it, what the default of one
checkpoint in ten minutes comes to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
from common import OURS_NO_EVAL, SEED, Column

EVERY_S = 600  # the default of save_minutes


def main() -> None:
    parser = common.arguments(__doc__, peer=False)
    parser.add_argument("--preset", default="shakespeare-char-best")
    parser.add_argument("--iters", type=int, default=40)
    parser.add_argument("--every", type=int, default=5, help="iterations between saves")
    args = parser.parse_args()
    with common.workspace(args) as work:

        def train(*options: str) -> Any:
            def one(number: int) -> dict[str, Any]:
                out = work.new("run")
                length = [f"--max_iters={args.iters}", "--stages=1"]
                flags = [*OURS_NO_EVAL, "--log_interval=1", *length, *options]
                ran = work.train_ours(args.preset, out, *flags, f"--seed={SEED + number}")
                return {"loop_s": loop_s(ran), "mb": newest_mb(out)}

            return one

        saving = f"saved every {args.every} iterations"
        contenders = {"not saved": train(), saving: train(f"--save_interval={args.every}")}
        runs = common.interleaved(contenders, args.repeats)
    saves = (args.iters - 1) // args.every
    rows = []
    for plain, saved in zip(runs[::2], runs[1::2], strict=True):
        saved["save_ms"] = (saved["loop_s"] - plain["loop_s"]) / saves * 1000
        share = saved["save_ms"] / 1000 / EVERY_S
        rows.append([f"seed {saved['seed']}", f"{saved['save_ms']:.0f}", f"{share:.4%}"])
    columns = [
        Column("loop_s", "loop, s", ".2f", better="less"), Column("mb", "checkpoint, MB", ".0f"),
    ]  # fmt: skip
    costs = common.table(["", "ms a checkpoint", "of ten minutes"], rows)
    common.finish(args, runs=runs, tables=[common.comparison(runs, columns), costs])


def loop_s(ran: common.Process) -> float:
    """From the first iteration's line to the last one's."""
    times = [at for at, line in ran.lines if line.startswith("iter ")]
    return times[-1] - times[0]


def newest_mb(out: Path) -> float:
    """The size of a run's newest checkpoint, in megabytes (10**6 bytes)."""
    newest = max((out / "checkpoints").glob("iter-*"))
    return sum(file.stat().st_size for file in newest.iterdir()) / 1e6


if __name__ == "__main__":
    main()
