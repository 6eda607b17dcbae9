"""Token ids on disk: shards, memory-mapped, any number of which read as one sequence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from bardlet.errors import DataError
from bardlet.untrusted import regular

FORMAT_VERSION = 1
HEADER = struct.Struct("<8sIIQ8x")  # magic, version, bytes per token, tokens
MAGIC = b"BARDLET\0"
PREPARE_AGAIN = "Run `bardlet prepare` again"


def map_shard(path: Path) -> np.ndarray:
    """A shard's token ids, memory-mapped read-only: (tokens,) uint16 or uint32."""
    try:
        with regular(path, path.parent).open("rb") as file:
            magic, version, width, count = HEADER.unpack(file.read(HEADER.size))
        size = path.stat().st_size
    except (OSError, struct.error) as error:
        raise DataError(f"cannot read the shard {path}: {error}", PREPARE_AGAIN) from None
    if magic != MAGIC or width not in (2, 4):
        raise DataError(f"{path} is not a shard of token ids", PREPARE_AGAIN)
    if version > FORMAT_VERSION:
        raise DataError(f"{path} has format {version}, this bardlet reads up to {FORMAT_VERSION}")
    if size != HEADER.size + width * count:
        raise DataError(
            f"{path} has {size} bytes where its header says {count} tokens", PREPARE_AGAIN
        )
    if not count:  # an empty file region cannot be mapped
        return np.zeros(0, dtype=f"<u{width}")
    return np.memmap(path, dtype=f"<u{width}", mode="r", offset=HEADER.size, shape=(count,))


class TokenStream:
    """Any number of shards as one sequence of tokens."""

    def __init__(self, shards: list[np.ndarray], vocab_size: int = 1 << 32) -> None:
        self.shards = shards
        self.vocab_size = vocab_size
        self.ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens start..start+count as (count,) int64, across shard borders; fewer at the end."""
        parts = []
        shard = int(np.searchsorted(self.ends, start, side="right"))
        while count > 0 and shard < len(self.shards):
            offset = start - (int(self.ends[shard - 1]) if shard else 0)
            part = self.shards[shard][offset : offset + count]
            parts.append(part.astype(np.int64))
            start, count, shard = start + len(part), count - len(part), shard + 1
        ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        if ids.max(initial=0) >= self.vocab_size:
            raise DataError(
                f"token {ids.max()} lies beyond the vocabulary of {self.vocab_size}", PREPARE_AGAIN
            )
        return ids
