"""Training batches as a pure function of (seed, iteration, rank): nothing to save or to lose.

One epoch cuts the stream into windows from a fresh random offset and takes each window once, in
an order that a keyed permutation gives in constant memory, however many windows there are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bardlet.data.dataset import TokenStream

TRAIN, EVAL, DROPOUT = 0, 1, 2  # separate random streams: evaluating changes no batch


class Batches:
    """Windows of a stream for one rank: `batch(it)` is the same whoever asks and whenever."""

    def __init__(
        self,
        stream: TokenStream,
        *,
        block_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`batch_size` is that of a whole iteration, which the ranks share out in turn.

        The stream has to hold more than block_size tokens.
        """
        assert len(stream) > block_size
        self.stream, self.block_size, self.batch_size, self.seed = (
            stream, block_size, batch_size, seed,
        )  # fmt: skip
        self.mine = np.arange(rank, batch_size, world_size)  # this rank's places in a batch
        # one window fewer than would fit leaves room for the offset to reach every token
        self.windows_per_epoch = max(1, (len(stream) - 1) // block_size - 1)

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """idx and targets of iteration `it`: (B, T) int64 each, B this rank's share."""
        places = it * self.batch_size + self.mine  # counted from the first window ever
        starts = [self.start_of(*divmod(int(p), self.windows_per_epoch)) for p in places]
        return as_tensors(self.stream, starts, self.block_size)

    def start_of(self, epoch: int, place: int) -> int:
        """Where in the stream window number `place` of an epoch begins."""
        offsets = len(self.stream) - self.windows_per_epoch * self.block_size
        offset, keys = shuffle_of(self.seed, epoch, offsets)
        return offset + permute(place, self.windows_per_epoch, keys) * self.block_size


class Ahead:
    """Batches made in a thread while the one before is trained on; which they are, stays."""

    def __init__(self, batches: Batches, *, pin: bool = False) -> None:
        """`pin` puts them where a GPU copies from while it computes."""
        self.batches, self.pin = batches, pin
        self.thread = ThreadPoolExecutor(1, "batches")
        self.coming: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """The batch of iteration `it`, which is ready where the one before was asked for last."""
        ready = self.coming.get(it) or self.thread.submit(self.make, it)
        self.coming = {it + 1: self.thread.submit(self.make, it + 1)}
        return ready.result()

    def make(self, it: int) -> tuple[Tensor, Tensor]:
        idx, targets = self.batches.batch(it)
        return (idx.pin_memory(), targets.pin_memory()) if self.pin else (idx, targets)


@functools.lru_cache(maxsize=4)
def shuffle_of(seed: int, epoch: int, offsets: int) -> tuple[int, tuple[int, ...]]:
    """An epoch's offset, in range(offsets), and the keys of its permutation."""
    generator = np.random.default_rng((seed, TRAIN, epoch))
    keys = generator.integers(0, 2**32, size=4, dtype=np.uint64)
    return int(generator.integers(0, offsets)), tuple(keys.tolist())


def permute(index: int, size: int, keys: tuple[int, ...]) -> int:
    """The place of `index` in a pseudorandom permutation of range(size).

    A Feistel network (Luby and Rackoff 1988) over the next even number of bits, walked on until
    it lands inside: any keys give a permutation, and it needs no memory.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & low)
        index = left << half | right
        if index < size:
            return index


def mix(x: int) -> int:
    """A 64-bit hash of an integer (the finaliser of splitmix64)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31


def random_batches(
    stream: TokenStream, *, block_size: int, batch_size: int, count: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches of random windows with replacement, for nanoGPT's sampled loss estimate.

    The same ones each time they are asked for, so that two estimates differ by the weights only.
    """
    generator = np.random.default_rng((seed, EVAL))
    for _ in range(count):
        starts = generator.integers(0, len(stream) - block_size, size=batch_size)
        yield as_tensors(stream, starts.tolist(), block_size)


def dropout_seed(seed: int, it: int, rank: int) -> int:
    """What to seed the generator of dropout masks with at an iteration."""
    state = np.random.SeedSequence((seed, DROPOUT, it, rank)).generate_state(1, np.uint64)
    return int(state[0])


def as_tensors(stream: TokenStream, starts: list[int], block_size: int) -> tuple[Tensor, Tensor]:
    """Windows of block_size + 1 tokens from `starts` as idx and targets, (B, T) int64 each."""
    tokens = np.stack([stream.read(start, block_size + 1) for start in starts])  # (B, T + 1)
    return torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(tokens[:, 1:].copy())
