"""What other ways of scoring give trained runs: strides, longer windows, an ensemble.

    python bench/other_scores.py [RUN ...] [--text FILE] [--stride 64] [--windows 1024]

Beside the loss that all figures here are in, over the whole validation split in windows of 256 or
of a shorter context, stands what the same weights give where the score is taken otherwise. None of
it is a better model: with a stride each character has at least 256 - stride characters before it,
longer windows go beyond what a model was trained with, and an ensemble is several models, the
mean of their probabilities. In float32, by model.py. The counting rows are those of bench/ngram.py.
Without a run, a demo is trained first.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import common
import ngram
import numpy as np
import torch
from best_loss import WINDOWS
from common import Column
from torch.nn import functional as F

from bardlet.model import GPT

AT_ONCE = 4096  # tokens


def main() -> None:
    parser = common.arguments(__doc__, peer=False, repeats=1)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folder of a run")
    parser.add_argument("--stride", type=int, default=64, help="characters scored in each window")
    parser.add_argument("--windows", type=int, default=1024, help="length of the long ones")
    args = parser.parse_args()
    with common.workspace(args) as work:
        val = work.dataset.splits["val"]
        ids = torch.from_numpy(val.read(0, len(val)).astype(np.int64))
        counted = ngram.count(work.dataset)
        if not args.runs:
            args.runs = [str(work.new("demo"))]
            work.train_ours("demo", Path(args.runs[0]))
        models = {run: common.our_model(Path(run)) for run in args.runs}
    usual = min([WINDOWS, *(model.config.block_size for model in models.values())])
    if not 0 < args.stride <= usual <= args.windows:
        parser.error(f"--stride is from 1 to {usual}, and --windows at least {usual}")
    ways = {
        "val_loss": (usual, usual), "strided": (usual, args.stride),
        "long": (args.windows, args.windows),
    }  # fmt: skip
    if not all(model.config.llama for model in models.values()):
        del ways["long"]  # learnt positions end with the context
    losses = {
        run: {way: token_losses(model, ids, *sizes) for way, sizes in ways.items()}
        for run, model in models.items()
    }
    if len(models) > 1:
        each = list(losses.values())
        mean = f"mean of the {len(models)}"
        losses[mean] = {way: of_the_mean([one[way] for one in each]) for way in ways}
    rows = [
        {"case": "", "who": who, **{way: float(nats.mean()) for way, nats in of_one.items()}}
        for who, of_one in losses.items()
    ]
    columns = [
        Column("val_loss", "val loss", ".4f"),
        Column("strided", f"strided by {args.stride}", ".4f"),
        Column("long", f"windows of {args.windows:,}", ".4f"),
    ]
    tables = [common.comparison(rows, columns), ngram.table(counted)]
    common.finish(args, runs=rows, tables=tables, counting=counted)


@torch.no_grad()
def token_losses(model: GPT, ids: torch.Tensor, length: int, stride: int) -> np.ndarray:
    """Nats of each of ids (N,) but the first: (N - 1,) float64, each target once.

    Windows of `length` begin every `stride` tokens, and the last `stride` targets of each count;
    of the first window all do. A model of rotary positions may be longer than it was trained.
    """
    if length > model.config.block_size:
        longer = GPT(dataclasses.replace(model.config, block_size=length))
        longer.load_state_dict(model.state_dict())
        model = longer
    model.eval()
    result = np.full(len(ids) - 1, np.nan)
    starts = [0, *range(stride, len(ids) - 1 - length + stride, stride)]
    rows = max(1, AT_ONCE // length)
    whole = [start for start in starts if start + length < len(ids)]
    batches = [whole[i : i + rows] for i in range(0, len(whole), rows)]
    for batch in [*batches, *([start] for start in starts[len(whole) :])]:
        idx = torch.stack([ids[start : start + length + 1] for start in batch])
        targets = idx[:, 1:]
        logits, _ = model(idx[:, :-1], targets)  # targets: for logits of all positions
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        for start, each in zip(batch, nats.view_as(targets).numpy(), strict=True):
            scored = length - stride if start else 0  # by windows before
            result[start + scored : start + len(each)] = each[scored:]
    assert not np.isnan(result).any(), "each target is scored"
    return result


def of_the_mean(losses: list[np.ndarray]) -> np.ndarray:
    """The nats of the mean of some models' probabilities, from the nats of each."""
    return -np.log(np.mean([np.exp(-each) for each in losses], axis=0))


if __name__ == "__main__":
    main()
