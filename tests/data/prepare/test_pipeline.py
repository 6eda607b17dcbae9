"""From a text to a dataset folder: what is in it, and that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CORPUS

from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare import work
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import corpus
from bardlet.data.text.corpus import Corpus, Source
from bardlet.data.tokenizers import base
from bardlet.errors import DataError, UsageError

TEXT = "To be, or not to be: that is the question.\n" * 10


def prepared(folder: Path, text: str = TEXT, **options: Any) -> Dataset:
    source = Source(name="x.txt", bytes=len(text), sha256="0" * 64)
    given = Corpus(name="x", text=text, sources=(source,), notes=("a note",))
    return prepare(given, folder, **options)


def test_a_dataset_folder_has_these_files_and_no_others(tmp_path: Path) -> None:
    prepared(tmp_path / "a" / "d")
    names = sorted(path.name for path in (tmp_path / "a" / "d").iterdir())
    assert names == ["manifest.json", "tokenizer.json", "train-00000.bin", "val-00000.bin"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["d"]


def test_the_manifest_says_what_the_dataset_is_made_of(tmp_path: Path) -> None:
    manifest = prepared(tmp_path / "d", "a\u00e9" * 50).manifest
    assert manifest == json.loads((tmp_path / "d" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == 1
    assert manifest["name"] == "x"
    assert manifest["tokenizer"] == "char"
    assert manifest["vocab_size"] == 2
    assert manifest["split"] == {"by": "position", "val_fraction": 0.1}
    assert manifest["sources"] == [{"name": "x.txt", "bytes": 100, "sha256": "0" * 64}]
    assert manifest["notes"] == ["a note"]
    train = manifest["splits"]["train"]
    assert (train["documents"], train["characters"], train["tokens"]) == (1, 90, 90)
    assert train["bytes"] == 45 + 2 * 45


def test_the_hashes_in_the_manifest_are_those_of_the_bytes(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "d", shard_tokens=100)
    for split in dataset.manifest["splits"].values():
        whole = hashlib.sha256()
        for shard in split["shards"]:
            raw = (tmp_path / "d" / shard["file"]).read_bytes()
            assert hashlib.sha256(raw).hexdigest() == shard["sha256"]
            assert len(raw) == 32 + 2 * shard["tokens"]
            whole.update(raw[32:])
        assert whole.hexdigest() == split["sha256"]


@settings(max_examples=30)
@given(n=st.integers(2, 500), val_fraction=st.sampled_from([0.1, 0.1, 0.001, 0.999]))
def test_the_border_is_nanogpts_and_no_side_is_empty(
    n: int, val_fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("d") / "d"
    dataset = prepared(folder, ("ab" * n)[:n], val_fraction=val_fraction)
    train, val = (len(dataset.splits[split]) for split in ("train", "val"))
    assert train + val == n
    expected = int(n * 0.9) if val_fraction == 0.1 else int(n * (1 - val_fraction))
    assert train == min(max(expected, 1), n - 1)


@pytest.mark.skipif(not CORPUS.is_file(), reason="the canonical file is not on this machine")
def test_the_canonical_file_gives_nanogpts_numbers_and_ids(tmp_path: Path) -> None:
    loaded = corpus.load("tinyshakespeare", file=CORPUS)
    assert loaded.notes == ()
    dataset = prepare(loaded, tmp_path / "d")
    text = CORPUS.read_text(encoding="utf-8")
    place = {char: i for i, char in enumerate(sorted(set(text)))}
    assert (len(text), dataset.vocab_size) == (1_115_394, 65)
    ids = np.array([place[char] for char in text])
    train, val = (dataset.splits[s].read(0, 10**9) for s in ("train", "val"))
    assert (len(train), len(val)) == (1_003_854, 111_540)
    assert (np.concatenate([train, val]) == ids).all()


@pytest.mark.parametrize(
    ("vocab_size", "width"), [(65_536, 2), (65_537, 4)], ids=["the most", "one more"]
)
def test_ids_take_four_bytes_where_two_do_not_hold_them(
    vocab_size: int, width: int, tmp_path: Path
) -> None:
    points = [i for i in range(0x20000) if not 0xD800 <= i < 0xE000][:vocab_size]
    text = "".join(map(chr, points))
    dataset = prepared(tmp_path / "d", text)
    shard = dataset.splits["val"].shards[0]
    assert dataset.vocab_size == vocab_size
    assert shard.dtype.itemsize == width
    assert int(shard[-1]) == vocab_size - 1
    ids = np.concatenate([dataset.splits[split].read(0, 10**6) for split in ("train", "val")])
    assert dataset.tokenizer.decode(ids) == text


def test_the_same_text_gives_the_same_dataset(tmp_path: Path) -> None:
    a, b = (prepared(tmp_path / name) for name in "ab")
    assert a.manifest == b.manifest
    for name in ("tokenizer.json", "train-00000.bin", "val-00000.bin", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_hash_is_that_of_the_tokens_and_not_of_the_shards(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "a")
    cut = prepared(tmp_path / "b", shard_tokens=17)
    assert len(cut.splits["train"].shards) > 1
    assert cut.hash == whole.hash


def test_another_text_split_or_alphabet_gives_another_hash(tmp_path: Path) -> None:
    hashes = {
        prepared(tmp_path / "a").hash,
        prepared(tmp_path / "b", TEXT.replace("To", "oT")).hash,
        prepared(tmp_path / "c", val_fraction=0.2).hash,
        prepared(tmp_path / "d", TEXT.replace("T", "U")).hash,  # the same ids
    }
    assert len(hashes) == 4


def test_an_earlier_dataset_is_replaced(tmp_path: Path) -> None:
    prepared(tmp_path / "d", shard_tokens=17)
    prepared(tmp_path / "d", "abc" * 10)
    assert prepared(tmp_path / "d", "abc" * 10).vocab_size == 3
    assert len(list((tmp_path / "d").iterdir())) == 4


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert len(prepared(tmp_path / "d").splits["train"]) > 0


def test_a_folder_that_is_no_dataset_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("years of work", encoding="utf-8")
    (tmp_path / "file").write_text("as well", encoding="utf-8")
    for name in ("d", "file"):
        with pytest.raises(DataError, match="is there and is not a dataset"):
            prepared(tmp_path / name)
    assert (tmp_path / "d" / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert (tmp_path / "file").read_text(encoding="utf-8") == "as well"


def test_a_tokenizer_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "tokenizer.json").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="is there and is not a dataset"):
        prepared(tmp_path / "d")
    assert (tmp_path / "d" / "tokenizer.json").read_text(encoding="utf-8") == "mine"


def fail(*args: object, **options: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["SplitWriter", "write_text"])
def test_a_write_that_fails_leaves_what_was_there(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(tmp_path / "old").manifest
    monkeypatch.setattr(work, step, fail)
    for name in ("old", "new"):
        with pytest.raises(DataError, match=r"cannot write .*: No space left on device"):
            prepared(tmp_path / name, "abc" * 10)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert Dataset(tmp_path / "old").manifest == before


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(base.CharTokenizer, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write the dataset to .*file/d: Not a directory"):
        prepared(tmp_path / "file" / "d")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tokenizer": "bpf"}, "tokenizer=bpf is not known. Did you mean bpe?"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "vocab_size=256 must lie between 257 and"),
        ({"tokenizer": "char", "vocab_size": -3}, "vocab_size=-3 must be 3 or more"),
        ({"tokenizer": "byte", "vocab_size": 300}, "vocab_size=300 is for --tokenizer char or bpe"),
        ({"val_fraction": 0.0}, "val_fraction=0.0 must lie between 0 and 1"),
        ({"val_fraction": float("nan")}, "val_fraction=nan must lie between 0 and 1"),
        ({"shard_tokens": 0}, "shard_tokens=0 must be at least 1"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=problem):
        prepared(tmp_path / "d", **options)
    assert list(tmp_path.iterdir()) == []


def test_one_character_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x has 1 character, too few to split"):
        prepared(tmp_path / "d", "a")
