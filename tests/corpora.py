"""Small corpora in every format, the datasets made of them, and what these hold."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import HEADER
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources

WORDS = "to be or not d\u00e9j\u00e0 vu \u4e2d\u6587\u3002 it's \U0001f600 THE question: whether\n"


def words(count: int, seed: int = 0) -> str:
    drawn = random.Random(seed).choices(WORDS.split(" "), k=count)
    return " ".join(drawn)


def made(out: Path, *given: Path | str, say: Any = lambda line: None, **options: Any) -> Dataset:
    found = sources.find([str(source) for source in given])
    return prepare(found, out, **{"tokenizer": "byte", **options}, say=say)


def jsonl(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"text": text}) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def texts_of(dataset: Dataset, split: str) -> list[str]:
    """The documents of a split, cut at the recorded borders, without their end of text."""
    found: list[str] = []
    for entry in dataset.manifest["splits"][split]["shards"]:
        raw = (dataset.folder / entry["docs"]["file"]).read_bytes()
        magic, version, width, count = HEADER.unpack(raw[:32])
        assert (magic, version, width) == (b"BARDDOCS", 1, 8)
        starts = np.frombuffer(raw[32:], dtype="<u8").tolist()
        assert count == len(starts) == entry["docs"]["count"]
        ids = np.fromfile(dataset.folder / entry["file"], dtype="<u2", offset=32)
        if not starts or starts[0]:
            found[-1] += decoded(ids[: starts[0] if starts else len(ids)])
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            found.append(decoded(ids[start:end]))
    assert all(text.endswith("\0") and text.count("\0") == 1 for text in found)
    return [bytes(text[:-1], "latin-1").decode() for text in found]


def decoded(ids: np.ndarray) -> str:
    """Bytes as Latin-1, the end of a text as NUL."""
    return "".join("\0" if i == 256 else chr(i) for i in ids.tolist())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


TEXTS = [f"document {i}: {words(30, i)}" for i in range(60)]


def table(texts: list[str]) -> str:
    return "id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts))


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, text in enumerate(TEXTS):
            archive.writestr(f"in/{i:02d}.txt", text)
        archive.writestr("in/picture.png", b"\xff\xfe")


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("a/all.jsonl")
        entry.size = len(lines(TEXTS))
        archive.addfile(entry, io.BytesIO(lines(TEXTS)))


def write_zst(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path.write_bytes(zstandard.compress(lines(TEXTS)))


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"n": list(range(60)), "text": TEXTS}), path)


FORMATS = {
    "a.jsonl": lambda p: p.write_bytes(lines(TEXTS)),
    "a.jsonl.gz": lambda p: p.write_bytes(gzip.compress(lines(TEXTS))),
    "a.jsonl.bz2": lambda p: p.write_bytes(bz2.compress(lines(TEXTS))),
    "a.ndjson.xz": lambda p: p.write_bytes(lzma.compress(lines(TEXTS))),
    "a.jsonl.zst": write_zst,
    "a.json": lambda p: p.write_text(json.dumps([{"n": 1, "text": t} for t in TEXTS], indent=2)),
    "a.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(TEXTS).encode())),
    "lines.json": lambda p: p.write_bytes(lines(TEXTS)),
    "a.csv": lambda p: p.write_text(table(TEXTS), encoding="utf-8", newline=""),
    "a.csv.gz": lambda p: p.write_bytes(gzip.compress(table(TEXTS).encode())),
    "a.zip": write_zip,
    "a.tar.gz": write_tar,
    "a.tgz": write_tar,
    "a.parquet": write_parquet,
}
