"""The documents of an archive's files, in its order; nothing of it reaches the disk."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from bardlet.data.text import compression, guess
from bardlet.data.text.counts import Omission
from bardlet.data.text.formats import (
    ARCHIVES,
    VOCABULARIES,
    ending,
    has_ending,
    kind_by_head,
    kind_of,
)
from bardlet.data.text.records import Piece, Reading, unread
from bardlet.errors import DataError

DAMAGE = (OSError, EOFError, *compression.FAILURES)
HIDDEN = ("__MACOSX",)  # what macOS adds of each file
Read = Callable[[IO[bytes], str, str, Reading], Iterator[Piece]]  # what reads a file of a kind


def of_archive(
    file: IO[bytes], kind: str, name: str, reading: Reading, read: Read
) -> Iterator[Piece]:
    """Yields the documents of an archive's files, and a notice for each file that is left out."""
    if kind == "zip":
        yield from of_zip(file, name, reading, read)
        return
    names: set[str] = set()  # of what was read
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for entry in archive:
            omission = left_out(entry.name, entry.size, name, reading)
            if entry.isdir():
                continue
            if not omission and not entry.isfile():
                omission = Omission("not_text", 1, 0, ending(entry.name))
                if entry.issym() or entry.islnk():
                    linked = entry.islnk() and entry.linkname in names
                    omission = Omission("linked" if linked else "links", 1, 0, entry.name)
            inside = None if omission else archive.extractfile(entry)
            if omission or not inside:
                yield notice(omission or Omission("not_text"))
                continue
            names.add(entry.name)
            parts: Any = entry.sparse  # offsets and sizes of what is stored
            sparse = parts is not None
            limit = compression.limit(sum(n for _, n in parts)) if sparse else entry.size
            path = f"{name}/{entry.name}"
            yield from of_member(inside, limit, entry.size, path, reading, read)


def of_zip(file: IO[bytes], name: str, reading: Reading, read: Read) -> Iterator[Piece]:
    """`of_archive`, of a zip archive, whose one file is text whatever it is called."""
    with zipfile.ZipFile(file) as archive:
        size = file.seek(0, io.SEEK_END)
        # is_dir of an entry without a name is an IndexError
        entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
        if sum(entry.file_size for entry in entries) > compression.limit(size):
            raise compression.bomb(name)
        for entry in entries:
            path, size = entry.filename, entry.file_size
            omission = left_out(path, size, name, reading)
            if not omission and stat.S_ISLNK(entry.external_attr >> 16):
                omission = Omission("links", 1, 0, path)
            if omission:
                yield notice(omission)
            elif entry.flag_bits & 1:
                yield unread(DataError(f"{name}: {path} is encrypted", "Unpack it"), size)
            else:
                inside = compression.open_member(archive, entry)
                limit = compression.limit(entry.compress_size)
                path, alone = f"{name}/{path}", len(entries) == 1
                yield from of_member(inside, limit, size, path, reading, read, alone=alone)


def left_out(path: str, size: int, archive: str, reading: Reading) -> Omission | None:
    """Why a file of an archive is left out, by its name; DataError where that leads elsewhere."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts or path[:1] in ("/", "\\") or path[1:2] == ":":
        raise DataError(
            f"{archive} has a file called {path!r}, which lies outside of it",
            "Such an archive is not to be trusted: look at it first",
        )
    if not parts or any(part.startswith(".") or part in HIDDEN for part in parts):
        return Omission("hidden", 1, size, parts[-1] if parts else "")
    if parts[-1] in VOCABULARIES:
        return Omission("vocabulary", 1, size, parts[-1])
    if not has_ending(parts[-1], reading.ext):
        return Omission("other_endings", 1, size, ending(parts[-1]))
    if kind_of(parts[-1])[0] in (*ARCHIVES, "parquet"):
        return Omission("packed", 1, size, ending(parts[-1]))
    return None


def of_member(
    inside: IO[bytes], limit: int, size: int, name: str, reading: Reading, read: Read, *,
    alone: bool = False,
) -> Iterator[Piece]:  # fmt: skip
    """Yields the documents of a file in an archive, of `size` bytes by its header and of `limit` at
    most; where it is damaged, what comes before, and the problem. `alone` is the only one.
    """
    kind, packed = kind_of(name)
    whole = True
    try:
        bounded: Any = compression.bounded(inside, limit, name)
        if packed:
            bounded = compression.decompressed(bounded, packed, limit, name)
        kind = reading.format or kind
        if not kind:
            head = bounded.peek(guess.HEAD)[: guess.HEAD]
            why = guess.why_no_text(head, reading.encoding, cut=True)
            if why and not (alone or reading.ext):
                yield notice(Omission(why, 1, size, ending(name)))
                return
            kind = kind_by_head(head, reading.encoding)
            if kind != "text" and not alone:
                kind = "text"
                yield notice(Omission("json_as_text", 1, 0, name))
        for piece in read(bounded, kind, name, reading):
            whole = piece.last
            size -= len((piece.prompt + piece.text).encode("utf-8", "surrogatepass"))
            yield piece
    except (DataError, *DAMAGE) as error:
        if not whole:  # every document has an end
            yield Piece(text="\n", first=False)
        problem = error if isinstance(error, DataError) else unreadable(name, error)
        yield unread(problem, max(size, 0))


def notice(omission: Omission) -> Piece:
    """The piece that says what is left out here."""
    return Piece(text="", omitted=(omission,), notice=True)


def unreadable(name: str, error: Exception) -> DataError:
    """What to say of a file that is damaged."""
    reason = getattr(error, "strerror", None) or error
    return DataError(f"cannot read {name}: {reason}", "Check the file, or --skip_unreadable")
