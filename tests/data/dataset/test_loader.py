"""Batches as a pure function of (seed, iteration, rank), each epoch covering the stream once."""

from __future__ import annotations

import itertools
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch
from torch import Tensor

from bardlet.data.dataset import loader as loader_module
from bardlet.data.dataset.loader import (
    READ_AHEAD,
    Prefetcher,
    StreamBatches,
    dropout_seed,
    random_batches,
    shuffle_of,
)
from bardlet.data.dataset.permutation import permute
from bardlet.data.dataset.stream import TokenStream, pages
from bardlet.errors import DataError


def counting(size: int) -> TokenStream:
    """A stream in which every token is its own place, in several shards."""
    tokens = np.arange(size, dtype="uint32")
    return TokenStream(np.array_split(tokens, 3))


def loader(
    size: int = 1000, block_size: int = 8, batch_size: int = 6, seed: int = 1, **rank: int
) -> StreamBatches:
    return StreamBatches(
        counting(size), block_size=block_size, batch_size=batch_size, seed=seed, **rank
    )  # fmt: skip


def starts(batches: StreamBatches, its: range) -> list[int]:
    """Where the windows of these iterations begin."""
    return [int(row[0]) for it in its for row in batches.batch(it)[0]]


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_targets_are_the_next_tokens() -> None:
    idx, targets = loader().batch(3)
    assert idx.shape == targets.shape == (6, 8)
    assert idx.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, idx + 1)
    assert torch.equal(idx[:, 1:], targets[:, :-1])


@given(st.integers(0, 10**9), st.integers(0, 2**63 - 1))
def test_a_batch_depends_on_nothing_that_was_asked_before(it: int, seed: int) -> None:
    asked_before = loader(seed=seed)
    for other in (0, it + 1, 5):
        asked_before.batch(other)
    shuffle_of.cache_clear()
    assert equal(asked_before.batch(it), loader(seed=seed).batch(it))


def test_iterations_and_seeds_give_different_batches() -> None:
    batches = [loader(seed=seed).batch(it)[0] for seed in (1, 2) for it in (0, 1, 500)]
    assert all(not torch.equal(a, b) for i, a in enumerate(batches) for b in batches[:i])


def test_the_number_of_shards_changes_no_batch() -> None:
    one = TokenStream([np.arange(1000, dtype="uint32")])
    whole = StreamBatches(one, block_size=8, batch_size=6, seed=1)
    assert all(equal(whole.batch(it), loader().batch(it)) for it in range(50))


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(0, 200), st.integers(0, 100))
def test_an_epoch_covers_each_window_exactly_once(block_size: int, more: int, seed: int) -> None:
    size = block_size + 1 + more
    batches = loader(size, block_size, batch_size=1, seed=seed)
    per_epoch = batches.windows_per_epoch
    assert per_epoch >= max(1, (size - 1) // block_size - 1)
    for epoch in range(3):
        begins = sorted(starts(batches, range(epoch * per_epoch, (epoch + 1) * per_epoch)))
        offset = begins[0]
        assert begins == [offset + i * block_size for i in range(per_epoch)]
        assert begins[-1] + block_size < size


def test_an_epoch_need_not_end_with_a_batch() -> None:
    batches = loader(size=1000, block_size=8, batch_size=7)
    per_epoch = batches.windows_per_epoch
    assert per_epoch % 7
    begins = starts(batches, range(2 * per_epoch // 7 + 1))
    assert len(set(begins[:per_epoch])) == per_epoch
    assert len(set(begins[per_epoch : 2 * per_epoch])) == per_epoch


def test_epochs_differ_in_offset_and_order() -> None:
    batches = loader(size=10_001, block_size=50, batch_size=1)
    per_epoch = batches.windows_per_epoch
    epochs = [starts(batches, range(e * per_epoch, (e + 1) * per_epoch)) for e in range(20)]
    offsets = {min(begins) for begins in epochs}
    assert len(offsets) > 10  # 20 draws out of 50 give about 17 different ones
    orders = {tuple((b - min(begins)) // 50 for b in begins) for begins in epochs}
    assert len(orders) == 20


def test_every_token_is_seen_over_the_epochs() -> None:
    # a fixed offset would never train on the first or the last few
    batches = loader(size=100, block_size=8, batch_size=1)
    seen = {b + i for b in starts(batches, range(5000)) for i in range(9)}
    assert seen == set(range(100))


@pytest.mark.parametrize("size", range(1, 301))
def test_permute_is_a_bijection(size: int) -> None:
    for keys in ((1, 2, 3, 4), (0, 0, 0, 0), (2**32 - 1, 5, 7, 11)):
        assert sorted(permute(i, size, keys) for i in range(size)) == list(range(size))


@given(st.integers(0, 2**20), st.integers(0, 100))
def test_permute_mixes(seed: int, epoch: int) -> None:
    _, keys = shuffle_of(seed, epoch, 1)
    order = [permute(i, 200, keys) for i in range(200)]
    assert order != list(range(200))
    # neighbours of the stream do not stay neighbours: chance gives about two in 199
    steps = sum(abs(a - b) == 1 for a, b in itertools.pairwise(order))
    assert steps < 30


def test_permute_works_beyond_any_memory() -> None:
    size = 10**15
    places = {permute(i, size, (1, 2, 3, 4)) for i in range(1000)}
    assert len(places) == 1000
    assert max(places) < size
    assert max(places) > size // 2


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10_000))
def test_ranks_share_out_the_batch_of_one_process(
    batch_size: int, world_size: int, it: int
) -> None:
    whole = loader(batch_size=batch_size).batch(it)
    parts = [
        loader(batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(min(world_size, batch_size))
    ]
    shares = [part.batch(it) for part in parts]
    for of_whole, of_parts in zip(whole, zip(*shares, strict=True), strict=True):
        rows = [row for part in of_parts for row in part.tolist()]
        assert sorted(rows) == sorted(of_whole.tolist())
    sizes = [len(share[0]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_batches_made_ahead_are_the_same_in_any_order() -> None:
    batches = loader(1000)
    ahead = Prefetcher(batches)
    for it in (0, 1, 2, 7, 8, 3, 3, 4, 0):
        assert equal(ahead.batch(it), batches.batch(it))


def test_the_next_batch_is_made_without_being_asked_for() -> None:
    made: list[int] = []
    third = threading.Event()

    class Watched(StreamBatches):
        def batch(self, it: int) -> tuple[Tensor, Tensor]:
            made.append(it)
            if it == 6:
                third.set()
            return super().batch(it)

    batches = Watched(counting(1000), block_size=4, batch_size=2, seed=0)
    ahead = Prefetcher(batches)
    ahead.batch(4)
    ahead.batch(5)
    assert third.wait(timeout=60)
    ahead.batch(6)
    assert made[:3] == [4, 5, 6]  # each once


def test_what_is_wrong_with_a_batch_is_raised_where_it_is_asked_for() -> None:
    stream = TokenStream([np.arange(100, dtype=np.uint16)], vocab_size=50)
    ahead = Prefetcher(StreamBatches(stream, block_size=9, batch_size=8, seed=0))
    with pytest.raises(DataError, match="beyond the vocabulary"):
        for it in range(4):
            ahead.batch(it)


def test_the_smallest_legal_stream_is_one_window() -> None:
    batches = loader(size=9, block_size=8, batch_size=2)
    for it in range(5):
        idx, targets = batches.batch(it)
        assert idx.tolist() == [list(range(8))] * 2
        assert targets.tolist() == [list(range(1, 9))] * 2


def test_a_stream_of_one_block_is_too_short() -> None:
    with pytest.raises(AssertionError):
        loader(size=8, block_size=8)


def test_a_sampled_estimate_takes_the_same_windows_every_time() -> None:
    options = {"block_size": 8, "batch_size": 4, "count": 3}
    first, again, other = (
        list(random_batches(counting(50), seed=seed, **options)) for seed in (1, 1, 2)
    )
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(torch.equal(idx + 1, targets) for idx, targets in first)
    assert [idx.shape for idx, _ in first] == [(4, 8)] * 3


def test_a_sampled_estimate_reaches_both_ends_of_the_stream() -> None:
    batches = random_batches(counting(12), block_size=8, batch_size=50, count=2, seed=1)
    begins = {int(row[0]) for idx, _ in batches for row in idx}
    assert begins == {0, 1, 2, 3}


def test_dropout_seeds_are_distinct_and_fixed() -> None:
    triples = [(s, it, rank) for s in range(3) for it in range(100) for rank in range(3)]
    seeds = [dropout_seed(*triple) for triple in triples]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [dropout_seed(*triple) for triple in triples]
    assert all(0 <= seed < 2**64 for seed in seeds)
    torch.manual_seed(max(seeds))  # the whole range is taken


@pytest.mark.parametrize("header", [0, 32])
def test_what_is_asked_of_the_disk_holds_the_window(header: int, tmp_path: Path) -> None:
    ids = np.arange(20_000, dtype="<u2")
    path = tmp_path / "ids.bin"
    path.write_bytes(bytes(header) + ids.tobytes())
    mapped = np.memmap(path, dtype="<u2", mode="r", offset=header)
    for first, last in ((0, 1), (5, 2000), (2031, 2033), (2032, 4100), (19_000, 20_000)):
        begin, size = pages(mapped, first, last)
        assert begin % mmap.PAGESIZE == 0
        assert mapped.base[begin : begin + size].endswith(ids[first:last].tobytes())
        assert size < 2 * (last - first) + mmap.PAGESIZE
    TokenStream([mapped, ids]).will_need(19_990, 50)  # nothing to ask for of what is in memory


@pytest.mark.parametrize("limit", [loader_module.READ_WHOLE, 0])
def test_the_disk_is_asked_for_a_short_stream_once(limit: int, monkeypatch: MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(loader_module, "READ_WHOLE", limit)
    monkeypatch.setattr(TokenStream, "will_need", lambda _, *place: asked.append(place))
    batches = loader(size=1000, block_size=8, batch_size=6)
    for it in (0, 1):
        batches.will_need(it)
    each = [(start, 9) for start in starts(batches, range(2))]
    assert asked == ([(0, 1000)] if limit else each)


def test_windows_are_asked_of_the_disk_once_and_early() -> None:
    asked: list[int] = []

    class Watched(StreamBatches):
        def will_need(self, it: int) -> None:
            asked.append(it)

    ahead = Prefetcher(Watched(counting(1000), block_size=4, batch_size=2, seed=0))
    for it in range(5, 9):
        ahead.batch(it)
    ahead.thread.shutdown(wait=True)
    assert asked == list(range(5, 9 + READ_AHEAD))
