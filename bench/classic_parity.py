"""Does shakespeare-char-classic-cpu learn as nanoGPT does? Both, side by side, scored alike.

    python bench/classic_parity.py --peer PATH_TO_NANOGPT [--text FILE] [--seeds 3] [--out FILE]

Trains nanoGPT with its documented CPU settings and bardlet with the preset of the same settings,
taking turns, on the same tokens and with different seeds, and scores the final weights of both on
the whole validation split in windows of 64 in float32.
"""

from __future__ import annotations

import statistics
from typing import Any

import common
import ngram
from common import OURS, PEER, PEER_CPU, SEED, Column

PRESET = "shakespeare-char-classic-cpu"


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--max_iters", type=int, default=2000)
    args = parser.parse_args()
    length = [f"--max_iters={args.max_iters}", f"--lr_decay_iters={args.max_iters}"]
    # nanoGPT saves where it evaluates: its last evaluation has to come at the end
    interval = min(250, args.max_iters)
    with common.workspace(args) as work:

        def peer(number: int) -> dict[str, Any]:
            out = work.new("peer")
            options = [*PEER_CPU, *length, "--log_interval=100", f"--eval_interval={interval}"]
            options.append("--always_save_checkpoint=True")
            ran = work.train_peer(out, *options, shift=number)
            return {"val_loss": work.score(common.peer_model(out)), "seconds": ran.seconds}

        def ours(number: int) -> dict[str, Any]:
            out = work.new("ours")
            ran = work.train_ours(PRESET, out, *length, f"--seed={SEED + number}")
            return {"val_loss": work.score(common.our_model(out)), "seconds": ran.seconds}

        runs = common.interleaved({PEER: peer, OURS: ours}, args.repeats)
        counted = ngram.count(work.dataset)
    means = {
        who: statistics.mean(run["val_loss"] for run in runs if run["who"] == who)
        for who in (PEER, OURS)
    }
    notes = [f"means {means[PEER]:.4f} and {means[OURS]:.4f}: {means[OURS] - means[PEER]:+.4f}"]
    columns = [Column("val_loss", "val loss", ".4f"), Column("seconds", "seconds")]
    tables = [common.comparison(runs, columns), ngram.table(counted)]
    common.finish(args, runs=runs, tables=tables, notes=notes, means=means, counting=counted)


if __name__ == "__main__":
    main()
