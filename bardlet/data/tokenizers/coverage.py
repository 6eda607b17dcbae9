"""What of a text its tokens do not hold: characters that share <unk>, and those without a token.

A vocabulary that was made for other texts replaces or drops what it lacks without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bardlet.data.text.counts import EXAMPLES, Counts, Omission
from bardlet.data.tokenizers.base import CharTokenizer, Tokenizer
from bardlet.data.tokenizers.bpe import BPETokenizer, LibraryTokenizer
from bardlet.data.tokenizers.byte_tokens import ALPHABET
from bardlet.data.tokenizers.char import code_points

HEAD = 2000  # characters of a document that are decoded again
WIDTH = 6  # characters that are shown on either side of a place


class Coverage:
    """Counts what a tokenizer's tokens do not hold, text by text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.exact = is_exact(tokenizer)
        self.unknown = unknown_id(tokenizer)
        # by code point: 0 not tried yet, 1 has tokens, 2 has none
        self.tried = np.zeros(0x110000 if not self.exact else 0, dtype=np.uint8)

    def omissions(self, text: str, ids: np.ndarray, *, begins: bool = True) -> list[Omission]:
        """What of `text` its tokens `ids`, (T,), do not hold; spaces are not counted.

        The beginning of a document of which nothing is lost is decoded again, to see what else is
        not the same: not of other parts, before which a decoder may take away a space.
        """
        if self.exact:
            return []
        lost = {"unknown": "", "dropped": self.dropped(text)}
        if self.unknown is not None and np.any(ids == self.unknown):
            lost["unknown"] = self.unknown_characters(text, ids)
        counted = []
        for reason, characters in lost.items():
            if not characters:
                continue
            size = len(characters.encode("utf-8", "surrogatepass"))
            counted.append(Omission(reason, len(characters), size))
            counted += [Omission(reason, 0, 0, repr(c)) for c in few(characters)]
        if begins and not counted and (change := self.change(text)):
            counted.append(Omission("altered", 1, 0, change))
        return counted

    def unknown_characters(self, text: str, ids: np.ndarray) -> str:
        """The characters of `text`, but for spaces, that became the token for unknown ones."""
        if isinstance(self.tokenizer, CharTokenizer):
            return "".join([text[i] for i in np.flatnonzero(ids == self.unknown)])
        assert isinstance(self.tokenizer, LibraryTokenizer)
        spans = [text[a:b] for a, b, token in self.tokenizer.spans(text) if token == self.unknown]
        return "".join("".join(spans).split())

    def dropped(self, text: str) -> str:
        """The characters of `text`, but for spaces, that have no token."""
        points = code_points(text)
        tried = self.tried[points]
        if (tried == 0).any():
            for point in np.unique(points[tried == 0]).tolist():
                self.tried[point] = 1 + self.is_dropped(chr(point))
            tried = self.tried[points]
        return "".join([text[i] for i in np.flatnonzero(tried == 2)])

    def is_dropped(self, char: str) -> bool:
        """Whether no token, or only some of its bytes, stands for a character by itself."""
        if char.isspace():
            return False
        ids = self.tokenizer.encode(char)
        return not len(ids) or ("\ufffd" in self.tokenizer.decode(ids) and char != "\ufffd")

    def change(self, text: str) -> str:
        """The first place at which the beginning of `text` is another when its tokens are decoded,
        as "'Word' is 'word'"; empty where nothing is.
        """
        text = text[:HEAD]
        decoded = self.tokenizer.decode(self.tokenizer.encode(text))
        if decoded == text:
            return ""
        differ = (i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b)
        at = next(differ, min(len(text), len(decoded)))
        around = slice(max(at - WIDTH, 0), at + WIDTH)
        return f"{text[around]!r} is {decoded[around]!r}"


def losses(tokenizer: Tokenizer, text: str) -> list[str]:
    """A line for each reason for which a vocabulary does not hold all of `text`."""
    counts = Counts()
    counts.add_all(Coverage(tokenizer).omissions(text, tokenizer.encode(text), begins=False))
    return counts.report()


def few(characters: str) -> list[str]:
    """The first distinct ones, as many as a count names and one."""
    return list(dict.fromkeys(characters))[: EXAMPLES + 1]


def is_exact(tokenizer: Tokenizer) -> bool:
    """Whether every text has tokens that give it back: no need to look at any."""
    if isinstance(tokenizer, CharTokenizer):
        return not tokenizer.unknown  # which refuses what it lacks
    if isinstance(tokenizer, BPETokenizer):
        vocab: Any = tokenizer.document["model"]["vocab"]
        return tokenizer.pattern is not None and all(char in vocab for char in ALPHABET)
    return not isinstance(tokenizer, LibraryTokenizer)


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for whatever the vocabulary lacks, None where there is none."""
    if isinstance(tokenizer, CharTokenizer):
        return len(tokenizer.chars) if tokenizer.unknown else None
    if not isinstance(tokenizer, LibraryTokenizer):
        return None
    model = tokenizer.document["model"]
    if model.get("type") == "Unigram":
        return model.get("unk_id")
    token = model.get("unk_token")
    return tokenizer.library.token_to_id(token) if token else None
