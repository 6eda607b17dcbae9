"""Training batches as a pure function of (seed, iteration, rank): there is no state to save.

One epoch cuts the stream into windows from a fresh random offset and takes each window once, in
an order that a keyed permutation gives in constant memory, however many windows there are.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bardlet.data.dataset.permutation import permute
from bardlet.data.dataset.stream import TokenStream
from bardlet.errors import UsageError

TRAIN, EVAL, DROPOUT, MIXTURE = 0, 1, 2, 3  # separate random streams: evaluating changes no batch
MIXTURE_BLOCK = 1 << 14  # windows; a share is exact to a 16,384th
READ_WHOLE = 1 << 26  # bytes of a stream that the disk is asked for at once, not by windows
READ_AHEAD = 16  # iterations whose windows the disk is asked for at once
TRIES = 1000  # windows drawn until one has a token that counts


class WindowBatches(ABC):
    """One rank's batches: `batch(it)` depends on `it` and the options only."""

    def __init__(
        self, *, block_size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1,
        start: int = 0, consumed: int = 0, micro: int = 1,
    ) -> None:  # fmt: skip
        """`batch_size` is that of a whole iteration, of which each rank takes every n-th window, or
        every n-th micro-batch of `micro` where each has as many: such a one is the same on any
        number of processes.

        Before iteration `start`, the first that is asked for, `consumed` windows have been taken,
        in batches of whatever sizes.
        """
        self.block_size, self.batch_size, self.seed = block_size, batch_size, seed
        if batch_size % (micro * world_size):
            micro = 1
        # this rank's places in a batch
        self.mine = [place for place in range(batch_size) if place // micro % world_size == rank]
        self.start, self.consumed = start, consumed

    @abstractmethod
    def find(self, place: int) -> tuple[TokenStream, int]:
        """The stream and the start of window number `place`, counted from iteration 0 on."""

    def places(self, it: int) -> list[int]:
        """The numbers of this rank's windows of iteration `it`."""
        first = self.consumed + (it - self.start) * self.batch_size
        return [first + place for place in self.mine]

    def windows(self, it: int) -> list[tuple[TokenStream, int]]:
        return [self.find(place) for place in self.places(it)]

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """idx and targets of iteration `it`: (B, T) int64 each, B this rank's share."""
        return as_tensors(windows_of(self.windows(it), self.block_size))

    def is_ready(self, it: int) -> bool:
        """Whether the text of iteration `it` is there."""
        return True

    def will_need(self, it: int) -> None:
        """Ask the system to read the windows of iteration `it`."""
        for stream, start in self.windows(it):
            stream.will_need(start, self.block_size + 1)


class StreamBatches(WindowBatches):
    """Windows of one stream, which has to hold more than block_size tokens."""

    def __init__(self, stream: TokenStream, **options: int) -> None:
        """`options` are those of WindowBatches."""
        super().__init__(**options)
        assert len(stream) > self.block_size
        self.stream = stream
        self.asked = False  # whether the disk was asked for all of a short stream
        # one window fewer than would fit leaves room for the offset to reach every token
        self.windows_per_epoch = max(1, (len(stream) - 1) // self.block_size - 1)

    def find(self, place: int) -> tuple[TokenStream, int]:
        return self.stream, self.start_of(*divmod(place, self.windows_per_epoch))

    def will_need(self, it: int) -> None:
        if self.stream.size_bytes > READ_WHOLE:
            super().will_need(it)
        elif not self.asked:
            self.stream.will_need(0, len(self.stream))
            self.asked = True

    def start_of(self, epoch: int, place: int) -> int:
        """Where in the stream window number `place` of an epoch begins."""
        offsets = len(self.stream) - self.windows_per_epoch * self.block_size
        offset, keys = shuffle_of(self.seed, epoch, offsets)
        return offset + permute(place, self.windows_per_epoch, keys) * self.block_size


class MixtureBatches(WindowBatches):
    """Windows of several streams in given shares, each stream in epochs of its own.

    Of MIXTURE_BLOCK consecutive places each stream has its share, shuffled by a keyed permutation:
    the window at a place follows from its number alone, and needs no memory.
    """

    def __init__(self, parts: Sequence[tuple[TokenStream, float]], **options: int) -> None:
        """`parts` are streams with shares that add up to 1; `options` are those of WindowBatches.

        UsageError for a share that is less than one window of a block.
        """
        super().__init__(**options)
        self.parts = [StreamBatches(stream, **options) for stream, _ in parts]
        shares = np.cumsum([share for _, share in parts])
        self.ends = np.rint(shares * MIXTURE_BLOCK).astype(np.int64)
        self.counts = np.diff(self.ends, prepend=0)  # of each stream in a block
        if not self.counts.all():
            raise UsageError(
                f"a dataset with less than 1/{MIXTURE_BLOCK:,} of the mixture is never seen"
            )

    def find(self, place: int) -> tuple[TokenStream, int]:
        part, number = self.assigned(place)
        return self.parts[part].find(number)

    def assigned(self, place: int) -> tuple[int, int]:
        """The stream that a place has a window of, and the window's number in that stream."""
        block, index = divmod(place, MIXTURE_BLOCK)
        shuffled = permute(index, MIXTURE_BLOCK, block_keys(self.seed, block))
        part = int(np.searchsorted(self.ends, shuffled, side="right"))
        count = int(self.counts[part])
        return part, block * count + shuffled - int(self.ends[part]) + count


def batches_of(parts: Sequence[tuple[TokenStream, float]], **options: int) -> WindowBatches:
    """Batches of one stream, or of several in their shares."""
    if len(parts) == 1:
        return StreamBatches(parts[0][0], **options)
    return MixtureBatches(parts, **options)


@functools.lru_cache(maxsize=4)
def block_keys(seed: int, block: int) -> tuple[int, ...]:
    """The keys of the permutation of a mixture's block."""
    generator = np.random.default_rng((seed, MIXTURE, block))
    return tuple(generator.integers(0, 2**32, size=4, dtype=np.uint64).tolist())


class Prefetcher:
    """The same batches, each made in a thread while the one before it is trained on.

    The windows of the next READ_AHEAD iterations are read ahead, so that no batch waits for a disk.
    """

    def __init__(self, batches: WindowBatches, *, pin: bool = False) -> None:
        """`pin` puts batches in pinned memory, from where a GPU copies while it computes."""
        self.batches, self.pin = batches, pin
        self.requested = -1  # the last iteration whose windows the disk was asked for
        self.thread = ThreadPoolExecutor(1, "batches")
        self.next: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """The batch of iteration `it`; it is ready if the last call was for `it` - 1."""
        ready = self.next.get(it) or self.thread.submit(self.make, it)
        later = [it + 1] if self.batches.is_ready(it + 1) else []
        self.next = {number: self.thread.submit(self.make, number) for number in later}
        return ready.result()

    def make(self, it: int) -> tuple[Tensor, Tensor]:
        for later in range(max(it, self.requested + 1), it + READ_AHEAD):
            self.batches.will_need(later)
            self.requested = later
        idx, targets = self.batches.batch(it)
        return (idx.pin_memory(), targets.pin_memory()) if self.pin else (idx, targets)


@functools.lru_cache(maxsize=4)
def shuffle_of(seed: int, epoch: int, offsets: int) -> tuple[int, tuple[int, ...]]:
    """An epoch's offset, in range(offsets), and the keys of its permutation."""
    generator = np.random.default_rng((seed, TRAIN, epoch))
    keys = generator.integers(0, 2**32, size=4, dtype=np.uint64)
    return int(generator.integers(0, offsets)), tuple(keys.tolist())


def first_seen(idx: Tensor, end_of_text: int | None) -> Tensor | None:
    """The earliest position that each attends to where documents are kept apart: int64, as idx
    (..., T) is.

    A document begins with the end-of-text token before it, which is what it is sampled from. None
    where there is no such token.
    """
    if end_of_text is None:
        return None
    positions = torch.arange(idx.size(-1), device=idx.device).expand_as(idx)
    return torch.where(idx == end_of_text, positions, 0).cummax(dim=-1).values


def random_batches(
    stream: TokenStream, *, block_size: int, batch_size: int, count: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches of random windows with replacement, for nanoGPT's sampled loss estimate.

    They are the same in every call, so that two estimates differ by the weights only.
    """
    generator = np.random.default_rng((seed, EVAL))
    for _ in range(count):
        starts = generator.integers(0, len(stream) - block_size, size=batch_size)
        windows = stream.windows(starts.tolist(), block_size)
        for i in range(batch_size * stream.masked):
            for _ in range(TRIES):
                if windows[1, i].max() >= 0:
                    break
                start = int(generator.integers(0, len(stream) - block_size))
                windows[:, i] = stream.window(start, block_size)
        yield as_tensors(windows)


def dropout_seed(seed: int, it: int, place: int) -> int:
    """The seed of the generator of dropout masks at an iteration, of its micro-batch `place`."""
    state = np.random.SeedSequence((seed, DROPOUT, it, place)).generate_state(1, np.uint64)
    return int(state[0])


def windows_of(places: Sequence[tuple[TokenStream, int]], length: int) -> np.ndarray:
    """The windows at these places: (2, B, length) int64, inputs and targets."""
    windows = np.empty((2, len(places), length), dtype=np.int64)
    for stream in dict.fromkeys(stream for stream, _ in places):
        rows = [row for row, (other, _) in enumerate(places) if other is stream]
        if len(rows) == len(places):
            return stream.windows([start for _, start in places], length)
        windows[:, rows] = stream.windows([places[row][1] for row in rows], length)
    return windows


def as_tensors(windows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Windows (2, B, T) as idx and targets, (B, T) int64 each."""
    idx, targets = torch.from_numpy(windows)  # (B, T) each
    return idx, targets
