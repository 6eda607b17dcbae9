"""Training batches as a pure function of (seed, iteration, rank): nothing to save or to lose.

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

TRAIN, EVAL, DROPOUT, DEAL = 0, 1, 2, 3  # separate random streams: evaluating changes no batch
DECK = 1 << 14  # a share is exact to a 16,384th
DEEP = 16  # iterations whose windows are asked of the disk at once
TRIES = 1000  # windows looked at, where a whole one may not count


class Windows(ABC):
    """One rank's batches: `batch(it)` is the same whoever asks and whenever."""

    def __init__(
        self, *, block_size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """`batch_size` is that of a whole iteration, which the ranks share out in turn."""
        self.block_size, self.batch_size, self.seed = block_size, batch_size, seed
        self.mine = np.arange(rank, batch_size, world_size)  # this rank's places in a batch

    @abstractmethod
    def find(self, place: int) -> tuple[TokenStream, int]:
        """Where window number `place`, counted from the first one ever, begins, in which stream."""

    def found(self, it: int) -> list[tuple[TokenStream, int]]:
        return [self.find(int(place)) for place in it * self.batch_size + self.mine]

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """idx and targets of iteration `it`: (B, T) int64 each, B this rank's share."""
        return as_tensors([s.window(start, self.block_size) for s, start in self.found(it)])

    def will_need(self, it: int) -> None:
        """Have the system read what the batch of iteration `it` is made of."""
        for stream, start in self.found(it):
            stream.will_need(start, self.block_size + 1)


class Batches(Windows):
    """Windows of one stream, which has to hold more than block_size tokens."""

    def __init__(self, stream: TokenStream, **options: int) -> None:
        """`options` are those of Windows."""
        super().__init__(**options)
        assert len(stream) > self.block_size
        self.stream = stream
        # one window fewer than would fit leaves room for the offset to reach every token
        self.windows_per_epoch = max(1, (len(stream) - 1) // self.block_size - 1)

    def find(self, place: int) -> tuple[TokenStream, int]:
        return self.stream, self.start_of(*divmod(place, self.windows_per_epoch))

    def start_of(self, epoch: int, place: int) -> int:
        """Where in the stream window number `place` of an epoch begins."""
        offsets = len(self.stream) - self.windows_per_epoch * self.block_size
        offset, keys = shuffle_of(self.seed, epoch, offsets)
        return offset + permute(place, self.windows_per_epoch, keys) * self.block_size


class Mixed(Windows):
    """Windows of several streams in given shares, each stream in epochs of its own.

    Places are dealt in decks that hold each stream's share of cards, shuffled by a keyed
    permutation: which window a place has needs neither the places before nor any memory.
    """

    def __init__(self, parts: Sequence[tuple[TokenStream, float]], **options: int) -> None:
        """`parts` are streams with shares that add up to 1; `options` are those of Windows."""
        super().__init__(**options)
        self.parts = [Batches(stream, **options) for stream, _ in parts]
        ends = np.rint(np.cumsum([share for _, share in parts]) * DECK).astype(np.int64)
        self.cards = np.diff(ends, prepend=0)  # of each stream in a deck
        if not self.cards.all():
            raise UsageError(f"a dataset with less than 1/{DECK:,} of the mixture is never seen")
        self.ends = ends

    def find(self, place: int) -> tuple[TokenStream, int]:
        part, number = self.dealt(place)
        return self.parts[part].find(number)

    def dealt(self, place: int) -> tuple[int, int]:
        """Which stream a place has a window of, and the window's number among that stream's."""
        deck, turn = divmod(place, DECK)
        card = permute(turn, DECK, deck_keys(self.seed, deck))
        part = int(np.searchsorted(self.ends, card, side="right"))
        number = card - int(self.ends[part] - self.cards[part])
        return part, deck * int(self.cards[part]) + number


def batches_of(parts: Sequence[tuple[TokenStream, float]], **options: int) -> Windows:
    """Batches of one stream, or of several in their shares."""
    return Batches(parts[0][0], **options) if len(parts) == 1 else Mixed(parts, **options)


@functools.lru_cache(maxsize=4)
def deck_keys(seed: int, deck: int) -> tuple[int, ...]:
    """The keys of a deck's permutation."""
    generator = np.random.default_rng((seed, DEAL, deck))
    return tuple(generator.integers(0, 2**32, size=4, dtype=np.uint64).tolist())


class Ahead:
    """Batches made in a thread while the one before is trained on; which they are, stays.

    What later ones are made of is asked of the disk before, so that nothing waits for it.
    """

    def __init__(self, batches: Windows, *, pin: bool = False) -> None:
        """`pin` puts them where a GPU copies from while it computes."""
        self.batches, self.pin = batches, pin
        self.asked = -1  # the last iteration whose windows were asked of the disk
        self.thread = ThreadPoolExecutor(1, "batches")
        self.coming: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def batch(self, it: int) -> tuple[Tensor, Tensor]:
        """The batch of iteration `it`, which is ready where the one before was asked for last."""
        ready = self.coming.get(it) or self.thread.submit(self.make, it)
        self.coming = {it + 1: self.thread.submit(self.make, it + 1)}
        return ready.result()

    def make(self, it: int) -> tuple[Tensor, Tensor]:
        for later in range(max(it, self.asked + 1), it + DEEP):
            self.batches.will_need(later)
            self.asked = later
        idx, targets = self.batches.batch(it)
        return (idx.pin_memory(), targets.pin_memory()) if self.pin else (idx, targets)


@functools.lru_cache(maxsize=4)
def shuffle_of(seed: int, epoch: int, offsets: int) -> tuple[int, tuple[int, ...]]:
    """An epoch's offset, in range(offsets), and the keys of its permutation."""
    generator = np.random.default_rng((seed, TRAIN, epoch))
    keys = generator.integers(0, 2**32, size=4, dtype=np.uint64)
    return int(generator.integers(0, offsets)), tuple(keys.tolist())


def first_seen(idx: Tensor, end_of_text: int | None) -> Tensor | None:
    """The earliest position that each attends to where documents are kept apart: (B, T) int64.

    A document begins with the end of the one before it, which is what it is sampled from. None
    where nothing stands between documents.
    """
    if end_of_text is None:
        return None
    positions = torch.arange(idx.size(1), device=idx.device).expand_as(idx)
    return torch.where(idx == end_of_text, positions, 0).cummax(dim=1).values


def random_batches(
    stream: TokenStream, *, block_size: int, batch_size: int, count: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches of random windows with replacement, for nanoGPT's sampled loss estimate.

    The same ones each time they are asked for, so that two estimates differ by the weights only.
    """
    generator = np.random.default_rng((seed, EVAL))
    for _ in range(count):
        starts = generator.integers(0, len(stream) - block_size, size=batch_size)
        windows = [stream.window(start, block_size) for start in starts.tolist()]
        for i in range(batch_size * stream.masked):
            for _ in range(TRIES):  # to find one in which something counts
                if windows[i][1].max() >= 0:
                    break
                start = int(generator.integers(0, len(stream) - block_size))
                windows[i] = stream.window(start, block_size)
        yield as_tensors(windows)


def dropout_seed(seed: int, it: int, rank: int) -> int:
    """What to seed the generator of dropout masks with at an iteration."""
    state = np.random.SeedSequence((seed, DROPOUT, it, rank)).generate_state(1, np.uint64)
    return int(state[0])


def as_tensors(windows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Windows as idx and targets, (B, T) int64 each."""
    idx, targets = torch.from_numpy(np.stack(windows, axis=1))  # (B, T) each
    return idx, targets
