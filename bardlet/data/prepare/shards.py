"""Writes one split's shards, so that it can go on where a kill has stopped it.

Files grow under their final names in a folder that nobody reads yet. A state is how long each was
at some moment; a run that goes on from it cuts them back to that, and writes the same bytes again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from bardlet.data.dataset.stream import DOCS, FORMAT_VERSION, HEADER, MAGIC, MASK, map_mask
from bardlet.data.prepare.checksum import BLOCK, checksum
from bardlet.data.prepare.encoding import Encoded

SUMS = ("documents", "characters", "bytes", "tokens")


class SplitWriter:
    """One split's growing shards. `docs` and `masked` say which files stand beside each."""

    def __init__(
        self, folder: Path, split: str, width: int, shard_tokens: int, *,
        docs: bool, masked: bool, state: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Begin, or go on from what `state` gave; `width` is the bytes of an id, 2 or 4."""
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.dtype = np.dtype(f"<u{width}")
        self.docs, self.masked = docs, masked
        self.sums: dict[str, int] = dict.fromkeys(SUMS, 0)
        self.done: list[dict[str, int]] = []  # tokens and documents of the shards that are full
        self.tokens = self.begun = 0  # of the shard that is being written
        self.files: dict[str, Any] = {}
        self.noted = 0  # the shard that the last state was in
        self.hasher, self.stopped = ThreadPoolExecutor(1), Event()
        self.whole = hashlib.sha256()
        self.entries: list[Any] = []
        if state:
            self.sums, self.done = dict(state["sums"]), list(state["done"])
            self.tokens, self.begun = state["tokens"], state["begun"]
            for i in range(len(self.done)):
                self.entries.append(self.hasher.submit(self.describe, i))
        self.open(fresh=not state)

    def path(self, index: int, kind: str) -> Path:
        """The file of a shard: .bin, .docs.bin, .mask.bin, or its .mask.raw."""
        return self.folder / f"{self.split}-{index:05d}{kind}"

    def open(self, *, fresh: bool = True) -> None:
        """Open the files of the shard that comes next, or of the one that was being written."""
        ends = {".bin": HEADER.size + self.tokens * self.dtype.itemsize}
        if self.docs:
            ends[".docs.bin"] = HEADER.size + 8 * self.begun
        if self.masked:
            ends[".mask.raw"] = self.tokens  # a byte each, made bits when the shard is full
        for kind, end in ends.items():
            path = self.path(len(self.done), kind)
            file = path.open("wb" if fresh or not path.exists() else "r+b", buffering=1 << 18)
            file.truncate(end)
            file.seek(end)
            self.files[kind] = file

    def add(self, encoded: Encoded, keep: list[bool]) -> None:
        """Append a unit's tokens, of the documents that `keep` says."""
        for i, ids in enumerate(encoded.ids):
            if not keep[i]:
                continue
            self.sums["documents"] += encoded.begins[i]
            self.sums["characters"] += encoded.characters[i]
            self.sums["bytes"] += encoded.bytes[i]
            self.sums["tokens"] += len(ids)
            if self.tokens == self.shard_tokens:
                self.close_shard()
            if self.docs and encoded.begins[i]:
                self.files[".docs.bin"].write(np.array([self.tokens], dtype="<u8").tobytes())
                self.begun += 1
            self.append(ids, encoded.counted[i])

    def append(self, ids: np.ndarray, counted: np.ndarray | None) -> None:
        """Append tokens, and which of them count in the loss; None: all of them."""
        start = 0
        while start < len(ids):
            if self.tokens == self.shard_tokens:
                self.close_shard()
            part = ids[start : start + self.shard_tokens - self.tokens]
            self.files[".bin"].write(np.ascontiguousarray(part, dtype=self.dtype).data)
            if self.masked:
                counts = np.ones(len(ids), dtype=bool) if counted is None else counted
                self.files[".mask.raw"].write(counts[start : start + len(part)].tobytes())
            self.tokens += len(part)
            start += len(part)

    def close_shard(self, *, last: bool = False) -> None:
        """Give the shard its header, leave its checksum to another thread, begin the next one."""
        numbers = {
            ".bin": (MAGIC, self.dtype.itemsize, self.tokens),
            ".docs.bin": (DOCS, 8, self.begun),
        }
        if raw := self.files.pop(".mask.raw", None):
            raw.close()
            pack_bits(Path(raw.name), self.path(len(self.done), ".mask.bin"), self.tokens)
        for kind, file in self.files.items():
            magic, width, count = numbers[kind]
            file.seek(0)
            file.write(HEADER.pack(magic, FORMAT_VERSION, width, count))
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self.done.append({"tokens": self.tokens, "documents": self.begun})
        self.entries.append(self.hasher.submit(self.describe, len(self.done) - 1))
        self.tokens = self.begun = 0
        self.files = {}
        if not last:
            self.open()

    def describe(self, index: int) -> dict[str, Any]:
        """The manifest's entry of a full shard; called in the order of the shards."""
        files: dict[str, Any] = {}
        counts = {".bin": self.done[index]["tokens"], ".docs.bin": self.done[index]["documents"]}
        for kind in (".bin", *[".docs.bin"] * self.docs, *[".mask.bin"] * self.masked):
            path = self.path(index, kind)
            digest = checksum(path, self.stopped, self.whole if kind == ".bin" else None)
            entry: dict[str, Any] = {"file": path.name, "sha256": digest}
            if kind == ".bin":
                files = {"file": path.name, "tokens": counts[".bin"], "sha256": entry["sha256"]}
            else:
                entry["count"] = counts.get(kind, counts[".bin"])
                files[kind.split(".")[1]] = entry
        return files

    def state(self) -> dict[str, Any]:
        """What `state` of a later writer is to be, after everything so far is on disk."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        for index in range(self.noted):  # which the state before this one is beyond, too
            self.path(index, ".mask.raw").unlink(missing_ok=True)
        self.noted = len(self.done)
        return {
            "sums": dict(self.sums), "done": list(self.done), "tokens": self.tokens,
            "begun": self.begun,
        }  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """The split's entry in the manifest, when the last shard is written."""
        self.close_shard(last=True)
        shards = [entry.result() for entry in self.entries]
        self.hasher.shutdown()
        return entry_of(self.folder, self.sums, self.whole.hexdigest(), shards)

    def abandon(self) -> None:
        """Close what is open, and end the checksums."""
        for file in self.files.values():
            file.close()
        self.stopped.set()
        self.hasher.shutdown(cancel_futures=True)


def entry_of(
    folder: Path, sums: Mapping[str, Any], digest: str, shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """The entry in the manifest of a split with these shards, which lie in `folder`."""
    entry = {**sums, "sha256": digest, "shards": shards}
    masks = [shard for shard in shards if "mask" in shard]
    if masks:
        counts = hashlib.sha256()  # of a byte for each token, however they lie in shards
        for shard in masks:
            bits = map_mask(folder / shard["mask"]["file"], shard["tokens"])
            for at in range(0, len(bits), BLOCK):
                part = np.unpackbits(bits[at : at + BLOCK], bitorder="little")
                counts.update(part[: shard["tokens"] - 8 * at].data)
        entry["mask_sha256"] = counts.hexdigest()
    return entry


def pack_bits(raw: Path, path: Path, count: int) -> None:
    """Write the mask that a file has in bytes as bits, the lowest of a byte first.

    The bytes stay: who goes on from a moment before needs them.
    """
    with raw.open("rb") as source, path.open("wb") as file:
        file.write(HEADER.pack(MASK, FORMAT_VERSION, 0, count))
        while block := source.read(BLOCK):
            bits = np.packbits(np.frombuffer(block, dtype=np.uint8), bitorder="little")
            file.write(bits.tobytes())
        file.flush()
        os.fsync(file.fileno())
