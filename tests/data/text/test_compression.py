"""Decompression bombs: small files that hold huge texts are refused before they fill memory."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from bardlet.data.text import compression, guess
from bardlet.data.text.documents import documents
from bardlet.data.text.records import Reading
from bardlet.data.text.sources import find
from bardlet.errors import DataError


def read(path: Path) -> str:
    """The texts of a file; the DataError of a member is raised."""
    texts = []
    for piece in documents(find([str(path)]).inputs[0], Reading()):
        if piece.problem:
            raise piece.problem
        texts.append(piece.text)
    return "".join(texts)


def test_a_zip_archive_of_bzip2_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.txt", "some text\n" * 1000)
        archive.writestr("b.txt", "more")
    assert read(tmp_path / "a.zip") == "some text\n" * 1000 + "more"


def test_a_zip_archive_that_lies_about_its_sizes_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zipfile decompresses all of a bzip2 block's run at once, whatever it is asked for."""
    monkeypatch.setattr(compression, "MIN_LIMIT", 1 << 20)
    path, size = tmp_path / "a.zip", 100_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.txt", b"a" * size)
    lie = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 1000))
    assert len(lie) < 1000
    path.write_bytes(lie)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_table_of_one_text_many_times_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table keeps equal texts once, so that its size bounds neither a batch nor the whole."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(compression, "MIN_LIMIT", 1 << 20)
    path = tmp_path / "a.parquet"
    text = pyarrow.DictionaryArray.from_arrays([0] * 3000, ["a" * 200_000])
    parquet.write_table(pyarrow.table({"text": text}), path)
    assert path.stat().st_size < 50_000
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read(path)
    assert pyarrow.total_allocated_bytes() - before < 10_000_000


def test_a_sparse_file_of_an_archive_holds_no_more_than_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "MIN_LIMIT", 1 << 20)
    monkeypatch.setattr(guess, "NUL_SHARE", 1)
    entry = tarfile.TarInfo("a.txt")
    entry.size = 512
    entry.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1",
                         "GNU.sparse.map": "0,512", "GNU.sparse.size": str(1 << 26)}  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(b"a" * 512))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read(tmp_path / "a.tar")
