"""Token ids on disk: shards, memory-mapped, any number of which read as one sequence."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bardlet.errors import DataError
from bardlet.io.safe_read import regular

FORMAT_VERSION = 1
HEADER = struct.Struct("<8sIIQ8x")  # magic, version, bytes per token, tokens
MAGIC, MASK, DOCS = b"BARDLET\0", b"BARDMASK", b"BARDDOCS"
LOOKED_AT = 1 << 26  # tokens of a stream, a tenth of a second, for the share that counts
PREPARE_AGAIN = "Run `bardlet prepare` again"


def map_shard(path: Path) -> np.ndarray:
    """A shard's token ids, memory-mapped read-only: (tokens,) uint16 or uint32."""
    width, count = header(path, MAGIC, (2, 4), "a shard of token ids")
    return mapped(path, f"<u{width}", count, count)


def map_mask(path: Path, tokens: int) -> np.ndarray:
    """The bits that say which of a shard's tokens count in the loss: (tokens / 8,) uint8."""
    _, count = header(path, MASK, (0,), "a mask of tokens")
    if count != tokens:
        raise DataError(f"{path} is the mask of {count} tokens, not {tokens}", PREPARE_AGAIN)
    return mapped(path, "u1", -(-count // 8), count)


def header(path: Path, magic: bytes, widths: tuple[int, ...], what: str) -> tuple[int, int]:
    """What a file's header says: the bytes of an element, and how many tokens there are."""
    try:
        with regular(path, path.parent).open("rb") as file:
            kind, version, width, count = HEADER.unpack(file.read(HEADER.size))
    except (OSError, struct.error) as error:
        raise DataError(f"cannot read the shard {path}: {error}", PREPARE_AGAIN) from None
    if kind != magic or width not in widths:
        raise DataError(f"{path} is not {what}", PREPARE_AGAIN)
    if version > FORMAT_VERSION:
        raise DataError(f"{path} has format {version}, this bardlet reads up to {FORMAT_VERSION}")
    return width, count


def mapped(path: Path, dtype: str, size: int, tokens: int) -> np.ndarray:
    """The `size` elements after a file's header; DataError where there are more or fewer."""
    length = path.stat().st_size
    if length != HEADER.size + np.dtype(dtype).itemsize * size:
        raise DataError(
            f"{path} has {length} bytes where its header says {tokens} tokens", PREPARE_AGAIN
        )
    if not size:  # an empty file region cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER.size, shape=(size,))


def pages(ids: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """Where the pages of ids[first:last] begin in their mapped file, and the bytes to their end."""
    begin = getattr(ids, "offset", 0) % mmap.ALLOCATIONGRANULARITY + first * ids.itemsize
    page = begin - begin % mmap.PAGESIZE
    return page, begin - page + (last - first) * ids.itemsize


class TokenStream:
    """Any number of shards as one sequence of tokens, of which some may not count in the loss."""

    def __init__(
        self, shards: list[np.ndarray], vocab_size: int = 1 << 32, *,
        masks: Sequence[np.ndarray | None] = (),
    ) -> None:  # fmt: skip
        """`masks` has the bits of each shard, None where all of its tokens count."""
        self.shards = shards
        self.masks = list(masks) or [None] * len(shards)
        self.vocab_size = vocab_size
        self.ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def size_bytes(self) -> int:
        """The size of its token ids."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def masked(self) -> bool:
        """Whether there may be tokens that do not count."""
        return any(mask is not None for mask in self.masks)

    def places(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Where tokens start..start+count lie: yields shards, and from where to where in each."""
        shard = bisect_right(self.ends, start)
        while count > 0 and shard < len(self.shards):
            first = start - (int(self.ends[shard - 1]) if shard else 0)
            last = min(first + count, len(self.shards[shard]))
            yield shard, first, last
            start, count, shard = start + last - first, count - (last - first), shard + 1

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens start..start+count as (count,) int64, across shard borders; fewer at the end."""
        count = max(0, min(count, len(self) - start))
        return self.read_each([start], count)[0]

    def read_each(self, starts: Sequence[int], count: int) -> np.ndarray:
        """The `count` tokens from each of these places on, which the stream has: (B, count) int64.

        Raises DataError where one of them is not in the vocabulary.
        """
        ids = np.empty((len(starts), count), dtype=np.int64)  # (B, count)
        for row, start in zip(ids, starts, strict=True):
            at = 0
            for shard, first, last in self.places(start, count):
                # a view without the class of mapped arrays, whose every slice runs Python
                row[at : at + last - first] = np.asarray(self.shards[shard])[first:last]
                at += last - first
            assert at == count, "the stream ends before"
        if ids.max(initial=0) >= self.vocab_size:
            raise DataError(
                f"token {ids.max()} lies beyond the vocabulary of {self.vocab_size}", PREPARE_AGAIN
            )
        return ids

    def will_need(self, start: int, count: int) -> None:
        """Ask the system to bring tokens start..start+count to memory; returns at once."""
        for shard, first, last in self.places(start, count):
            file = self.shards[shard].base
            if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
                file.madvise(mmap.MADV_WILLNEED, *pages(self.shards[shard], first, last))

    def counts(self, start: int, count: int) -> np.ndarray:
        """Whether tokens start..start+count count in the loss: (count,) bool; fewer at the end."""
        parts = [np.zeros(0, dtype=bool)]
        for shard, first, last in self.places(start, count):
            mask = self.masks[shard]
            if mask is None:
                parts.append(np.ones(last - first, dtype=bool))
            else:
                bits = np.unpackbits(mask[first // 8 : -(-last // 8)], bitorder="little")
                parts.append(bits[first % 8 :][: last - first].astype(bool))
        return np.concatenate(parts)

    def counted_windows(self, length: int) -> float:
        """The share of the windows of so many tokens in which a target counts; of a long stream
        its beginning's.
        """
        count = max(1, min(len(self) - 1, LOOKED_AT) // length)
        if not self.masked or len(self) < 2:
            return 1.0
        counts = self.counts(1, count * length)
        first = np.arange(0, len(counts), length)
        return float(np.maximum.reduceat(counts, first).mean())

    def window(self, start: int, length: int) -> np.ndarray:
        """Inputs and targets from `start` on: (2, length) int64, shorter at the end.

        A target is the token after its input, and -1 where that does not count.
        """
        return self.with_targets(self.read(start, length + 1)[None], [start])[:, 0]

    def windows(self, starts: Sequence[int], length: int) -> np.ndarray:
        """Inputs and targets from each of these places on, as `window` has them: (2, B, length).

        The stream has them whole.
        """
        return self.with_targets(self.read_each(starts, length + 1), starts)

    def with_targets(self, ids: np.ndarray, starts: Sequence[int]) -> np.ndarray:
        """Tokens (B, length + 1) from these places on as inputs and targets: (2, B, length)."""
        windows = np.stack((ids[:, :-1], ids[:, 1:]))  # (2, B, length)
        if self.masked:
            for targets, start in zip(windows[1], starts, strict=True):
                targets[~self.counts(start + 1, len(targets))] = -1
        return windows
