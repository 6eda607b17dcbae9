"""The documents of an input, one after the other: the formats that text is kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from bardlet.data.text import compression, decoding, separators
from bardlet.data.text.archives import DAMAGE, notice, of_archive, unreadable
from bardlet.data.text.counts import Omission
from bardlet.data.text.decoding import CUT
from bardlet.data.text.hub import of_hub
from bardlet.data.text.inputs import Input
from bardlet.data.text.records import Piece, Reading, of_json, of_jsonl
from bardlet.data.text.tables import of_csv, of_parquet
from bardlet.errors import DataError

PIECE = 1 << 22  # characters from which on a document is handed on in pieces


class Place:
    """How much of an input has been read, in bytes of its file where it is one."""

    bytes = 0


def documents(entry: Input, reading: Reading, place: Place | None = None) -> Iterator[Piece]:
    """Yields the documents of an input in memory that does not grow with it; `place` is kept.

    DataError for what cannot be read, with the place where that is known.
    """
    place = place or Place()
    if entry.kind in ("memory", "hub"):
        in_memory = entry.kind == "memory"
        loose = of_hub(entry, reading)
        if in_memory:
            blocks = iter([entry.text])
            loose = of_text(blocks, lambda: 0, entry.shown, reading.document_separator)
        for piece in loose:
            place.bytes += len(piece.prompt) + len(piece.text)
            yield piece
    else:
        try:
            with Path(entry.path).open("rb") as file:
                whole: IO[bytes] = file
                if entry.compression:
                    limit = compression.limit(entry.bytes)
                    whole = compression.decompressed(file, entry.compression, limit, entry.shown)
                for piece in of_file(whole, entry.kind, entry.shown, reading):
                    place.bytes = max(place.bytes, file.tell())
                    yield piece
        except DAMAGE as error:
            raise unreadable(entry.shown, error) from None


def of_file(file: IO[bytes], kind: str, name: str, reading: Reading) -> Iterator[Piece]:
    """Yields the documents of an open file."""
    if kind == "text":
        counted = decoding.CountedFile(file, reading.encoding, reading.errors)
        blocks = decoding.stream(counted, name, reading.encoding, reading.errors)
        yield from of_text(blocks, counted.take_replaced, name, reading.document_separator)
    elif kind == "jsonl":
        yield from of_jsonl(file, name, reading)
    elif kind == "json":
        yield from of_json(file, name, reading)
    elif kind == "csv":
        yield from of_csv(file, name, reading)
    elif kind == "parquet":
        yield from of_parquet(file, name, reading)
    else:
        yield from of_archive(file, kind, name, reading, of_file)


def of_text(
    blocks: Iterator[str], take_replaced: Callable[[], int], name: str, separator: str
) -> Iterator[Piece]:  # fmt: skip
    """Yields the documents of a plain text, which comes in blocks."""
    if not separator:
        yield from pieces(blocks, take_replaced)
        return
    count = 0
    for document in separators.documents_of(blocks, separator):
        count += 1
        yield from pieces(document, take_replaced)
    if count == 1:
        yield notice(Omission("unseparated", 1, 0, name))


def pieces(blocks: Iterator[str], take_replaced: Callable[[], int]) -> Iterator[Piece]:
    """Yields one document, which comes in blocks, in pieces that are encoded as within it."""
    waiting, first = "", True
    for block in until_damage(blocks, damage := []):
        waiting = waiting + block if waiting else block
        start = 0
        while len(waiting) - start > 2 * PIECE:
            match = CUT.search(waiting, start + PIECE, start + 2 * PIECE)
            # a text of two million characters without the end of a word is cut anywhere
            end = match.start() if match else start + PIECE
            shown = waiting[start:end]
            yield Piece(text=shown, first=first, last=False, replaced_bytes=take_replaced())
            start, first = end, False
        waiting = waiting[start:] if start else waiting
    if not damage or waiting:
        last = not damage
        yield Piece(text=waiting, first=first, last=last, replaced_bytes=take_replaced())
    if damage:
        raise damage[0]


def until_damage(blocks: Iterator[str], damage: list[Exception]) -> Iterator[str]:
    """Yields the blocks before the one that cannot be read, whose error it adds to `damage`."""
    try:
        yield from blocks
    except (DataError, *DAMAGE) as error:
        damage.append(error)
