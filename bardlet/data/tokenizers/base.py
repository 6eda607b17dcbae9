"""Text to token ids and back: what every tokenizer can do, and which one a file describes.

A tokenizer is part of the dataset and of every checkpoint, as the `tokenizer.json` that Hugging
Face's readers understand: nothing is looked up at sampling time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from bardlet.data.tokenizers import bpe, byte, char, foreign, json_file, special
from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.data.tokenizers.byte_tokens import NO_END
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import DataError
from bardlet.io.safe_read import read_text

__all__ = ["ByteTokenizer", "CharTokenizer", "Stream", "Tokenizer", "encode_with_special",
           "fingerprint", "from_json", "load", "with_end_of_text"]  # fmt: skip


class Stream(Protocol):
    """Text out of tokens as they arrive, never a part of a character."""

    def feed(self, ids: Iterable[int]) -> str:
        """The characters that `ids` complete."""
        ...

    def end(self) -> str:
        """What is left when no more tokens come: U+FFFD for a character that was cut short."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back. Ids lie in [0, vocab_size); `stream` puts out what `decode` does."""

    @property
    def kind(self) -> str:
        """char, byte, bpe (byte-level), or the model's type in lower case, such as unigram."""
        ...

    @property
    def vocab_size(self) -> int: ...

    end_of_text: int | None
    """The id of the token that stands between texts, where there is one."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (T,) of some unsigned or signed integer type that holds them.

        The names of special tokens in `text` are plain text. DataError where a character has no id.
        """
        ...

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def stream(self) -> Stream:
        """A decoder for tokens that come a few at a time."""
        ...

    def tokens(self) -> list[bytes]:
        """The bytes of every token, by id; none for an id that has no token."""
        ...

    def id_of(self, name: str) -> int | None:
        """The id of the token with this text or name, None where there is none."""
        ...

    def special(self) -> dict[str, int]:
        """The ids of the tokens that no text is encoded to, by name."""
        ...

    def token_bytes(self) -> np.ndarray:
        """UTF-8 length of every token, (V,) int64: what bits per byte divide by."""
        ...

    def to_json(self) -> str:
        """`tokenizer.json` in the format of Hugging Face's tokenizers library."""
        ...

    def identity(self) -> str:
        """What the tokenizer does, as a text that equal tokenizers share."""
        ...


def from_json(text: str, name: str, eos: str = "") -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes; `name` says which one, for messages.

    `eos` is the token that ends a text by what its publisher says, see `special.end_of_text`.
    DataError where the document is damaged or asks for what no vocabulary needs.
    """
    document = json_file.parse(text, name)
    if any(token["content"] == NO_END for token in document.get("added_tokens") or ()):
        document = json_file.without(document, {NO_END})
        text = json.dumps(document)
    if char.is_char(document):
        try:
            return char.from_document(document)
        except (ValueError, TypeError) as error:
            raise DataError(f"{name} is damaged: {error}") from None
    if byte.is_byte(document):
        return ByteTokenizer(byte.roles_of(document))
    kind = bpe.BPETokenizer if bpe.is_byte_level(document) else foreign.ForeignTokenizer
    return kind(text, document, name, eos)


def load(path: Path, folder: Path | None = None) -> Tokenizer:
    """Read a `tokenizer.json`, and what transformers' files in its `folder` say of it."""
    try:
        text = read_text(path, inside=path.parent, max_bytes=json_file.MAX_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the tokenizer {path}: {error}") from None
    tokenizer = from_json(text, str(path), special.stated(folder or path.parent, "eos_token"))
    if not tokenizer.vocab_size:
        raise DataError(f"{path} is damaged: it has no tokens")
    return tokenizer


def with_end_of_text(tokenizer: Tokenizer, token: int | None) -> Tokenizer:
    """The tokenizer with this token between texts; None, and what is not an id of it, leave the
    token that it has.
    """
    if token == tokenizer.end_of_text or token not in range(tokenizer.vocab_size):
        return tokenizer
    changed = copy.copy(tokenizer)
    changed.end_of_text = token
    return changed


def encode_with_special(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of `text`, (T,), in which the names of special tokens stand for these."""
    ids = tokenizer.special()
    if not ids:
        return tokenizer.encode(text)
    names = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    parts = [part for part in re.split(f"({names})", text) if part]
    encoded = [np.array([ids[p]]) if p in ids else tokenizer.encode(p) for p in parts]
    return np.concatenate(encoded) if encoded else tokenizer.encode("")


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of what the tokenizer does, equal for equal tokenizers; computed once."""
    known = vars(tokenizer)
    if "fingerprint" not in known:  # a second for the largest vocabularies
        identity = tokenizer.identity().encode("utf-8", "surrogatepass")
        known["fingerprint"] = hashlib.sha256(identity).hexdigest()
    return known["fingerprint"]
