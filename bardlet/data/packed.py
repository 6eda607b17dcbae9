"""Compressed files as streams, none of which gives more than a text of its size could."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from typing import IO

from bardlet.errors import DataError

FAILURES = (zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
RATIO = 200  # text packs to a tenth at best, what is made to burst to a thousandth
ALWAYS = 1 << 26  # bytes that any file may give


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
        inner = zstandard.ZstdDecompressor(max_window_size=1 << 28).stream_reader(
            file, read_across_frames=True
        )
    return bounded(inner, most, name)  # pyright: ignore[reportArgumentType]
