"""What a run is fed: windows of text, or pairs of answers, and how much of either there is."""

from __future__ import annotations

from dataclasses import dataclass

from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import WindowBatches, batches_of
from bardlet.data.dataset.pairs import PairBatches, Pairs
from bardlet.data.dataset.streamed_batches import StreamedBatches
from bardlet.run.state import RunState
from bardlet.system.distributed import Group
from bardlet.training.consumer import Consumer
from bardlet.training.streaming import train_tokens

PASSES = 4 / 3  # of training on pairs: once more forward, through the reference


@dataclass(frozen=True, kw_only=True)
class Feed:
    """A run's batches, and the sizes of what they are of."""

    batches: WindowBatches  # one an iteration, shared out among the processes
    tokens: int  # of the text, or the pairs, that are trained on
    tokens_per_sequence: float  # of a window, or a pair on average
    passes: float = 1.0  # of training through the model, for a token
    counted_windows: float  # the share in which a target counts in the loss
    stream: Consumer | None = None  # what brings the text, where it comes meanwhile


def feed_of(
    config: TrainConfig, dataset: Dataset, group: Group, start: RunState, sequences: int
) -> Feed:
    """What a run is fed from `start` on, with so many windows or pairs an iteration."""
    shares = {
        "batch_size": sequences, "seed": config.seed, "rank": group.rank,
        "world_size": group.world_size, "start": start.iter, "consumed": start.consumed(sequences),
        "micro": config.batch_size,
    }  # fmt: skip
    if dataset.preferences:
        pairs = Pairs(dataset, "train", config.block_size)
        return Feed(
            batches=PairBatches(pairs, **shares), tokens=round(len(pairs) * pairs.tokens),
            tokens_per_sequence=pairs.tokens, counted_windows=1.0,
            passes=PASSES,
        )  # fmt: skip
    if dataset.stream:
        streamed = StreamedBatches(
            dataset.stream.shard_tokens, block_size=config.block_size, **shares
        )
        return Feed(
            batches=streamed, tokens=train_tokens(dataset), counted_windows=1.0,
            tokens_per_sequence=float(config.block_size),
            stream=Consumer(config, dataset, streamed, group, start.iter),
        )  # fmt: skip
    counted = sum(
        share * stream.counted_windows(config.block_size) for stream, share in dataset.parts
    )
    return Feed(
        batches=batches_of(dataset.parts, block_size=config.block_size, **shares),
        tokens=len(dataset.splits["train"]), tokens_per_sequence=float(config.block_size),
        counted_windows=counted,
    )  # fmt: skip
