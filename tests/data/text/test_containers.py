"""Bytes in any encoding, in any container: a text or a clear error."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import made

from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.prepare import encoding, units
from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import DataError

LINES = "Line one, \u4e2d\u6587\n" * 60


def zipped(raw: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in/a.txt", raw)
    return archive.getvalue()


CONTAINERS: dict[str, Callable[[str, str], bytes]] = {
    "a.txt": lambda text, encoding: text.encode(encoding),
    "a.txt.gz": lambda text, encoding: gzip.compress(text.encode(encoding)),
    "a.txt.bz2": lambda text, encoding: bz2.compress(text.encode(encoding)),
    "a.txt.xz": lambda text, encoding: lzma.compress(text.encode(encoding)),
    "a.zip": lambda text, encoding: zipped(text.encode(encoding)),
    "a.jsonl": lambda text, encoding: (json.dumps({"text": text}) + "\n").encode(encoding),
    "a.json": lambda text, encoding: json.dumps([text]).encode(encoding),
    "a.csv": lambda text, encoding: f'id,text\n1,"{text}"\n'.encode(encoding),
}
UNMARKED = {"utf-16-le": "utf-16", "utf-16-be": "utf-16", "utf-32-le": "utf-32",
            "utf-32-be": "utf-32"}  # fmt: skip


def text_of(dataset: Dataset) -> str:
    ids = [dataset.splits[split].read(0, 10**6) for split in SPLITS]
    end = dataset.tokenizer.end_of_text
    return "".join(dataset.tokenizer.decode(part[part != end]) for part in ids)


@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize("codec", UNMARKED)
@pytest.mark.parametrize("name", CONTAINERS)
def test_wide_encodings_without_a_mark(name: str, codec: str, errors: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(CONTAINERS[name](LINES, codec))
    reading = Reading(encoding=UNMARKED[codec], errors=errors)
    dataset = made(tmp_path / "d", tmp_path / name, reading=reading, split="position")
    assert text_of(dataset) == LINES
    assert dataset.manifest["counts"] == {}


@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_no_bytes_end_in_an_internal_error(name: str, errors: str, tmp_path: Path) -> None:
    raws = [
        b"",
        b"a",
        b"\xff\xfea\0b",
        b"\0\xd8a\0" * 20,
        b"\xed\xa0\x80" * 9,
        b"+AAA-~{<:~}\x1b$B",
    ]
    raws += [random.Random(i).randbytes(300) for i in range(4)]
    for codec in ("utf-8", "utf-16", "utf-32", "utf-7", "gb18030", "hz", "iso2022_jp", "cp1252"):
        for raw in raws:
            whole = name.endswith(("gz", "bz2", "xz", "zip"))
            packed = CONTAINERS[name](raw.decode("latin-1"), "latin-1") if whole else raw
            (tmp_path / name).write_bytes(packed)
            reading = Reading(encoding=codec, errors=errors)
            [entry] = sources.find([str(tmp_path / name)]).inputs
            with contextlib.suppress(DataError):
                for unit in units.units((entry,), reading, 0.1):
                    spec = EncodeSpec(
                        reading=reading, by="position", val_fraction=0.1, separate=False
                    )  # fmt: skip
                    for piece in encoding.pieces(unit, spec, encoding.Result(splits={})):
                        assert piece.text.encode("utf-8") or not piece.text


@pytest.mark.parametrize("end", [b"trailing", b"x"])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.bz2", "a.txt.xz", "a.jsonl.gz", "a.txt.zst"])
def test_what_follows_the_end_of_a_compressed_file_costs_nothing_before_it(
    name: str, end: bytes, tmp_path: Path
) -> None:
    count = 2000 if "json" in name else 20_000
    lines = [f"line {i} {random.Random(i).random()}" for i in range(count)]
    text = "\n".join(lines) + "\n"
    raw = text.encode()
    if "json" in name:
        raw = "".join(json.dumps({"text": f"{line}\n"}) + "\n" for line in lines).encode()
    if name.endswith("zst"):
        packed = pytest.importorskip("zstandard").compress(raw)
    else:
        packed = {"gz": gzip, "bz2": bz2, "xz": lzma}[name.split(".")[-1]].compress(raw)
    (tmp_path / name).write_bytes(packed + bytes(512))  # zeros that fill a block
    if not name.endswith("zst"):
        made(tmp_path / "d", tmp_path / name)
    (tmp_path / name).write_bytes(packed + end)
    problem = "what follows its end is not compressed|it ends within a frame"
    with pytest.raises(DataError, match=problem):
        made(tmp_path / "e", tmp_path / name)
    dataset = made(tmp_path / "e", tmp_path / name, skip_unreadable=True)
    whole = text_of(dataset)
    assert (
        sorted(whole.split("\n")[:-1]) == sorted(lines) if "json" in name else whole == text + "\n"
    )
    assert dataset.manifest["counts"]["damaged"]["number"] == 1
    assert dataset.manifest["notes"][0].startswith(f"not all read: {name}: cannot read {name}: ")
