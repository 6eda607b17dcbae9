"""Compressed files as streams, each limited to what a compressed text of its size can hold."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from typing import IO, Any

from bardlet.errors import DataError
from bardlet.system.optional_deps import need

# the last one is what zipfile raises for a compression method that it does not know
FAILURES = (zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
MAX_RATIO = 200  # text compresses to a tenth at best, a decompression bomb to a thousandth
MIN_LIMIT = 1 << 26  # bytes that a file of any size may decompress to
STEP = 1 << 11  # bytes of Zstandard that are read at a time; they give MIN_LIMIT bytes at most


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

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            raw = self.inner.read(len(buffer))
        except (DataError, OSError):
            raise
        except Exception as error:  # each library has its own for a corrupt stream
            raise OSError(f"it is damaged: {error}") from None
        self.left -= len(raw)
        if self.left < 0:
            raise bomb(self.name)
        buffer[: len(raw)] = raw
        return len(raw)


class Frames:
    """The decompressed bytes of a Zstandard file, frame after frame.

    EOFError where the last frame is truncated, which the library does not notice.
    """

    def __init__(self, file: IO[bytes], decompressor: Any) -> None:
        self.file, self.decompressor = file, decompressor
        self.frame: Any = None  # the decompressor of the current one
        self.compressed = self.waiting = b""

    def read(self, size: int) -> bytes:
        while not self.waiting:
            self.compressed = self.compressed or self.file.read(STEP)
            if not self.compressed and self.frame:
                raise EOFError("it ends within a frame")
            if not self.compressed:
                return b""
            self.frame = self.frame or self.decompressor.decompressobj()
            self.waiting, self.compressed = self.frame.decompress(self.compressed), b""
            if self.frame.eof:
                self.frame, self.compressed = None, self.frame.unused_data
        head, self.waiting = self.waiting[:size], self.waiting[size:]
        return head


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
    if compression == ".gz":
        inner = gzip.GzipFile(fileobj=file)
    elif compression == ".bz2":
        inner = bz2.BZ2File(file)
    elif compression == ".xz":
        inner = lzma.LZMAFile(file)  # noqa: SIM115
    else:
        zstandard = need("zstandard", "data", name, DataError)
        inner = Frames(file, zstandard.ZstdDecompressor(max_window_size=1 << 28))
    return bounded(inner, limit, name)  # pyright: ignore[reportArgumentType]
