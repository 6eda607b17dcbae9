"""Byte-level BPE as GPT-2 and its successors have it, and every other `tokenizer.json`.

The tokenizers library encodes. Decoding is ours wherever tokens are bytes: the same for streamed
text, and without the library's clean-up.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np

from bardlet.data.pieces import BYTE_OF, END_OF_TEXT, Pieces, utf8
from bardlet.data.tokenizer_json import open_with_library

# What published vocabularies call the token between texts, the likeliest first.
ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|begin_of_text|>", "</s>", "<eos>", "[SEP]")


class LibraryTokenizer(Pieces):
    """A tokenizer that the tokenizers library runs, of the `tokenizer.json` that was read."""

    def __init__(self, text: str, document: dict[str, Any], name: str) -> None:
        """`document` is the checked content of `text`; `name` says which file, for messages."""
        self.text = text
        self.document = document
        self.library = open_with_library(text, name)
        self.added = {token["content"]: token["id"] for token in document.get("added_tokens") or []}
        self.end_of_text: int | None = next(
            (i for end in ENDS if (i := self.library.token_to_id(end)) is not None), None
        )

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (T,) uint32; names of special tokens in it are plain text."""
        utf8(text)  # refuses what the library cannot take
        return np.array(self.library.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    def to_json(self) -> str:
        """The `tokenizer.json` that was read, to the letter."""
        return self.text

    def identity(self) -> str:
        """What the tokenizer does, as a text that equal tokenizers share."""
        model = {k: v for k, v in self.document["model"].items() if v not in (None, False, "")}
        if "merges" in model:  # two spellings of the same
            model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        steps = [self.document.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
        whole = {"model": model, "added": self.added, "steps": steps}
        return json.dumps(whole, sort_keys=True)


class BPETokenizer(LibraryTokenizer):
    """Byte-level BPE: every token is a string of bytes, and there is no text without ids."""

    kind = "bpe"

    @cached_property
    def pieces(self) -> list[bytes]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The bytes of every token, by id; empty for an id that has none."""
        vocab = self.library.get_vocab(with_added_tokens=True)
        pieces = [b""] * (max(vocab.values(), default=-1) + 1)
        for token, i in vocab.items():
            spelt = token not in self.added and all(char in BYTE_OF for char in token)
            pieces[i] = bytes(BYTE_OF[c] for c in token) if spelt else token.encode("utf-8")
        return pieces


def is_byte_level(document: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` has tokens that are bytes in GPT-2's spelling."""
    decoder = document.get("decoder")
    return (
        document["model"].get("type", "BPE") == "BPE"
        and isinstance(decoder, dict)
        and decoder.get("type") == "ByteLevel"
    )
