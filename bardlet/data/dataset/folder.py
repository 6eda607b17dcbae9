"""The dataset folder: manifest, tokenizer, and shards of token ids read as one stream.

    manifest.json  tokenizer.json  train-00000.bin ...  val-00000.bin ...

A shard is a header of 32 bytes, then little-endian token ids. docs/formats.md has the details.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data.dataset import nanogpt
from bardlet.data.dataset.stream import (
    FORMAT_VERSION,
    PREPARE_AGAIN,
    TokenStream,
    map_mask,
    map_shard,
)
from bardlet.data.dataset.streamed import StreamedText, StreamInfo, goes_on
from bardlet.data.text.corpus import Source
from bardlet.data.text.counts import Count
from bardlet.data.tokenizers import base as tokenizers
from bardlet.errors import DataError
from bardlet.io.atomic import sha256
from bardlet.io.safe_read import child, read_json, regular
from bardlet.io.schema import VERSIONED, check, read

SPLITS = ("train", "val")
PRESENT = {"shards": [{"docs?": dict, "mask?": dict}]}  # of a split; nothing is null
VERIFIED_BYTES = 1 << 30  # read and hashed within a second


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A file beside a shard, with the number of its elements."""

    file: str
    sha256: str
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The files of a shard: the tokens, where documents begin, which tokens count in the loss."""

    file: str
    tokens: int
    sha256: str = ""
    docs: Beside | None = None
    mask: Beside | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split's sizes and shards; -1 documents are not counted."""

    characters: int
    bytes: int
    tokens: int
    shards: Sequence[Shard]
    documents: int = -1


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How texts were split: by position or by document."""

    by: str
    val_fraction: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is read of manifest.json; `options` is None in a dataset of an early bardlet."""

    format_version: int
    name: str
    hash: str  # the same however the tokens lie in shards
    tokenizer_hash: str
    notes: Sequence[str]
    sources: Sequence[Source]
    splits: Mapping[str, Split]
    tokenizer: str = ""
    end_of_text: int | None = None  # the token after each document
    split: SplitRule | None = None
    masked: bool = False
    preferences: bool = False  # whether documents are pairs, of one chosen and one rejected
    chat_template: str = ""  # of conversations, in Jinja
    options: Mapping[str, object] | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)  # of what was left out, by reason
    stream: StreamInfo | None = None  # where the training text comes and goes


class Dataset:
    """An opened dataset folder."""

    chat_template = ""  # of conversations, in Jinja
    preferences = False  # whether documents are pairs, of one chosen and one rejected
    stream: StreamInfo | None = None  # where the training text comes and goes

    def __init__(self, folder: Path, tokenizer: tokenizers.Tokenizer | None = None) -> None:
        """Read the manifest and check the shards' headers; DataError where something is wrong.

        `tokenizer` is that of the folder, where it is open already.
        """
        self.folder = folder
        path = folder / "manifest.json"
        if not path.is_file() and nanogpt.is_folder(folder):
            self.manifest, self.tokenizer, ids = nanogpt.read(folder)
            self.about: Manifest | None = None
            self.hash = self.manifest["hash"]
            self.end_of_text: int | None = self.tokenizer.end_of_text
            self.splits = {s: TokenStream([ids[s]], self.vocab_size) for s in SPLITS}
            self.parts = [(self.splits["train"], 1.0)]
            return
        if not path.is_file():
            raise missing(folder)
        opened = identity(path)
        try:
            self.manifest: dict[str, Any] = read_json(path)
            check(self.manifest, VERSIONED)
            version = self.manifest.get("format_version", 0)
            if version > FORMAT_VERSION:
                raise DataError(
                    f"{path} has format {version}, this bardlet reads up to {FORMAT_VERSION}"
                )
            self.about = about = read(Manifest, self.manifest)
            for split in SPLITS:
                check(self.manifest["splits"], {split: PRESENT}, "it.splits")
            self.files = {
                split: [[child(folder, entry.file) for entry in files_named(shard)]
                        for shard in about.splits[split].shards]
                for split in SPLITS
            }  # fmt: skip
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}", PREPARE_AGAIN) from None
        self.end_of_text, self.hash, self.stream = about.end_of_text, about.hash, about.stream
        self.chat_template, self.preferences = about.chat_template, about.preferences
        self.tokenizer = tokenizer or tokenizers.load(folder / "tokenizer.json")
        if tokenizers.fingerprint(self.tokenizer) != about.tokenizer_hash:
            raise DataError(f"{folder}: the tokenizer is not the one of the tokens", PREPARE_AGAIN)
        self.splits = {split: self.open(split) for split in SPLITS}
        self.parts = [(self.splits["train"], 1.0)]  # what is trained on, with its share
        if self.end_of_text is not None and not 0 <= self.end_of_text < self.vocab_size:
            raise DataError(f"{path} is damaged: its end of text is not a token", PREPARE_AGAIN)
        # which may be another than the vocabulary's own
        self.tokenizer = tokenizers.with_end_of_text(self.tokenizer, self.end_of_text)
        if identity(path) != opened and not goes_on(folder, self.stream):
            # the tokens may be of another manifest
            raise DataError(f"{folder} was prepared again while it was opened", "Try again")

    def __fspath__(self) -> str:
        """The folder, so that a dataset is a path to it."""
        return str(self.folder)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def pairs(self) -> bool:
        """Whether documents are prompts with responses, of which the prompts are masked."""
        masked = any(stream.masked for stream in self.splits.values())
        return masked and not self.chat_template

    def open(self, split: str) -> TokenStream:
        """The shards of a split, and their masks, mapped; of a stream those that are there now."""
        if self.stream and split == "train":
            return StreamedText(self.folder, self.vocab_size)
        shards = [map_shard(files[0]) for files in self.files[split]]
        masks = [
            map_mask(files[1], len(ids)) if files[1:] else None
            for files, ids in zip(self.files[split], shards, strict=True)
        ]
        return TokenStream(shards, self.vocab_size, masks=masks)

    def verify(self) -> None:
        """Raise DataError where a shard is not as it was written.

        Datasets of more than VERIFIED_BYTES are taken as they are: reading them takes minutes.
        """
        if not self.about:
            return
        shards = [shard for split in SPLITS for shard in self.about.splits[split].shards]
        entries = [entry for shard in shards for entry in files_named(shard)]
        paths = [self.folder / entry.file for entry in entries]
        if sum(path.stat().st_size for path in paths) > VERIFIED_BYTES:
            return
        for path, entry in zip(paths, entries, strict=True):
            if sha256(path) != entry.sha256:
                raise DataError(
                    f"{path} is damaged: its sha256 is not the one in the manifest", PREPARE_AGAIN
                )

    def windows(self, split: str, block_size: int) -> Iterator[np.ndarray]:
        """The split once, front to back: inputs and targets, (2, block_size) int64, so that every
        token but the very first is a target once. The last window is shorter where the split ends.
        """
        stream = self.splits[split]
        for start in range(0, len(stream) - 1, block_size):
            yield stream.window(start, block_size)

    def path(self, entry: Shard | Beside) -> Path:
        """The file of an entry; DataError where it is outside the folder or no regular file."""
        try:
            return regular(child(self.folder, entry.file), self.folder)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder} is damaged: {error}", PREPARE_AGAIN) from None


def files_named(shard: Shard) -> list[Shard | Beside]:
    """What training reads of a shard: the tokens, and the mask if it has one."""
    return [shard, shard.mask] if shard.mask else [shard]


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


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
