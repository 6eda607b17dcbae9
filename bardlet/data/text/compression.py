"""Compressed files as streams, none of which gives more than a text of its size could."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from typing import IO, Any

from bardlet.errors import DataError

# the last one is zipfile's word for a way of packing that it does not know
FAILURES = (zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
RATIO = 200  # text packs to a tenth at best, what is made to burst to a thousandth
ALWAYS = 1 << 26  # bytes that any file may give
STEP = 1 << 11  # bytes of Zstandard taken at a time, of which no more than ALWAYS can come


def limit(size: int) -> int:
    """How many bytes `size` packed ones may give."""
    return max(ALWAYS, RATIO * size)


def burst(name: str) -> DataError:
    """What to say of a file that is made to fill a disk."""
    return DataError(
        f"{name} unpacks to more than {RATIO} times its size, which no text does",
        "Look at it first; unpack it yourself if it is as it should be",
    )


class Bounded(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes."""

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
        except Exception as error:  # each library has its own for what is damaged
            raise OSError(f"it is damaged: {error}") from None
        self.left -= len(raw)
        if self.left < 0:
            raise burst(self.name)
        buffer[: len(raw)] = raw
        return len(raw)


class Frames:
    """The bytes of a file of Zstandard, frame after frame: its library takes a cut one as whole.

    EOFError where the last frame has no end.
    """

    def __init__(self, file: IO[bytes], decompressor: Any) -> None:
        self.file, self.decompressor = file, decompressor
        self.frame: Any = None  # the one that is being read
        self.packed = self.waiting = b""

    def read(self, size: int) -> bytes:
        while not self.waiting:
            self.packed = self.packed or self.file.read(STEP)
            if not self.packed and self.frame:
                raise EOFError("it ends within a frame")
            if not self.packed:
                return b""
            self.frame = self.frame or self.decompressor.decompressobj()
            self.waiting, self.packed = self.frame.decompress(self.packed), b""
            if self.frame.eof:
                self.frame, self.packed = None, self.frame.unused_data
        given, self.waiting = self.waiting[:size], self.waiting[size:]
        return given


def bounded(inner: IO[bytes], limit: int, name: str) -> IO[bytes]:
    """`inner`, buffered, up to `limit` bytes; DataError beyond."""
    return io.BufferedReader(Bounded(inner, limit, name), 1 << 18)


def unpacked(file: IO[bytes], packing: str, most: int, name: str) -> IO[bytes]:
    """The stream that is packed in `file`, up to `most` bytes."""
    if packing == ".gz":
        inner = gzip.GzipFile(fileobj=file)
    elif packing == ".bz2":
        inner = bz2.BZ2File(file)
    elif packing == ".xz":
        inner = lzma.LZMAFile(file)  # noqa: SIM115
    else:
        try:
            import zstandard  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(
                f"{name} needs zstandard", "Install it with pip install 'bardlet[data]'"
            ) from None
        inner = Frames(file, zstandard.ZstdDecompressor(max_window_size=1 << 28))
    return bounded(inner, most, name)  # pyright: ignore[reportArgumentType]
