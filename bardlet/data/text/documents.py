"""The documents of an input, one after the other: the formats that text is kept in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bardlet.data.text import compression, decoding, separators
from bardlet.data.text.counts import Omission
from bardlet.data.text.decoding import CUT
from bardlet.data.text.records import (
    Piece,
    Reading,
    of_hub,
    of_json,
    of_jsonl,
    unread,
)
from bardlet.data.text.sources import Input, kind_of
from bardlet.data.text.tables import of_csv, of_parquet
from bardlet.errors import DataError

DAMAGE = (OSError, EOFError, *compression.FAILURES)
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
            loose = of_text(blocks, lambda: 0, entry.name, reading.document_separator)
        for piece in loose:
            place.bytes += len(piece.prompt) + len(piece.text)
            yield piece
    else:
        try:
            with Path(entry.path).open("rb") as file:
                whole: IO[bytes] = file
                if entry.compression:
                    limit = compression.limit(entry.bytes)
                    whole = compression.decompressed(file, entry.compression, limit, entry.name)
                for piece in of_file(whole, entry.kind, entry.name, reading):
                    place.bytes = max(place.bytes, file.tell())
                    yield piece
        except DAMAGE as error:
            raise unreadable(entry.name, error) from None


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
        yield from of_archive(file, kind, name, reading)


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
    if count <= 1:
        omitted = (Omission("unseparated", 1, 0, name),)
        yield Piece(text="", omitted=omitted, notice=True)


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


def of_archive(file: IO[bytes], kind: str, name: str, reading: Reading) -> Iterator[Piece]:
    """Yields the documents of an archive's files, in its order; nothing of it reaches the disk."""
    if kind == "zip":
        with zipfile.ZipFile(file) as archive:
            size = file.seek(0, io.SEEK_END)
            if sum(entry.file_size for entry in archive.infolist()) > compression.limit(size):
                raise compression.bomb(name)
            for entry in archive.infolist():
                if (form := member(entry.filename, name)) and not entry.is_dir():
                    if entry.flag_bits & 1:
                        raise DataError(f"{name}: {entry.filename} is encrypted", "Unpack it")
                    inside = compression.open_member(archive, entry)
                    limit = compression.limit(entry.compress_size)
                    yield from of_member(inside, limit, form, name, entry.filename, reading)
    else:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for entry in archive:
                form = member(entry.name, name)
                inside = archive.extractfile(entry) if form and entry.isfile() else None
                if form and inside:
                    parts: Any = entry.sparse  # offsets and sizes of what is stored
                    sparse = parts is not None
                    limit = compression.limit(sum(n for _, n in parts)) if sparse else entry.size
                    yield from of_member(inside, limit, form, name, entry.name, reading)


def member(path: str, archive: str) -> tuple[str, str] | None:
    """The kind and compression of an archive's file, None where it is passed over."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts or path[:1] in ("/", "\\") or path[1:2] == ":":
        raise DataError(
            f"{archive} has a file called {path!r}, which lies outside of it",
            "Such an archive is not to be trusted: look at it first",
        )
    form = kind_of(parts[-1]) if parts and not parts[-1].startswith(".") else None
    return form if form and form[0] in ("text", "jsonl", "json", "csv") else None


def of_member(
    inside: IO[bytes], limit: int, form: tuple[str, str], archive: str, path: str,
    reading: Reading,
) -> Iterator[Piece]:  # fmt: skip
    """Yields the documents of a file in an archive, of `limit` bytes at most; where it is damaged,
    what comes before, and the problem.
    """
    kind, method = form
    name = f"{archive}/{path}"
    whole = True
    try:
        bounded = compression.bounded(inside, limit, name)
        if method:
            bounded = compression.decompressed(bounded, method, limit, name)
        for piece in of_file(bounded, kind, name, reading):
            whole = piece.last
            yield piece
    except (DataError, *DAMAGE) as error:
        if not whole:  # every document has an end
            yield Piece(text="\n", first=False)
        problem = error if isinstance(error, DataError) else unreadable(name, error)
        yield unread(problem)


def unreadable(name: str, error: Exception) -> DataError:
    """What to say of a file that is damaged."""
    reason = getattr(error, "strerror", None) or error
    return DataError(f"cannot read {name}: {reason}", "Check the file, or --skip_unreadable")
