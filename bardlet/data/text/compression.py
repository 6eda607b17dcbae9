"""Compressed files as streams, each limited to what a compressed text of its size can hold."""

from __future__ import annotations

import bz2
import copy
import functools
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from bardlet.errors import DataError
from bardlet.system.optional_deps import need

# the last one is what zipfile raises for a compression method that it does not know
FAILURES = (zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
MAX_RATIO = 200  # text compresses to a tenth at best, a decompression bomb to a thousandth
MIN_LIMIT = 1 << 26  # bytes that a file of any size may decompress to
STEP = 1 << 11  # compressed bytes that are read at a time; they give MIN_LIMIT bytes at most


def limit(size: int) -> int:
    """How many bytes `size` compressed bytes may decompress to."""
    return max(MIN_LIMIT, MAX_RATIO * size)


def bomb(name: str) -> DataError:
    """The error for a file that is most likely a decompression bomb."""
    return DataError(
        f"{name} unpacks to more than {MAX_RATIO} times its size, which no text does",
        "Check the file, and unpack it yourself if it is what you expect",
    )


class Bounded(io.RawIOBase):
    """A stream that raises DataError after `limit` bytes."""

    def __init__(self, inner: IO[bytes], limit: int, name: str) -> None:
        super().__init__()
        self.inner, self.left, self.name = inner, limit, name
        # `read` would drop what comes before damage
        self.read_part = getattr(inner, "read1", inner.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            raw = self.read_part(len(buffer))
        except (DataError, OSError):
            raise
        except Exception as error:  # each library has its own for a corrupt stream
            raise OSError(f"it is damaged: {error}") from None
        self.left -= len(raw)
        if self.left < 0:
            raise bomb(self.name)
        buffer[: len(raw)] = raw
        return len(raw)


class Frames(io.RawIOBase):
    """The decompressed bytes of a file, frame after frame, each by a decompressor of its own.

    EOFError where the last frame is truncated, OSError where something else follows one; Python's
    own readers drop what follows a frame of bzip2 or xz. Zeros that pad a file are allowed.
    """

    def __init__(self, file: IO[bytes], decompressor: Callable[[], Any]) -> None:
        super().__init__()
        self.file, self.decompressor = file, decompressor
        self.frame: Any = None  # the decompressor of the current one
        self.compressed = self.waiting = b""
        self.ended = 0  # frames
        self.begun = False  # whether the current frame has given something

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while not self.waiting:
            raw = self.compressed or self.file.read(STEP)
            if not raw and self.frame:
                raise EOFError("it ends within a frame")
            if not raw:
                return b""
            padded = self.ended and self.frame is None
            self.compressed = raw.lstrip(b"\0") if padded else raw
            if self.compressed:
                self.next_part()
        head, self.waiting = self.waiting[:size], self.waiting[size:]
        return head

    def next_part(self) -> None:
        """Decompress what was read, up to the end of a frame."""
        if self.frame is None:
            self.frame, self.begun = self.decompressor(), False
        try:
            self.waiting = self.frame.decompress(self.compressed)
        except Exception as error:
            if self.ended and not self.begun:
                raise OSError("what follows its end is not compressed") from error
            raise
        self.compressed, self.begun = b"", self.begun or bool(self.waiting)
        if self.frame.eof:
            self.frame, self.compressed, self.ended = None, self.frame.unused_data, self.ended + 1


def bounded(inner: IO[bytes], limit: int, name: str) -> IO[bytes]:
    """`inner`, buffered; it raises DataError after `limit` bytes."""
    return io.BufferedReader(Bounded(inner, limit, name), 1 << 18)


def open_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    """The decompressed stream of a member of a zip archive.

    zipfile decompresses all of a bzip2 read at once: a gigabyte from some hundred bytes.
    """
    if entry.compress_type != zipfile.ZIP_BZIP2:
        return archive.open(entry)
    stored = copy.copy(entry)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, entry.compress_size
    del stored.CRC  # of the text; bzip2 has checksums of its own
    return bz2.BZ2File(archive.open(stored))  # pyright: ignore[reportReturnType]


def decompressed(file: IO[bytes], compression: str, limit: int, name: str) -> IO[bytes]:
    """The decompressed stream of `file`; it raises DataError after `limit` bytes."""
    new: Callable[[], Any]
    if compression == ".gz":
        new = functools.partial(zlib.decompressobj, wbits=31)
    elif compression == ".bz2":
        new = bz2.BZ2Decompressor
    elif compression == ".xz":
        new = lzma.LZMADecompressor
    else:
        zstandard = need("zstandard", "data", name, DataError)
        new = zstandard.ZstdDecompressor(max_window_size=1 << 28).decompressobj
    return bounded(Frames(file, new), limit, name)  # pyright: ignore[reportArgumentType]
