"""Several datasets as one: shares, epochs, what they must have in common."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support import some_text, tiny_config

from bardlet.data.dataset.loader import MIXTURE_BLOCK, MixtureBatches, StreamBatches, batches_of
from bardlet.data.dataset.mixture import Mixture, opened
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import DataError, UsageError
from bardlet.train import train


def streams() -> list[TokenStream]:
    """Two streams whose tokens tell them apart: below 1,000, and from there on."""
    return [TokenStream([np.arange(a, b, dtype=np.uint16)]) for a, b in ((0, 1000), (1000, 5000))]


def mixed(weight: float = 0.7, **options: int) -> MixtureBatches:
    a, b = streams()
    given = {"block_size": 8, "batch_size": 6, "seed": 1, **options}
    found = batches_of([(a, weight), (b, 1 - weight)], **given)
    assert isinstance(found, MixtureBatches)
    return found


@pytest.mark.parametrize("weight", [0.7, 0.5, 0.01])
def test_each_deck_has_the_shares_and_each_window_in_its_turn(weight: float) -> None:
    batches = mixed(weight)
    dealt = [batches.assigned(place) for place in range(2 * MIXTURE_BLOCK)]
    for deck in (dealt[:MIXTURE_BLOCK], dealt[MIXTURE_BLOCK:]):
        assert Counter(part for part, _ in deck)[0] == round(weight * MIXTURE_BLOCK)
    for part in (0, 1):  # no window twice, none left out
        numbers = sorted(number for p, number in dealt if p == part)
        assert numbers == list(range(len(numbers)))
    first = [part for part, _ in dealt[:1000]]
    assert abs(first.count(0) / 1000 - weight) < 0.06  # mixed, not one after the other


def test_a_batch_is_windows_of_the_streams_own_epochs() -> None:
    batches = mixed()
    options = {"block_size": 8, "batch_size": 6, "seed": 1}
    alone = [StreamBatches(stream, **options) for stream in streams()]
    idx, targets = batches.batch(5)
    for row, place in enumerate(range(30, 36)):
        part, number = batches.assigned(place)
        stream, start = alone[part].find(number)
        window = torch.from_numpy(stream.window(start, 8))
        assert torch.equal(idx[row], window[0])
        assert torch.equal(targets[row], window[1])
        assert bool((window >= 1000).all()) == (part == 1)


def test_ranks_share_out_the_mixed_batch() -> None:
    whole, _ = mixed().batch(3)
    for rank in range(2):
        mine, _ = mixed(rank=rank, world_size=2).batch(3)
        assert torch.equal(mine, whole[rank::2])


def test_one_stream_is_not_mixed() -> None:
    assert isinstance(
        batches_of([(streams()[0], 1.0)], block_size=8, batch_size=2, seed=0), StreamBatches
    )


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/a and data/b with the same characters, data/c with others."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("a", some_text(3000)), ("b", some_text(5000, seed=1)), ("c", "xyz" * 99)):
        prepare(Corpus(name=name, text=text, sources=()), Path("data") / name)
    return tmp_path


def test_a_mixture_reads_as_one_dataset(pair: Path) -> None:
    a, b, both = opened("a"), opened("b"), opened("a:3,b:1")
    assert isinstance(both, Mixture)
    assert [share for _, share in both.parts] == [0.75, 0.25]
    assert len(both.splits["train"]) == 2700 + 4500
    val = np.concatenate([d.splits["val"].read(0, 10**6) for d in (a, b)])
    assert np.array_equal(both.splits["val"].read(0, 10**6), val)
    assert len({a.hash, b.hash, both.hash, opened("a:1,b:3").hash}) == 4
    assert opened("a:0.75,b:0.25").hash == both.hash
    both.verify()
    shard = pair / "data/b/train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\7")
    with pytest.raises(DataError, match="damaged"):
        both.verify()


def test_a_mixture_trains_and_goes_on_exactly(pair: Path) -> None:
    whole = train(tiny_config(Path("a:0.7,b:0.3"), pair / "whole"))
    train(tiny_config(Path("a:0.7,b:0.3"), pair / "halves", max_iters=4, lr_decay_iters=8))
    more = {"init_from": "resume", "lr_decay_iters": 8}
    halves = train(tiny_config(Path("a:0.7,b:0.3"), pair / "halves", **more))
    assert halves.iter == whole.iter == 8
    assert halves.val_loss == whole.val_loss


@pytest.mark.parametrize("name", ["a,b", "a:0.7,b", "a:0,b:1", "a:x,b:1", "a:1,:1", "a:nan,b:1"])
def test_a_mixture_needs_weights(pair: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a weight above 0"):
        opened(name)


def test_a_mixture_needs_one_tokenizer_and_long_enough_parts(pair: Path) -> None:
    with pytest.raises(DataError, match="different tokenizers"):
        opened("a:1,c:1")
    with pytest.raises(DataError, match="a dataset of the mixture has 2700"):
        train(tiny_config(Path("a:1,b:1"), pair / "run", block_size=3000))


def test_a_share_that_is_never_dealt_is_refused() -> None:
    parts = list(zip(streams(), (0.99999, 0.00001), strict=True))
    with pytest.raises(UsageError, match=r"less than 1/16,384 of the mixture"):
        batches_of(parts, block_size=8, batch_size=2, seed=0)
