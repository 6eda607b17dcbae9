"""Peak resident memory of the same training step: 6 layers, 384 wide, context 256, batch of 16.

    python bench/memory.py --peer PATH [--text FILE] [--repeats 3] [--out FILE.json]

The whole process, start-up included, over three iterations without dropout. bardlet's saves its
checkpoint at the end, which the peer's does not.
"""

from __future__ import annotations

from typing import Any

import common
from common import OURS, OURS_NO_EVAL, PEER, PEER_GPU, PEER_NO_EVAL, SEED, Column

PRESET = "shakespeare-char-classic"
STEP = ["--batch_size=16", "--dropout=0.0", "--log_interval=1"]


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--iters", type=int, default=3)
    args = parser.parse_args()
    with common.workspace(args) as work:

        def peer(number: int) -> dict[str, Any]:
            flags = [*PEER_GPU, *STEP, *PEER_NO_EVAL, f"--max_iters={args.iters - 1}"]
            return measured(work.train_peer(work.new("peer"), *flags, shift=number))

        def ours(*options: str) -> Any:
            flags = [*STEP, *OURS_NO_EVAL, f"--max_iters={args.iters}", *options]
            return lambda number: measured(
                work.train_ours(PRESET, work.new("ours"), *flags, f"--seed={SEED + number}")
            )

        contenders = {
            f"{PEER}, float32": peer,
            f"{OURS}, auto": ours("--dtype=auto"),
            f"{OURS}, float32": ours("--dtype=float32"),
        }
        runs = common.interleaved(contenders, args.repeats)
    columns = [Column("peak_mb", "peak MB", ",.0f", better="less")]
    common.finish(args, runs=runs, tables=[common.comparison(runs, columns)])


def measured(ran: common.Process) -> dict[str, Any]:
    """The peak in megabytes (10**6 bytes)."""
    assert ran.peak_bytes is not None, "this process has grown larger than what it measures"
    return {"peak_mb": ran.peak_bytes / 1e6}


if __name__ == "__main__":
    main()
