"""Text to token ids and back, in the `tokenizer.json` that Hugging Face's readers understand.

A tokenizer is part of the dataset and of every checkpoint: nothing is looked up at sampling time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from bardlet.errors import DataError
from bardlet.untrusted import parse_json, read_text

KINDS = ("char",)


class CharTokenizer:
    """One token per character (Unicode code point), ids in sorted order from 0, as nanoGPT's."""

    def __init__(self, chars: str) -> None:
        """`chars` are the alphabet's characters in the order of their ids, each once."""
        assert len(set(chars)) == len(chars)
        self.chars = chars
        self.points = code_points(chars).astype("<u4")  # (V,)
        # id by code point, -1 where unknown; it ends one past the largest code point of all
        self.ids = np.full(int(self.points.max(initial=0)) + 2, -1, dtype=np.int32)
        self.ids[self.points] = np.arange(len(chars), dtype=np.int32)

    @classmethod
    def train(cls, text: str, chunk: int = 1 << 22) -> CharTokenizer:
        """The tokenizer whose alphabet is the characters of `text`."""
        if text.isascii():  # a byte each: strike out what is known, see what is left
            raw = text.encode("ascii")
            known = bytes(set(raw[:chunk]))
            return cls("".join(map(chr, sorted({*known, *raw.translate(None, known)}))))
        seen = np.zeros(0x110000, dtype=bool)
        for start in range(0, len(text), chunk):
            seen[code_points(text[start : start + chunk])] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    @property
    def vocab_size(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (number of characters,) of some integer type that holds them.

        DataError where a character is unknown.
        """
        if text.isascii() and (raw := self.encode_bytes(text)) is not None:
            return raw
        points = code_points(text)
        # everything beyond the table's end shares its last entry, which is unknown
        ids = self.ids[np.minimum(points, np.uint32(len(self.ids) - 1))]
        if ids.min(initial=0) < 0:
            at = int(np.argmin(ids))
            raise DataError(
                f"character {text[at]!r} at position {at} is not in the model's alphabet",
                f"Its {self.vocab_size} characters are {self.chars!r}",
            )
        return ids

    def encode_bytes(self, text: str) -> np.ndarray | None:
        """The ids of ASCII text as uint8, by one pass over its bytes; None where they do not do."""
        unknown = 255
        ids = self.ids[:128]
        if ids.max(initial=0) >= unknown:
            return None
        table = np.full(256, unknown, dtype=np.uint8)
        table[: len(ids)] = np.where(ids < 0, unknown, ids)
        raw = text.encode("ascii").translate(table.tobytes())
        return None if unknown in raw else np.frombuffer(raw, dtype=np.uint8)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """The text of token ids, each in [0, vocab_size)."""
        return (
            self.points[np.asarray(ids, dtype=np.int64)]
            .tobytes()
            .decode("utf-32-le", "surrogatepass")
        )

    def token_bytes(self) -> np.ndarray:
        """UTF-8 length of every token, (V,) int64: what bits per byte divide by."""
        return np.array([len(c.encode("utf-8")) for c in self.chars], dtype=np.int64)

    def to_json(self) -> str:
        """`tokenizer.json` in the format of Hugging Face's tokenizers library."""
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            # every character a word of its own, new lines and spaces too
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "[\\s\\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {char: i for i, char in enumerate(self.chars)},
                "unk_token": "<unk>",  # the format wants a name; no token has it
            },
        }
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def code_points(text: str) -> np.ndarray:
    """The Unicode code points of `text`, (number of characters,) uint32 or smaller."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    # surrogates can stand alone in text decoded with errors="surrogateescape"
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def from_json(text: str, name: str) -> CharTokenizer:
    """The tokenizer that a `tokenizer.json` describes; `name` says which one, for messages."""
    try:
        document = parse_json(text)
        model, split = document["model"], document["pre_tokenizer"]
        if model["type"] != "WordLevel" or split["pattern"] != {"Regex": "[\\s\\S]"}:
            raise DataError(f"{name} is not a character tokenizer", "That is the only kind so far")
        by_id = sorted(model["vocab"].items(), key=lambda item: item[1])
        if [i for _, i in by_id] != list(range(len(by_id))) or any(len(c) != 1 for c, _ in by_id):
            raise ValueError("ids are not 0..V-1, each of one character")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is damaged: {error}") from None
    return CharTokenizer("".join(c for c, _ in by_id))


def load(path: Path) -> CharTokenizer:
    """Read a `tokenizer.json`."""
    try:
        tokenizer = from_json(read_text(path, inside=path.parent), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the tokenizer {path}: {error}") from None
    if not tokenizer.chars or any("\ud800" <= c <= "\udfff" for c in tokenizer.chars):
        raise DataError(f"{path} is damaged: a token is no character, or there is none")
    return tokenizer


def fingerprint(tokenizer: CharTokenizer) -> str:
    """A hash of what the tokenizer does, equal for equal tokenizers."""
    return hashlib.sha256(tokenizer.to_json().encode("utf-8", "surrogatepass")).hexdigest()
