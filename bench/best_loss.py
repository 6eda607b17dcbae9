"""How low a validation loss a preset reaches, beside the peer's published one and counting.

    python bench/best_loss.py [--preset shakespeare-char-best] [--text FILE] [--out FILE.json]

The weights at the end of every run are scored on the whole validation split in windows of the
peer's length, 256, in float32. The peer's best loss is cited from its README, not measured: it
would take hours here (time_to_loss.py --target 1.47 --full).
"""

from __future__ import annotations

from typing import Any

import common
import ngram
from common import OURS, SEED, Column

CITED = "cited, not measured: nanoGPT's best, by its README on one A100, 1.4697, 10.65M parameters"
WINDOWS = 256


def main() -> None:
    parser = common.arguments(__doc__, peer=False)
    parser.add_argument("--preset", default="shakespeare-char-best", help="what to train")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="tokens of context to score")
    args = parser.parse_args()
    with common.workspace(args) as work:

        def ours(number: int) -> dict[str, Any]:
            out = work.new("ours")
            ran = work.train_ours(args.preset, out, f"--seed={SEED + number}")
            model = common.our_model(out)
            return {
                "val_loss": work.score(model, args.windows),
                "parameters": model.num_params(),
                "train_min": common.our_train_seconds(ran) / 60,
                "total_min": ran.seconds / 60,
            }

        runs = common.interleaved({f"{OURS}, {args.preset}": ours}, args.repeats)
        counted = ngram.count(work.dataset)
    columns = [
        Column("val_loss", "val loss", ".4f"), Column("parameters", "parameters", ",.0f"),
        Column("train_min", "training min", ".2f"), Column("total_min", "total min", ".2f"),
    ]  # fmt: skip
    tables = [common.comparison(runs, columns), ngram.table(counted)]
    common.finish(args, runs=runs, tables=tables, notes=[CITED], counting=counted)


if __name__ == "__main__":
    main()
