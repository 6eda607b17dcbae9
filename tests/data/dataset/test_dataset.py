"""The dataset folder's format: bytes on disk, any number of shards as one stream, damage."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bardlet.data.dataset import folder as datasets
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import HEADER, TokenStream, map_shard
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.prepare.shards import SplitWriter
from bardlet.data.text.corpus import Corpus
from bardlet.errors import DataError

U16, U32 = np.dtype("uint16"), np.dtype("uint32")


def prepared(folder: Path, text: str = "hello world, " * 20, **options: Any) -> Dataset:
    return prepare(Corpus(name="x", text=text, sources=()), folder, **options)


def edit(folder: Path, **changes: object) -> None:
    """Change entries of the manifest; None takes one out."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in manifest.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def shard_file(path: Path, ids: list[int], width: int = 2) -> Path:
    """A shard as docs/formats.md has it."""
    header = b"BARDLET\0" + struct.pack("<IIQ", 1, width, len(ids)) + bytes(8)
    path.write_bytes(header + b"".join(i.to_bytes(width, "little") for i in ids))
    return path


@pytest.mark.parametrize(("dtype", "ids"), [(U16, [1, 258, 65535]), (U32, [1, 258, 65536])])
def test_a_shard_is_a_header_of_32_bytes_and_little_endian_ids(
    dtype: np.dtype, ids: list[int], tmp_path: Path
) -> None:
    path = shard_file(tmp_path / "by_hand.bin", ids, dtype.itemsize)
    found = map_shard(path)
    assert (found.dtype, found.tolist()) == (dtype, ids)
    writer = SplitWriter(tmp_path, "train", dtype.itemsize, 100, docs=False, masked=False)
    writer.append(np.array(ids), counted=None)
    entry = writer.finish()["shards"][0]
    assert (entry["file"], entry["tokens"]) == ("train-00000.bin", 3)
    assert (tmp_path / entry["file"]).read_bytes() == path.read_bytes()


def test_an_empty_shard_is_read_as_no_tokens(tmp_path: Path) -> None:
    assert len(map_shard(shard_file(tmp_path / "x.bin", []))) == 0


def test_a_mapped_shard_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        map_shard(shard_file(tmp_path / "x.bin", [1, 2]))[0] = 5


@given(
    st.lists(st.lists(st.integers(0, 65535), max_size=5), max_size=5),
    st.integers(0, 30), st.integers(0, 30),
)  # fmt: skip
def test_shards_read_as_one_sequence(shards: list[list[int]], start: int, count: int) -> None:
    stream = TokenStream([np.array(shard, dtype=U16) for shard in shards])
    flat = [token for shard in shards for token in shard]
    assert len(stream) == len(flat)
    part = stream.read(start, count)
    assert part.dtype == np.int64
    assert part.tolist() == flat[start : start + count]


def test_many_shards_on_disk_are_read_in_order(tmp_path: Path) -> None:
    text = "".join(map(chr, range(32, 127))) * 3
    dataset = prepared(tmp_path / "d", text, shard_tokens=7)
    ids = dataset.tokenizer.encode(text).tolist()
    border = int(len(text) * 0.9)
    assert dataset.splits["train"].read(0, 10**9).tolist() == ids[:border]
    assert dataset.splits["val"].read(0, 10**9).tolist() == ids[border:]
    assert len(dataset.splits["train"].shards) == -(-border // 7)


@given(st.integers(0, 40), st.integers(1, 12))
def test_windows_predict_every_token_but_the_first_once(size: int, block_size: int) -> None:
    dataset = Dataset.__new__(Dataset)
    dataset.splits = {"val": TokenStream([np.arange(size, dtype=U16)])}
    windows = [w.tolist() for w in dataset.windows("val", block_size)]
    assert [token for _, targets in windows for token in targets] == list(range(1, size))
    assert all([token + 1 for token in idx] == targets for idx, targets in windows)
    assert all(len(idx) == block_size for idx, _ in windows[:-1])
    assert all(idx for idx, _ in windows)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def header(path: Path, **changes: int) -> None:
    """Rewrite fields of a shard's header."""
    raw = path.read_bytes()
    _, version, width, count = HEADER.unpack(raw[:32])
    fields = {"version": version, "width": width, "count": count, **changes}
    path.write_bytes(HEADER.pack(b"BARDLET\0", *fields.values()) + raw[32:])


DAMAGES = {
    "cut short": (truncate, r"train-00000\.bin has \d+ bytes where its header says 234 tokens"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "where its header says"),
    "half a header": (lambda p: p.write_bytes(p.read_bytes()[:20]), "cannot read the shard"),
    "empty": (lambda p: p.write_bytes(b""), "cannot read the shard"),
    "missing": (lambda p: p.unlink(), r"cannot read the shard .*train-00000\.bin"),
    "nanoGPT's": (lambda p: p.write_bytes(bytes(100)), "is not a shard of token ids"),
    "of 3-byte tokens": (lambda p: header(p, width=3), "is not a shard of token ids"),
    "newer": (lambda p: header(p, version=2), "has format 2, this bardlet reads up to 1"),
    "of a huge count": (lambda p: header(p, count=2**63), "where its header says"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_shard_is_named(kind: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[kind]
    prepared(tmp_path / "d")
    damage(tmp_path / "d" / "train-00000.bin")
    with pytest.raises(DataError, match=message):
        Dataset(tmp_path / "d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {}}, r"manifest\.json is damaged"),
        ({"splits": {"train": {"shards": [{}]}, "val": {"shards": []}}}, "is damaged"),
        ({"splits": None}, "is damaged"),
        ({"format_version": None}, "is damaged"),
        ({"format_version": "one"}, "is damaged"),
        ({"tokenizer_hash": None}, "is damaged"),
        ({"hash": None}, "is damaged"),
        ({"tokenizer_hash": "0"}, "the tokenizer is not the one of the tokens"),
        ({"format_version": 2}, "has format 2, this bardlet reads up to 1"),
        ({"format_version": 2, "splits": None}, "has format 2, this bardlet reads up to 1"),
    ],
    ids=str,
)
def test_a_damaged_or_newer_manifest_is_named(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    prepared(tmp_path / "d")
    edit(tmp_path / "d", **changes)
    with pytest.raises(DataError, match=message):
        Dataset(tmp_path / "d")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_manifest_that_is_no_json_object_is_damaged(text: str, tmp_path: Path) -> None:
    prepared(tmp_path / "d")
    (tmp_path / "d" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        Dataset(tmp_path / "d")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    prepared(tmp_path / "d")
    (tmp_path / "d" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        Dataset(tmp_path / "d")


def test_a_missing_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset at") as error:
        Dataset(tmp_path / "plays")
    assert f"bardlet prepare TEXT --out {tmp_path / 'plays'}" in error.value.hint


def test_a_dataset_is_found_by_name_in_data_or_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path / "data" / "plays")
    prepared(tmp_path / "here")
    assert datasets.find("plays") == Path("data/plays")
    assert datasets.find("here") == Path("here")
    assert datasets.find("data/plays") == Path("data/plays")
    assert datasets.find(str(tmp_path / "x")) == tmp_path / "x"
