"""What a run on pairs takes otherwise than one on text: two sequences each, and a reference.

Batches are filled up to the longest sequence of an iteration, so the peak of a trial is that of the
pairs it has seen: it is carried over to the longest that the run will.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.pairs import MULTIPLE, PairBatches, Pairs
from bardlet.model import GPT
from bardlet.training.preferences import DPO


@dataclass(frozen=True, kw_only=True)
class PairSizes:
    """How many pairs a run on them has, and how long they are."""

    train: Pairs
    validation: Pairs
    reference_bytes: int  # of the frozen model's weights; 0 with LoRA

    @property
    def positions(self) -> int:
        """Of a sequence in the largest batch."""
        longest = int(self.train.sizes.max()) - 1
        return min(-(-longest // MULTIPLE) * MULTIPLE, self.train.block_size)

    def eval_batches(self, config: TrainConfig) -> int:
        """The batches of an evaluation, of both splits."""
        size, sampled = config.batch_size, config.eval_iters * config.batch_size
        on_val = len(self.validation)
        if not config.eval_full:
            on_val = min(on_val, sampled)
        return math.ceil(min(len(self.train), sampled) / size) + math.ceil(on_val / size)

    def seen(self, config: TrainConfig, sequences: int, iterations: int) -> int:
        """The positions of the longest sequence in a trial of so many pairs an iteration."""
        batches = PairBatches(
            self.train, batch_size=sequences, seed=config.seed, rank=0, world_size=1, start=0,
            consumed=0, micro=config.batch_size,
        )  # fmt: skip
        return max(batches.batch(it)[0].size(-1) for it in range(max(1, iterations)))


def pair_sizes(config: TrainConfig, dataset: Dataset | None, model: GPT) -> PairSizes | None:
    """Those of a run on pairs, None of another. DataError where the pairs cannot be read."""
    if config.objective != DPO or dataset is None:
        return None
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return PairSizes(
        train=Pairs(dataset, "train", config.block_size),
        validation=Pairs(dataset, "val", config.block_size),
        reference_bytes=0 if config.lora_rank else weights,
    )


def of_longest(
    measured: dict[str, Any], sizes: PairSizes, config: TrainConfig, sequences: int, fixed: int
) -> dict[str, Any]:
    """What trials of so many pairs an iteration have measured, with the peak of memory of the
    longest pairs; `fixed` bytes of it do not grow with them.
    """
    seen = sizes.seen(config, sequences, measured["iters"])
    grows = max(0, measured["peak_bytes"] - fixed)
    return {**measured, "peak_bytes": fixed + round(grows * sizes.positions / seen)}
