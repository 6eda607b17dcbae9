"""Batches of a stream: windows of its shards in their order, those of a shard shuffled."""

from __future__ import annotations

from bardlet.data.dataset.loader import WindowBatches, shuffle_of
from bardlet.data.dataset.permutation import permute
from bardlet.data.dataset.stream import TokenStream


class StreamedBatches(WindowBatches):
    """Windows of one shard after another, each shard shuffled as an epoch is.

    No window crosses the border of a shard, so which shard the window at a place is in follows from
    its number: with T tokens in a window and S in a shard, (S - 1) // T places are a shard's.
    """

    def __init__(self, shard_tokens: int, **options: int) -> None:
        """`options` are those of WindowBatches; a shard has to hold more than block_size tokens."""
        super().__init__(**options)
        self.windows_per_shard = (shard_tokens - 1) // self.block_size
        self.shards: dict[int, TokenStream] = {}  # those that are on disk and in use
        self.arrived = 0  # shards, which have been on disk
        self.total: int | None = None  # windows in all, once the last shard is there

    def first(self, it: int) -> int:
        """The number of the first window of iteration `it`, of all processes."""
        return self.consumed + (it - self.start) * self.batch_size

    def shard_of(self, place: int) -> int:
        """The shard that the window at a place is in; of one before the first, the first."""
        return max(place, 0) // self.windows_per_shard

    def used_up(self, it: int) -> int:
        """How many shards a run needs no more after `it` iterations.

        The one that was used last stays: the loss on it is a part of an evaluation.
        """
        return self.shard_of(self.first(it) - 1)

    def needs(self, it: int) -> int:
        """How many shards iteration `it` needs, from the first one on."""
        return self.shard_of(self.first(it) + self.batch_size - 1) + 1

    def enough(self, it: int) -> bool:
        """Whether there is text for a whole iteration `it`, as far as is known."""
        return self.total is None or self.first(it) + self.batch_size <= self.total

    def is_ready(self, it: int) -> bool:
        return self.needs(it) <= self.arrived and self.enough(it)

    def add(self, shard: TokenStream) -> None:
        """Take the next shard in use; a shorter one is the last."""
        self.shards[self.arrived] = shard
        windows = max(len(shard) - 1, 0) // self.block_size
        if windows < self.windows_per_shard:
            self.end(windows)
        self.arrived += 1

    def end(self, windows: int = 0) -> None:
        """Take note that there is no more text than this in the shard that comes next."""
        self.total = self.arrived * self.windows_per_shard + windows

    def forget(self, it: int) -> None:
        """Let go of the shards that are used up after `it` iterations."""
        for index in [index for index in self.shards if index < self.used_up(it)]:
            del self.shards[index]

    def find(self, place: int) -> tuple[TokenStream, int]:
        index, window = divmod(place, self.windows_per_shard)
        shard = self.shards[index]
        count = (len(shard) - 1) // self.block_size
        offset, keys = shuffle_of(self.seed, index, len(shard) - count * self.block_size)
        return shard, offset + permute(window, count, keys) * self.block_size

    def will_need(self, it: int) -> None:
        if self.is_ready(it):
            super().will_need(it)
