"""A dataset out to nanoGPT's form: train.bin, val.bin, and meta.pkl with its vocabulary."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data.dataset import folder, mixture, plain_pickle
from bardlet.data.dataset import nanogpt as data
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import CharTokenizer, Tokenizer, fingerprint
from bardlet.errors import CheckpointError, DataError, UsageError
from bardlet.io.atomic import new_folder, write_text

GPT2_VOCABULARY = range(50257, 50305)  # GPT-2's tokens, and padded as nanoGPT does
MAX_VOCABULARY = 1 << 16  # of two bytes
CHUNK = 1 << 22  # tokens written at once


def is_gpt2(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is GPT-2's, which nanoGPT assumes where there is no meta.pkl."""
    likely = tokenizer.kind == "bpe" and tokenizer.vocab_size in GPT2_VOCABULARY
    return likely and fingerprint(tokenizer) == fingerprint(factory.existing("gpt2"))


def is_list_of_names(tokenizer: Tokenizer) -> bool:
    """Whether a meta.pkl says all of a tokenizer."""
    return isinstance(tokenizer, CharTokenizer) or tokenizer.kind == "wordlevel"


def write_vocabulary(tokenizer: Tokenizer, place: Path) -> None:
    """Write what nanoGPT reads of a tokenizer, and what bardlet reads where that says less."""
    if is_gpt2(tokenizer):
        return
    (place / "meta.pkl").write_bytes(plain_pickle.write(data.meta(tokenizer)))
    if not is_list_of_names(tokenizer):
        write_text(place / "tokenizer.json", tokenizer.to_json())


def is_dataset(name: str) -> bool:
    """Whether this names a prepared dataset, and not a run or a file."""
    path = Path(name)
    if "," in name or path.is_file() or (path / "checkpoints").is_dir():
        return "," in name and not path.exists()
    return folder.is_dataset(folder.find(name))


def export_dataset(name: str, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Write a dataset into the new folder `out`, and return what was written, for JSON.

    Raises BardletError children, and leaves nothing behind, where nanoGPT cannot hold it.
    """
    if out.exists():
        raise UsageError(f"{out} already exists", "Name a new folder, or remove that one")
    if "," in name:
        raise UsageError(f"{name} is a mixture, which nanoGPT cannot hold", "Name one dataset")
    dataset = mixture.opened(name)
    if dataset.vocab_size > MAX_VOCABULARY:
        raise DataError(
            f"{dataset.folder} has {dataset.vocab_size:,} tokens, nanoGPT's are of two bytes",
            "Prepare it with a vocabulary of at most 65,536",
        )
    dataset.verify()
    try:
        with new_folder(out) as building:
            for split in folder.SPLITS:
                write_split(dataset, split, building / f"{split}.bin")
            write_vocabulary(dataset.tokenizer, building)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error}") from None
    if dataset.pairs:
        say("nanoGPT has no masks: prompts count in the loss there as responses do")
    if not (is_gpt2(dataset.tokenizer) or is_list_of_names(dataset.tokenizer)):
        say("nanoGPT's sample.py encodes a prompt character by character with this vocabulary")
    files = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    tokens = {split: len(dataset.splits[split]) for split in folder.SPLITS}
    # os.path.join in nanoGPT takes a whole path as it is
    step = f"python train.py --dataset={shlex.quote(str(out.resolve()))}"
    return {"out": str(out), "format": "nanogpt", "tokens": tokens, "files": files, "next": [step]}


def write_split(dataset: Dataset, split: str, path: Path) -> None:
    """Write a split's ids one after the other, little-endian uint16."""
    stream = dataset.splits[split]
    with path.open("wb") as file:
        for start in range(0, len(stream), CHUNK):
            ids = stream.read(start, min(CHUNK, len(stream) - start))
            file.write(np.ascontiguousarray(ids, dtype="<u2").tobytes())
