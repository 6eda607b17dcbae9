"""The dataset folder: manifest, tokenizer, and shards of token ids read as one stream.

    manifest.json  tokenizer.json  train-00000.bin ...  val-00000.bin ...

A shard is a header of 32 bytes, then little-endian token ids. docs/formats.md has the details.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data import nanogpt
from bardlet.data import tokenizer as tokenizers
from bardlet.errors import DataError
from bardlet.files import sha256
from bardlet.schema import FILES, VERSIONED, check
from bardlet.untrusted import child, read_json, regular

FORMAT_VERSION = 1
SPLITS = ("train", "val")
HEADER = struct.Struct("<8sIIQ8x")  # magic, version, bytes per token, tokens
MAGIC = b"BARDLET\0"
VERIFIED_BYTES = 1 << 30  # read and hashed within a second


def write_shard(path: Path, ids: np.ndarray, dtype: np.dtype) -> dict[str, Any]:
    """Write token ids as one shard; return its entry in the manifest."""
    body = np.ascontiguousarray(ids, dtype=dtype.newbyteorder("<")).data.cast("B")
    header = HEADER.pack(MAGIC, FORMAT_VERSION, dtype.itemsize, len(ids))
    with path.open("wb") as file:
        file.write(header)
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256(header)
    digest.update(body)
    return {"file": path.name, "tokens": len(ids), "sha256": digest.hexdigest()}


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


PREPARE_AGAIN = "Run `bardlet prepare` again"


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


class Dataset:
    """An opened dataset folder."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and check the shards' headers; DataError where something is wrong."""
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file() and nanogpt.is_folder(folder):
            self.manifest, self.tokenizer, ids = nanogpt.read(folder)
            self.hash = self.manifest["hash"]
            self.splits = {s: TokenStream([ids[s]], self.vocab_size) for s in SPLITS}
            self.parts = [(self.splits["train"], 1.0)]
            return
        if not path.is_file():
            raise missing(folder)
        try:
            self.manifest: dict[str, Any] = read_json(path)
            check(self.manifest, VERSIONED)
            version = self.manifest.get("format_version", 0)
            if version > FORMAT_VERSION:
                raise DataError(
                    f"{path} has format {version}, this bardlet reads up to {FORMAT_VERSION}"
                )
            check(self.manifest, FILES["manifest.json"])
            shards = {s: self.manifest["splits"][s]["shards"] for s in SPLITS}
            files = {s: [child(folder, shard["file"]) for shard in shards[s]] for s in SPLITS}
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}", PREPARE_AGAIN) from None
        self.hash: str = self.manifest["hash"]  # the same however the tokens lie in shards
        self.tokenizer = tokenizers.load(folder / "tokenizer.json")
        if tokenizers.fingerprint(self.tokenizer) != self.manifest["tokenizer_hash"]:
            raise DataError(f"{folder}: the tokenizer is not the one of the tokens", PREPARE_AGAIN)
        self.splits = {
            s: TokenStream([map_shard(file) for file in files[s]], self.vocab_size) for s in SPLITS
        }
        self.parts = [(self.splits["train"], 1.0)]  # what is trained on, with its share

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def verify(self) -> None:
        """Raise DataError where a shard is not as it was written.

        Datasets of more than VERIFIED_BYTES are taken as they are: reading them takes minutes.
        """
        entries = [entry for split in SPLITS for entry in self.manifest["splits"][split]["shards"]]
        paths = [self.folder / entry["file"] for entry in entries]
        if sum(path.stat().st_size for path in paths) > VERIFIED_BYTES:
            return
        for path, entry in zip(paths, entries, strict=True):
            if sha256(path) != entry.get("sha256"):
                raise DataError(
                    f"{path} is damaged: its sha256 is not the one in the manifest", PREPARE_AGAIN
                )

    def windows(self, split: str, block_size: int) -> Iterator[np.ndarray]:
        """The split once, front to back: (block_size + 1,) int64, each window's last token the
        next one's first, so that every token but the very first is predicted once. The last
        window is shorter where the split ends."""
        stream = self.splits[split]
        for start in range(0, len(stream) - 1, block_size):
            yield stream.read(start, block_size + 1)


def missing(folder: Path) -> DataError:
    """Why there is no dataset in `folder`, and what would make one."""
    return DataError(
        f"no dataset at {folder}",
        f"Prepare one: bardlet prepare TEXT --out {folder}, where TEXT is a file, a folder or "
        "tinyshakespeare",
    )


def find(name: str) -> Path:
    """The folder of a dataset: a path where one is given or lies there, else data/<name>."""
    path = Path(name)
    return path if path.name != name or is_dataset(path) else Path("data") / name


def is_dataset(folder: Path) -> bool:
    """Whether a dataset lies there, ours or nanoGPT's."""
    return (folder / "manifest.json").is_file() or nanogpt.is_folder(folder)
