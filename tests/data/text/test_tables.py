"""Rows of tables: bytes that are no text, separators, columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from corpora import made, texts_of

from bardlet.data.text.records import Reading
from bardlet.errors import DataError

TEXTS = [f"row {i}, with a comma" for i in range(30)]


def documents(dataset: Any) -> list[str]:
    return sorted(texts_of(dataset, "train") + texts_of(dataset, "val"))


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_string_of_parquet_that_is_not_utf8(dictionary: bool, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    raw = [text.encode() for text in TEXTS]
    raw[3] = b"caf\xe9 and more"
    buffers = pyarrow.array(raw, pyarrow.binary()).buffers()
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(raw), buffers)
    column = column.dictionary_encode() if dictionary else column
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 4 is not utf-8: byte 0xe9 at offset 3"):
        made(tmp_path / "d", tmp_path / "a.parquet")
    dataset = made(tmp_path / "d", tmp_path / "a.parquet", skip_unreadable=True)
    assert documents(dataset) == sorted(TEXTS[:3] + TEXTS[4:])
    assert dataset.manifest["counts"]["unread"]["number"] == 1
    reading = Reading(errors="replace")
    dataset = made(tmp_path / "e", tmp_path / "a.parquet", reading=reading)
    assert "caf\ufffd and more" in documents(dataset)
    assert dataset.manifest["counts"]["replaced"]["number"] == 1


def test_columns_of_parquet(tmp_path: Path) -> None:
    """Bytes are decoded, a field within a field is named with a dot, others are not looked at."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [{"doc": {"text": text, "n": 1}, "raw": text.encode("utf-16")} for text in TEXTS]
    table = pyarrow.Table.from_pylist(records)
    far = pyarrow.array([2**62] * 30, pyarrow.timestamp("us"))  # no date of Python's
    parquet.write_table(table.append_column("when", far), tmp_path / "a.parquet")
    for key in ("doc.text", "raw"):
        reading = Reading(text_key=key, encoding="utf-16")
        assert documents(made(tmp_path / key, tmp_path / "a.parquet", reading=reading)) == (
            sorted(TEXTS)
        )
    with pytest.raises(DataError, match="'text' is not there"):
        made(tmp_path / "d", tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1: year is out of range|row 1: .*range|is not text"):
        made(tmp_path / "d", tmp_path / "a.parquet", reading=Reading(text_key="when"))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_separator_is_the_one_of_the_columns(name: str, separator: str, tmp_path: Path) -> None:
    rows = "".join(f'{i}{separator}"{text}"{separator}x\n' for i, text in enumerate(TEXTS))
    (tmp_path / name).write_text(f"id{separator}text{separator}y\n{rows}", encoding="utf-8")
    assert documents(made(tmp_path / "d", tmp_path / name)) == sorted(TEXTS)


def test_a_row_of_more_fields_than_columns_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,whole,,\n2,Hello, world\n" * 1, encoding="utf-8")
    problem = (
        r"a\.csv, row 3 has 3 fields, and the first row 2\. A text with ',' in it needs quotes"
    )
    with pytest.raises(DataError, match=problem):
        made(tmp_path / "d", tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"row 2: 'body' is not there.*there are id, text$"):
        made(tmp_path / "d", tmp_path / "a.csv", reading=Reading(text_key="body"))
    (tmp_path / "b.csv").write_text("text,text\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.csv has 2 columns 'text'"):
        made(tmp_path / "d", tmp_path / "b.csv")
