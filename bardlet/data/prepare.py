"""Corpus and tokenizer to a dataset folder, which appears whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import bardlet
from bardlet.data import tokenizer as tokenizers
from bardlet.data import vocabulary
from bardlet.data.corpus import Corpus
from bardlet.data.dataset import FORMAT_VERSION, Dataset, write_shard
from bardlet.errors import DataError, UsageError

OURS = re.compile(r"manifest\.json|tokenizer\.json|(train|val)-\d+\.bin")  # what may be replaced


def prepare(
    corpus: Corpus, out: Path, *, tokenizer: str = "char", vocab_size: int = 0,
    val_fraction: float = 0.1, shard_tokens: int = 100_000_000,
    say: Callable[[str], None] = lambda line: None,
) -> Dataset:  # fmt: skip
    """Write `corpus` as a dataset folder at `out` and return it opened.

    The text is split by position: its first 1 - val_fraction is for training, as in nanoGPT. An
    earlier dataset at `out` is replaced; a folder with anything else in it is left alone with a
    DataError. `tokenizer` and `vocab_size` are as in `vocabulary.choose`; `say` receives progress.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction={val_fraction} must lie between 0 and 1")
    if shard_tokens < 1:
        raise UsageError(f"shard_tokens={shard_tokens} must be at least 1")
    if len(corpus.text) < 2:
        raise DataError(
            f"{corpus.name} has {len(corpus.text)} characters, too few to split", "Give more text"
        )
    if out.exists():
        names = sorted(p.name for p in out.iterdir()) if out.is_dir() else [out.name]
        foreign = [name for name in names if not OURS.fullmatch(name)]
        if names and "manifest.json" not in names:
            foreign = names
        if foreign:
            raise DataError(
                f"{out} is there and is no dataset: it has {foreign[0]}",
                "Name another folder with --out",
            )
    # nanoGPT's int(n * 0.9) to the character, and never an empty side
    border = int(len(corpus.text) * (1 - val_fraction))
    border = min(max(border, 1), len(corpus.text) - 1)
    texts = {"train": corpus.text[:border], "val": corpus.text[border:]}
    # an alphabet needs every character; what a trained vocabulary merges, val must not decide
    seen = texts["train"] if tokenizer == "bpe" else corpus.text
    encoder = vocabulary.choose(tokenizer, seen, vocab_size=vocab_size, say=say)
    corpus = dataclasses.replace(corpus, notes=corpus.notes + losses(encoder, corpus.text))
    kind = tokenizer if tokenizer in vocabulary.OURS else encoder.kind
    building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        splits = {
            split: write_split(building, split, text, encoder, shard_tokens)
            for split, text in texts.items()
        }
        manifest = {**describe(corpus, encoder, splits, val_fraction), "tokenizer": kind}
        write_text(building / "tokenizer.json", encoder.to_json())
        write_text(building / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        building.rename(out)
    except OSError as error:
        raise DataError(f"cannot write the dataset to {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Dataset(out)


def losses(encoder: tokenizers.Tokenizer, text: str) -> tuple[str, ...]:
    """A remark where the beginning of `text` does not survive encoding, with the first place."""
    given = text[:100_000]
    found = encoder.decode(encoder.encode(given))
    if found == given:
        return ()
    differ = (i for i, (a, b) in enumerate(zip(given, found, strict=False)) if a != b)
    at = next(differ, min(len(given), len(found)))
    around = slice(max(at - 10, 0), at + 20)
    return (f"the tokenizer does not keep the text: {given[around]!r} is {found[around]!r} to it",)


def write_split(
    folder: Path, split: str, text: str, encoder: tokenizers.Tokenizer, shard_tokens: int
) -> dict[str, Any]:
    """Write the shards of one split; return its entry in the manifest."""
    dtype = np.dtype("uint16" if encoder.vocab_size <= 1 << 16 else "uint32")
    ids = encoder.encode(text).astype(dtype)
    with ThreadPoolExecutor(1) as beside:  # hashing and writing let other threads run
        whole = beside.submit(hashlib.sha256, ids.data)
        shards = [
            write_shard(folder / f"{split}-{i:05d}.bin", ids[start : start + shard_tokens], dtype)
            for i, start in enumerate(range(0, len(ids), shard_tokens))
        ]
    return {
        "documents": 1,
        "characters": len(text),
        "bytes": len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")),
        "tokens": len(ids),
        "sha256": whole.result().hexdigest(),
        "shards": shards,
    }


def describe(
    corpus: Corpus, encoder: tokenizers.Tokenizer, splits: dict[str, Any], val_fraction: float
) -> dict[str, Any]:
    """The manifest of a dataset."""
    tokenizer_hash = tokenizers.fingerprint(encoder)
    identity = [tokenizer_hash] + [splits[split]["sha256"] for split in sorted(splits)]
    return {
        "format_version": FORMAT_VERSION,
        "name": corpus.name,
        "bardlet": bardlet.__version__,
        "hash": hashlib.sha256(" ".join(identity).encode()).hexdigest(),
        "tokenizer": encoder.kind,
        "tokenizer_hash": tokenizer_hash,
        "vocab_size": encoder.vocab_size,
        "split": {"by": "position", "val_fraction": val_fraction},
        "sources": [dataclasses.asdict(source) for source in corpus.sources],
        "notes": list(corpus.notes),
        "splits": splits,
    }


def write_text(path: Path, text: str) -> None:
    """Write a text file and wait until it is on disk."""
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
