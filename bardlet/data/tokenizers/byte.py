"""The byte tokenizer: a token for every byte of UTF-8, and one that ends a text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bardlet.data.tokenizers.byte_tokens import ALPHABET, END_OF_TEXT, ByteTokens, utf8
from bardlet.data.tokenizers.json_file import byte_level


class ByteTokenizer(ByteTokens):
    """Any text in any script with 257 tokens: id 0 to 255 is the byte, 256 the end of a text."""

    kind = "byte"
    end_of_text: int | None = 256

    def __init__(self) -> None:
        self.vocab = [bytes([byte]) for byte in range(256)] + [END_OF_TEXT.encode()]

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (number of bytes,) uint8."""
        return np.frombuffer(utf8(text), dtype=np.uint8)

    def to_json(self) -> str:
        """`tokenizer.json`: byte-level BPE without a merge."""
        return json.dumps(own_document(), ensure_ascii=False, indent=1) + "\n"

    def identity(self) -> str:
        """What the tokenizer does, as a text that equal tokenizers share."""
        return self.to_json()


def own_document() -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    vocab = {char: byte for byte, char in enumerate(ALPHABET)}
    return byte_level(vocab, [], None, {END_OF_TEXT: len(vocab)})


def is_byte(document: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` gives texts the ids that ours does, see `char.is_char`."""
    ours = own_document()
    end = {END_OF_TEXT: ours["added_tokens"][0]["id"]}
    vocab = document["model"]["vocab"]
    if not isinstance(vocab, dict) or vocab | end != ours["model"]["vocab"] | end:
        return False
    added = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    theirs = {**document, "model": {**document["model"], "vocab": ours["model"]["vocab"]}}
    steps = ("normalizer", "pre_tokenizer", "decoder", "model")
    return added == end and all(theirs.get(step) == ours[step] for step in steps)
