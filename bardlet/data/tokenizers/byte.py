"""The byte tokenizer: a token for every byte of UTF-8, and one that ends a text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bardlet.data.tokenizers.byte_tokens import ALPHABET, END_OF_TEXT, ROLE, ByteTokens, utf8
from bardlet.data.tokenizers.json_file import byte_level


class ByteTokenizer(ByteTokens):
    """Any text in any script with 257 tokens: id 0 to 255 is the byte, 256 the end of a text.

    After them may come `roles`, which no text is encoded to.
    """

    kind = "byte"
    end_of_text: int | None = 256

    def __init__(self, roles: tuple[str, ...] = ()) -> None:
        self.roles = roles
        names = [END_OF_TEXT, *roles]
        self.vocab = [bytes([byte]) for byte in range(256)] + [name.encode() for name in names]

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (number of bytes,) uint8."""
        return np.frombuffer(utf8(text), dtype=np.uint8)

    def to_json(self) -> str:
        """`tokenizer.json`: byte-level BPE without a merge."""
        return json.dumps(own_document(self.roles), ensure_ascii=False, indent=1) + "\n"

    def identity(self) -> str:
        """What the tokenizer does, as a text that equal tokenizers share."""
        return self.to_json()


def own_document(roles: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    vocab = {char: byte for byte, char in enumerate(ALPHABET)}
    special = {name: len(vocab) + i for i, name in enumerate((END_OF_TEXT, *roles))}
    return byte_level(vocab, [], None, special)


def roles_of(document: dict[str, Any]) -> tuple[str, ...]:
    """The special tokens that a `tokenizer.json` has after the end of a text, in order."""
    added = {token["id"]: token["content"] for token in document.get("added_tokens") or ()}
    return tuple(added[i] for i in sorted(added) if i > 256)


def is_byte(document: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` gives texts the ids that ours does, see `char.is_char`."""
    roles = roles_of(document)
    if not all(ROLE.fullmatch(name) for name in roles):
        return False
    ours = own_document(roles)
    end = {token["content"]: token["id"] for token in ours["added_tokens"]}
    vocab = document["model"]["vocab"]
    if not isinstance(vocab, dict) or vocab | end != ours["model"]["vocab"] | end:
        return False
    tokens = document.get("added_tokens") or ()
    added = {token["content"]: token["id"] for token in tokens if token["special"]}
    theirs = {**document, "model": {**document["model"], "vocab": ours["model"]["vocab"]}}
    steps = ("normalizer", "pre_tokenizer", "decoder", "model")
    return added == end and all(theirs.get(step) == ours[step] for step in steps)
