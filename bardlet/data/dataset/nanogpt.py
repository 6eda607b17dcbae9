"""nanoGPT's data folders, read as they are: train.bin, val.bin and, for characters, meta.pkl."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data.dataset import plain_pickle
from bardlet.data.tokenizers import base, factory, words
from bardlet.data.tokenizers.base import CharTokenizer, Tokenizer, fingerprint
from bardlet.errors import DataError
from bardlet.io.atomic import sha256

WHOLE_BYTES = 1 << 30  # of a file that is hashed from end to end, which takes a second
ENDS_BYTES = 16 << 20  # hashed at each end of a longer one


def is_folder(folder: Path) -> bool:
    """Whether nanoGPT wrote this dataset."""
    return (folder / "train.bin").is_file() and (folder / "val.bin").is_file()


def read(folder: Path) -> tuple[dict[str, Any], Tokenizer, dict[str, np.ndarray]]:
    """What would be the folder's manifest, its tokenizer, and the ids of each split, mapped.

    The tokens are headerless little-endian uint16. Raises DataError where a file is damaged.
    """
    tokenizer = tokenizer_of(folder)
    lengths = tokenizer.token_bytes()
    splits: dict[str, Any] = {}
    ids: dict[str, np.ndarray] = {}
    for name in ("train", "val"):
        path = folder / f"{name}.bin"
        size = path.stat().st_size
        if size % 2 or not size:
            raise DataError(f"{path} has {size} bytes: not a whole number of two-byte tokens")
        ids[name] = np.memmap(path, dtype="<u2", mode="r")
        splits[name] = {
            "tokens": size // 2,
            "shards": [{"file": path.name, "tokens": size // 2, "sha256": digest(path)}],
        }
        if size <= WHOLE_BYTES:
            counts = np.bincount(ids[name], minlength=len(lengths))[: len(lengths)]
            splits[name]["bytes"] = int(counts @ lengths)
    manifest = {
        "name": folder.name, "tokenizer": tokenizer.kind, "splits": splits, "sources": [],
        "notes": ["written by nanoGPT"], "tokenizer_hash": fingerprint(tokenizer),
        "hash": hashlib.sha256(
            "".join(split["shards"][0]["sha256"] for split in splits.values()).encode()
        ).hexdigest(),
    }  # fmt: skip
    return manifest, tokenizer, ids


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a data folder: meta.pkl's characters, else GPT-2's, as nanoGPT assumes.

    A tokenizer.json, which exports of ours have where a meta.pkl does not say all, comes first.
    """
    if (folder / "tokenizer.json").is_file():
        return base.load(folder / "tokenizer.json")
    path = folder / "meta.pkl"
    return of_meta(path) if path.is_file() else factory.existing("gpt2")


def of_meta(path: Path) -> Tokenizer:
    """The tokenizer that a meta.pkl describes: of characters, or of words.

    Its stoi are the ids of all names, of which itos may have more.
    """
    if path.stat().st_size > plain_pickle.MAX_BYTES:
        raise DataError(f"{path} is not a description of a vocabulary: it is too large")
    meta = plain_pickle.read(path.read_bytes(), str(path))
    meta = meta if isinstance(meta, dict) else {}
    ids, names = meta.get("stoi", {}), meta.get("itos", {})
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(ids, dict) or not isinstance(names, dict) or not (ids or names):
        raise DataError(f"{path} has no stoi, the ids of its characters", "Prepare the text again")
    ids = {name: i for i, name in names.items()} | ids
    odd = [name for name, i in ids.items() if not isinstance(name, str) or type(i) is not int]
    if odd:
        raise DataError(f"{path} is damaged: {odd[0]!r} is not a name with a number as its id")
    return words.from_ids(ids, str(path))


def meta(tokenizer: Tokenizer) -> dict[str, Any]:
    """What nanoGPT's meta.pkl says of this tokenizer: names for all ids, ids for characters, or for
    words; of tokens of several characters, ids for those of one.
    """
    if isinstance(tokenizer, CharTokenizer):
        names = [piece.decode("utf-8", "surrogatepass") for piece in tokenizer.tokens()]
        ids = {char: i for i, char in enumerate(tokenizer.chars)}
    elif tokenizer.kind == "wordlevel":
        ids = json.loads(tokenizer.to_json())["model"]["vocab"]
        names = sorted(ids, key=lambda name: ids[name])
    else:
        names = [token.decode("utf-8", "replace") for token in tokenizer.tokens()]
        ids = {name: i for i, name in reversed([*enumerate(names)]) if len(name) == 1}
    return {"vocab_size": len(names), "itos": dict(enumerate(names)), "stoi": ids}


def digest(path: Path) -> str:
    """The file's sha256; of more than a gibibyte, that of its size, beginning and end."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return sha256(path)
    hasher = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        hasher.update(file.read(ENDS_BYTES))
        file.seek(size - ENDS_BYTES)
        hasher.update(file.read())
    return hasher.hexdigest()
