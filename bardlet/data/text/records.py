"""Documents that are records: lines of JSON, rows of tables, data sets on the hub.

One that cannot be read is a piece with a `problem`, for the reader to raise or to leave out.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

from bardlet.data.text import compression, decoding
from bardlet.data.text.counts import Omission
from bardlet.data.text.json_stream import values
from bardlet.data.text.sources import Input
from bardlet.errors import DataError
from bardlet.system.optional_deps import need

LINE_BYTES = 1 << 28  # the longest line of JSON, which has to be in memory


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How inputs are read: the encoding, and which field or column is the text."""

    encoding: str = "utf-8"
    errors: str = "strict"
    text_key: str = "text"
    prompt_key: str = ""
    response_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A document or, between `first` and `last`, a part of one.

    Of a part, `char_offset` is the number of characters before it, and `split_point` how many
    characters of the document are for training; of a whole document `split_point` is -1, not known
    yet. A piece with a `problem` stands for a document that cannot be read. `replaced_bytes` counts
    the places that the error handler has replaced since the piece before. `omitted` is what the
    reader has left out since then; a piece that is a `notice` has nothing else.
    """

    text: str
    prompt: str = ""
    first: bool = True
    last: bool = True
    char_offset: int = 0
    split_point: int = -1
    problem: DataError | None = None
    replaced_bytes: int = 0
    omitted: tuple[Omission, ...] = ()
    notice: bool = False


def unread(problem: DataError, bytes: int = 0, replaced: int = 0) -> Piece:
    """The piece that stands for a document that cannot be read, of so many bytes."""
    omitted = (Omission("unread", 1, bytes),)
    return Piece(text="", problem=problem, replaced_bytes=replaced, omitted=omitted)


def of_record(record: Any, place: str, reading: Reading) -> Piece:
    """The document that a record is: a mapping of names to texts, or a text without a name.

    A list of texts is one text, of as many lines.
    """
    keys = [reading.prompt_key, reading.response_key] if reading.prompt_key else [reading.text_key]
    if isinstance(record, str) and not reading.prompt_key:
        record = {reading.text_key: record}
    if not isinstance(record, dict):
        raise DataError(
            f"{place} is not a record with names", "Each is an object of JSON, or a text"
        )
    texts: list[str] = []
    for key in keys:
        shown = joined(record.get(key))
        if shown is None:
            there = ", ".join([str(k) for k, v in record.items() if joined(v) is not None][:8])
            problem = "is not text" if key in record else "is not there"
            hint = "Name the text with --text_key (or --prompt_key and --response_key); there are "
            raise DataError(
                f"{place}: {key!r} {problem}",
                hint + there
                if there
                else "Name the text with --text_key; --skip_unreadable leaves out what has none",
            )
        decoding.check_surrogates(shown, place)
        texts.append(shown)
    if not reading.prompt_key:
        return Piece(text=texts[0])
    prompt, response = texts
    return Piece(text=response, prompt=prompt if prompt[-1:].isspace() else prompt + "\n")


def joined(value: Any) -> str | None:
    """The text that a value is, or that a list has as its lines; None for anything else."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def piece_of(record: Any, place: str, reading: Reading, replaced: int = 0) -> Piece:
    """The document that a record is, or its problem."""
    try:
        return replace(of_record(record, place, reading), replaced_bytes=replaced)
    except DataError as error:
        return unread(error, size_of(record), replaced)


def size_of(record: Any) -> int:
    """About how many bytes of text a record has, whatever it is."""
    try:
        shown = json.dumps(record, default=str, ensure_ascii=False, skipkeys=True)
    except RecursionError:
        return 0
    return len(shown.encode("utf-8", "replace"))


def of_jsonl(file: IO[bytes], name: str, reading: Reading, start: int = 0) -> Iterator[Piece]:
    """Yields a document or its problem for each line of JSON; `start` is the first line's byte."""
    if "\n".encode(reading.encoding) != b"\n":  # lines are not seen before they are decoded
        yield from of_json(file, name, reading)
        return
    number, at = 1, start
    while line := file.readline(LINE_BYTES + 1):
        place = f"{name}, the line at byte {at:,}" if start else f"{name}, line {number}"
        if len(line) > LINE_BYTES:
            raise DataError(f"{place} has more than {LINE_BYTES:,} bytes", "Split the document")
        if line.strip():
            yield of_line(line, place, reading)
        number, at = number + 1, at + len(line)


def of_line(line: bytes, place: str, reading: Reading) -> Piece:
    """The document in a line of JSON, or its problem."""
    replaced = decoding.count_replaced(line, reading.encoding, reading.errors)
    try:
        record = json.loads(decoding.decode(line, place, reading.encoding, reading.errors))
    except DataError as error:
        return unread(error, len(line), replaced)
    except (ValueError, RecursionError) as error:
        hint = "Mend or remove it, or leave it out with --skip_unreadable"
        return unread(DataError(f"{place} is not JSON: {error}", hint), len(line), replaced)
    return piece_of(record, place, reading, replaced)


def of_json(file: IO[bytes], name: str, reading: Reading) -> Iterator[Piece]:
    """Yields a document for each record, be they in an array or one after the other."""
    counted = decoding.CountedFile(file, reading.encoding, reading.errors)
    blocks = decoding.stream(counted, name, reading.encoding, reading.errors)
    for number, record in enumerate(values(blocks, name), start=1):
        yield piece_of(record, f"{name}, record {number}", reading, counted.take_replaced())


def of_csv(file: IO[bytes], name: str, reading: Reading) -> Iterator[Piece]:
    """Yields a document for each row of a table whose first row has the names of its columns."""
    csv.field_size_limit(LINE_BYTES)
    # spreadsheets put a byte order mark before the first name
    marked = codecs.lookup(reading.encoding).name == "utf-8"
    encoding = "utf-8-sig" if marked else reading.encoding
    counted = decoding.CountedFile(file, encoding, reading.errors)
    lines = io.TextIOWrapper(counted, encoding=encoding, errors=reading.errors, newline="")  # pyright: ignore[reportArgumentType]
    try:
        rows = csv.DictReader(lines, strict=True)
        for number, row in enumerate(rows, start=2):
            yield piece_of(row, f"{name}, row {number}", reading, counted.take_replaced())
    except UnicodeDecodeError as error:
        raise decoding.undecodable(name, reading.encoding, b"", error, error.start) from None
    except UnicodeError as error:
        raise decoding.malformed(name, reading.encoding, error) from None
    except csv.Error as error:
        cut = "unexpected end" in str(error)
        reason = "it ends within a quoted field, whose quote is not closed" if cut else error
        raise DataError(f"{name} is not a table: {reason}", "Mend it") from None
    finally:
        lines.detach()


def of_parquet(file: IO[bytes], name: str, reading: Reading) -> Iterator[Piece]:
    """Yields a document for each row, a batch at a time."""
    pyarrow = need("pyarrow", "data", name, DataError)
    parquet = need("pyarrow.parquet", "data", name, DataError)
    keys = [reading.prompt_key, reading.response_key] if reading.prompt_key else [reading.text_key]
    try:
        # a table keeps equal texts once: so do its batches, and the whole has a limit
        table = parquet.ParquetFile(file, read_dictionary=keys)
        left = compression.limit(file.seek(0, io.SEEK_END))
        there = [key for key in keys if key in table.schema_arrow.names]
        columns = there if len(there) == len(keys) else None  # all, to say what there is
        for batch in table.iter_batches(batch_size=256, columns=columns):
            for row in range(batch.num_rows):
                record = {key: batch[key][row].as_py() for key in batch.schema.names}
                piece = piece_of(record, name, reading)
                left -= len(piece.prompt) + len(piece.text)
                if left < 0:
                    raise compression.bomb(name)
                yield piece
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).removesuffix(".")
        raise DataError(f"cannot read {name}: {reason}", "Check the file") from None


def of_hub(entry: Input, reading: Reading) -> Iterator[Piece]:
    """Yields the rows of a data set on the hub while they arrive."""
    datasets = need("datasets", "hub", entry.name, DataError)
    name, _, rest = entry.path.removeprefix("hf://").partition(":")
    config, _, split = rest.partition(":")
    done = 0
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for record in rows:
            piece = piece_of(record, entry.name, reading)
            yield piece
            done += len(piece.prompt.encode()) + len(piece.text.encode())
            if 0 < entry.sample <= done:
                return
    except DataError:
        raise
    except Exception as error:  # of the network, of the hub, of a format: there is no end to them
        first = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"cannot read {entry.name}: {type(error).__name__}: {first}",
            "Check the name and the network, or download it and give the folder",
        ) from None
