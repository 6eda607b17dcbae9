"""Documents that are rows of tables: CSV with any separator, and Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from bardlet.data.text import compression, decoding
from bardlet.data.text.fields import size_of
from bardlet.data.text.records import (
    LINE_BYTES,
    Piece,
    Reading,
    piece_of,
    unread,
)
from bardlet.errors import DataError
from bardlet.system.optional_deps import need

SEPARATORS = ",;\t|"


def of_csv(file: IO[bytes], name: str, reading: Reading) -> Iterator[Piece]:
    """Yields a document for each row of a table whose first row has the names of its columns."""
    csv.field_size_limit(LINE_BYTES)
    counted = decoding.CountedFile(file, reading.encoding, reading.errors)
    blocks = decoding.stream(counted, name, reading.encoding, reading.errors, translate=False)
    lines = lines_of(blocks)
    header = next(lines, "")
    separator = separator_of(header, reading)
    try:
        rows = csv.DictReader(chain([header], lines), delimiter=separator, strict=True)
        check_columns(list(rows.fieldnames or ()), name, reading)
        for number, row in enumerate(rows, start=2):
            place, replaced = f"{name}, row {number}", counted.take_replaced()
            extra: Any = row.pop(None, None)  # pyright: ignore[reportCallIssue,reportArgumentType]
            if extra and any(extra):
                count = len(row) + len(extra)
                problem = f"{place} has {count} fields, and the first row {len(row)}"
                hint = f"A text with {separator!r} in it needs quotes around it"
                yield unread(DataError(problem, hint), size_of([row, extra]), replaced)
            else:
                yield piece_of(row, place, reading, replaced)
    except csv.Error as error:
        cut = "unexpected end" in str(error)
        reason = "it ends within a quoted field, whose quote is not closed" if cut else error
        raise DataError(f"{name} is not a table: {reason}", "Mend it") from None


def separator_of(header: str, reading: Reading) -> str:
    """The first of `SEPARATORS` that gives the columns asked for, else the most columns."""
    columns = {mark: next(csv.reader([header], delimiter=mark), []) for mark in SEPARATORS}
    for mark, names in columns.items():
        if set(reading.keys) <= set(names):
            return mark
    return max(columns, key=lambda mark: len(columns[mark]))


def check_columns(names: list[str], name: str, reading: Reading) -> None:
    """Raise DataError where a column that is asked for is there twice."""
    for key in reading.keys:
        if names.count(key) > 1:
            raise DataError(f"{name} has {names.count(key)} columns {key!r}", "Rename all but one")


def lines_of(blocks: Iterator[str]) -> Iterator[str]:
    """Yields the lines of a text that comes in blocks, with their ends as they are."""
    line: list[str] = []  # the parts of one that goes on
    held = ""  # a return, which may be the first half of a line end
    for block in blocks:
        block = held + block
        held = "\r" if block.endswith("\r") else ""
        *whole, rest = re.split(r"(?<=\n)|(?<=\r)(?!\n)", block.removesuffix(held))
        for part in whole:
            yield "".join([*line, part])
            line = []
        line.append(rest)
    if last := "".join(line) + held:
        yield last


def of_parquet(file: IO[bytes], name: str, reading: Reading) -> Iterator[Piece]:
    """Yields a document for each row, a batch at a time."""
    pyarrow = need("pyarrow", "data", name, DataError)
    parquet = need("pyarrow.parquet", "data", name, DataError)
    try:
        schema = parquet.ParquetFile(file).schema
        leaves = {schema.column(i).path for i in range(len(schema))}
        # a table keeps equal texts once: so do its batches, and the whole has a limit
        table = parquet.ParquetFile(file, read_dictionary=[k for k in reading.keys if k in leaves])
        left = compression.limit(file.seek(0, io.SEEK_END))
        names = table.schema_arrow.names
        check_columns(names, name, reading)
        columns = {key if key in names else key.partition(".")[0] for key in reading.keys}
        columns |= set(reading.more_keys) & set(names)
        if not columns <= set(names):
            texts = [field.name for field in table.schema_arrow if "string" in str(field.type)]
            for row in range(table.metadata.num_rows):
                yield piece_of(dict.fromkeys(texts, ""), f"{name}, row {row + 1}", reading)
            return
        row = 0
        for batch in table.iter_batches(batch_size=256, columns=sorted(columns)):
            for i in range(batch.num_rows):
                row += 1
                piece = of_row(batch, i, f"{name}, row {row}", reading)
                left -= len(piece.prompt) + len(piece.text)
                if left < 0:
                    raise compression.bomb(name)
                yield piece
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).removesuffix(".")
        raise DataError(f"cannot read {name}: {reason}", "Check the file") from None


def of_row(batch: Any, i: int, place: str, reading: Reading) -> Piece:
    """The document in a row of a batch of Parquet, or its problem.

    Bytes are text in the encoding asked for. Strings are UTF-8, which nobody has checked.
    """
    record: dict[str, Any] = {}
    replaced = size = 0
    try:
        for name in batch.schema.names:
            value, encoding = value_of(batch[name][i], place, reading.encoding)
            if isinstance(value, bytes):
                size += len(value)
                replaced += decoding.count_replaced(value, encoding, reading.errors)
                value = decoding.decode(value, place, encoding, reading.errors)
            record[name] = value
    except DataError as error:
        return unread(error, size, replaced)
    return piece_of(record, place, reading, replaced)


def value_of(scalar: Any, place: str, encoding: str) -> tuple[Any, str]:
    """The value of a cell, and the encoding of one that is bytes."""
    try:
        return scalar.as_py(), encoding
    except (ValueError, OverflowError) as error:
        scalar = getattr(scalar, "value", scalar)  # of a dictionary
        if not hasattr(scalar, "as_buffer"):
            raise DataError(f"{place}: {error}", "Mend or remove it") from None
        return scalar.as_buffer().to_pybytes(), "utf-8"
