"""What a run measures of itself: the losses of an evaluation, and of a model's first look."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.evaluate import evaluate
from bardlet.model import GPT
from bardlet.run.state import Scores
from bardlet.system.device import Machine
from bardlet.system.distributed import Group

FIRST_LOOK = 4096  # tokens of each split: a fraction of a second


def both_losses(
    config: TrainConfig, model: GPT, dataset: Dataset, machine: Machine, group: Group, *,
    stop: Callable[[], bool],
) -> Scores:  # fmt: skip
    """The sampled estimate on train, and validation: on the whole split, or sampled (`eval_full`).

    Raises EvalInterrupted where `stop` says so.
    """
    options: dict[str, Any] = {
        "batch_size": config.batch_size, "machine": machine, "group": group,
        "seed": config.seed, "stop": stop, "doc_mask": config.doc_mask,
    }  # fmt: skip
    on_train = evaluate(model, dataset, "train", sampled=config.eval_iters, **options)
    val_batches = 0 if config.eval_full else config.eval_iters
    on_val = evaluate(model, dataset, "val", sampled=val_batches, **options)
    return Scores(
        train_loss=on_train.loss, val_loss=on_val.loss, bits_per_byte=on_val.bits_per_byte,
        val_batches=val_batches,
    )  # fmt: skip


def first_look(
    config: TrainConfig, model: GPT, dataset: Dataset, machine: Machine, group: Group
) -> Scores:
    """The same on a few sequences: of an untrained model near ln V, unless something is wrong."""
    size = max(1, min(config.batch_size, FIRST_LOOK // config.block_size))
    small = dataclasses.replace(config, batch_size=size, eval_iters=1, eval_full=False)
    return both_losses(small, model, dataset, machine, group, stop=lambda: False)
