"""Pairs of a dataset of preferences, as batches: each a chosen conversation and a rejected one.

They are its documents, two by two. A pair of which one has more tokens than a context is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import WindowBatches, shuffle_of
from bardlet.data.dataset.permutation import permute
from bardlet.data.dataset.samples import beginnings
from bardlet.data.dataset.stream import PREPARE_AGAIN, TokenStream
from bardlet.errors import DataError

MULTIPLE = 16  # of positions, that a batch is filled up to


class Pairs:
    """The pairs of a split that fit a context."""

    def __init__(self, dataset: Dataset, split: str, block_size: int) -> None:
        """DataError where no pair fits, or documents are not two by two."""
        self.stream = dataset.splits[split]
        self.block_size = block_size
        begins = np.zeros(0, dtype=np.int64)  # (2 N,)
        for shard, starts in enumerate(beginnings(dataset, split)):
            first = int(self.stream.ends[shard]) - len(self.stream.shards[shard])
            begins = np.append(begins, starts.astype(np.int64) + first)
        if not len(begins) or len(begins) % 2:
            raise DataError(
                f"the {split} split of {dataset.folder} has {len(begins)} documents, not pairs",
                PREPARE_AGAIN,
            )
        self.starts = begins.reshape(-1, 2)  # (N, 2)
        self.sizes = np.diff(np.append(begins, len(self.stream))).reshape(-1, 2)
        fits = self.sizes.max(1) <= block_size + 1
        self.left_out = int((~fits).sum())
        self.starts, self.sizes = self.starts[fits], self.sizes[fits]
        if not len(self):
            raise DataError(
                f"no pair of the {split} split of {dataset.folder} fits block_size={block_size}",
                "Raise block_size, or begin from a model with a longer context",
            )

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def tokens(self) -> float:
        """The mean of the tokens that a pair is of."""
        return float(self.sizes.sum(1).mean())

    def read(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """idx and targets of pairs, chosen before rejected: (B, 2, T) int64 each.

        Shorter ones are filled up at their end, with targets of -1.
        """
        longest = int(self.sizes[numbers].max(initial=1)) - 1
        T = min(-(-longest // MULTIPLE) * MULTIPLE, self.block_size)
        idx = np.zeros((len(numbers), 2, T), dtype=np.int64)
        targets = np.full_like(idx, -1)
        for row, number in enumerate(numbers):
            for side in (0, 1):
                size = int(self.sizes[number, side]) - 1
                window = self.stream.window(int(self.starts[number, side]), size)  # (2, size)
                idx[row, side, :size], targets[row, side, :size] = window
        return torch.from_numpy(idx), torch.from_numpy(targets)


class PairBatches(WindowBatches):
    """Batches of pairs, each taken once an epoch: `batch_size` and what was consumed are pairs."""

    def __init__(self, pairs: Pairs, **options: int) -> None:
        """`options` are those of WindowBatches."""
        super().__init__(block_size=pairs.block_size, **options)
        self.pairs = pairs

    def number(self, place: int) -> int:
        """The pair that stands at a place, counted from iteration 0 on."""
        epoch, place = divmod(place, len(self.pairs))
        _, keys = shuffle_of(self.seed, epoch, 1)
        return permute(place, len(self.pairs), keys)

    def find(self, place: int) -> tuple[TokenStream, int]:
        return self.pairs.stream, int(self.pairs.starts[self.number(place), 0])

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """idx and targets of iteration `it`: (B, 2, T) int64 each, B this rank's share."""
        return self.pairs.read([self.number(place) for place in self.places(it)])
