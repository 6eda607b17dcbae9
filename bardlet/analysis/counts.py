"""How often a string stands in the text of a dataset, where, and what follows it: exact counts.

The text is that of the tokens, so that it is what a model has read. A string is looked for as the
bytes of its characters, whatever tokens it is cut into. For one question the text is read through;
an index answers many, each in about a millisecond, after a second for each megabyte.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from bardlet.analysis.suffix_array import suffix_array
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import DataError

MAX_TEXT = 256 << 20  # bytes of a text in memory, with five times as many beside it
MAX_INDEXED = 16 << 20  # bytes; beyond, the index takes too long and the text is read through
BLOCK = 1 << 20  # tokens turned into text at once
STEP = 1 << 22  # bytes that are searched at once
BORDER = b"\xff"  # between documents; no text in UTF-8 has this byte
ASCII_WORD = np.array([chr(i).isalnum() or i == ord("_") for i in range(128)] + [False] * 128)
SNIPPET = 48  # characters on each side of a place that is shown
# scripts whose words have no spaces between them, by how their letters are called
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class SplitText:
    """The text of a split, in memory, and the tokens that it is made of."""

    def __init__(self, stream: TokenStream, tokenizer: Tokenizer) -> None:
        """Raises DataError where the text is larger than MAX_TEXT."""
        self.pieces = pieces(tokenizer)
        sizes = np.array([len(piece) for piece in self.pieces], dtype=np.int64)
        # read twice, so that the ids are not all in memory at once
        size = len(stream)
        if size <= MAX_TEXT:
            size = sum(int(sizes[stream.read(at, BLOCK)].sum()) for at in range(0, size, BLOCK))
        if size > MAX_TEXT:
            raise DataError(
                f"this text is larger than the {MAX_TEXT >> 20} MiB that are counted in memory",
                "Prepare a part of it: bardlet prepare PART --out data/part",
            )
        flat = np.frombuffer(b"".join(self.pieces), dtype=np.uint8)
        begins = np.cumsum(sizes) - sizes
        self.bytes = np.empty(size, dtype=np.uint8)
        # the token that begins at each byte, -1 where none does
        self.token_at = np.full(size + 1, -1, dtype=np.int32)
        at = 0
        for first in range(0, len(stream), BLOCK):
            ids = stream.read(first, BLOCK)
            lengths = sizes[ids]
            starts = np.cumsum(lengths) - lengths  # (T,) of each token, in this block
            total = int(lengths.sum())
            within = np.arange(total) - np.repeat(starts, lengths)
            self.bytes[at : at + total] = flat[np.repeat(begins[ids], lengths) + within]
            kept = lengths > 0
            self.token_at[at + starts[kept]] = ids[kept]
            at += total
        self.text = self.bytes.tobytes()
        self.suffixes: np.ndarray | None = None

    def index(self) -> None:
        """Answer in milliseconds from now on, where the text is not larger than MAX_INDEXED."""
        if self.suffixes is None and len(self.text) <= MAX_INDEXED:
            self.suffixes = suffix_array(self.text)

    def positions(self, pattern: bytes) -> np.ndarray:
        """Where a pattern begins, overlapping ones too: (n,), in order only without an index."""
        if self.suffixes is None:
            return self.read_through(pattern)
        return self.suffixes[self.bound(pattern, upper=False) : self.bound(pattern, upper=True)]

    def count(self, pattern: bytes) -> int:
        """How often a pattern stands in the text."""
        return len(self.positions(pattern))

    def bound(self, pattern: bytes, *, upper: bool) -> int:
        """How many suffixes come before those that begin with a pattern; with `upper`, these too.

        By halves: some twenty comparisons.
        """
        assert self.suffixes is not None
        low, high, size, text = 0, len(self.suffixes), len(pattern), self.text
        while low < high:
            middle = (low + high) // 2
            at = int(self.suffixes[middle])
            here = text[at : at + size]
            if here < pattern or (upper and here == pattern):
                low = middle + 1
            else:
                high = middle
        return low

    def read_through(self, pattern: bytes) -> np.ndarray:
        """The positions of a pattern without an index, in order."""
        wanted = np.frombuffer(pattern, dtype=np.uint8)
        last = len(self.text) - max(1, len(wanted)) + 1
        parts = [np.zeros(0, dtype=np.int64)]
        for begin in range(0, last, STEP):
            at = np.arange(begin, min(begin + STEP, last))
            for i, byte in enumerate(wanted):
                at = at[self.bytes[at + i] == byte]
            parts.append(at)
        return np.concatenate(parts)

    def byte_at(self, places: np.ndarray) -> np.ndarray:
        """The byte at each place (n,), BORDER outside the text: (n,) uint8."""
        outside = (places < 0) | (places >= len(self.bytes))
        return np.where(outside, np.uint8(BORDER[0]), self.bytes[np.where(outside, 0, places)])

    def next_tokens(self, places: np.ndarray, size: int) -> np.ndarray:
        """How often each token follows a pattern of `size` bytes at its places: (V,) int64.

        Where it ends within a token, none does.
        """
        following = self.token_at[places + size]
        return np.bincount(following[following >= 0], minlength=len(self.pieces))

    def next_characters(self, places: np.ndarray, size: int) -> Counter[str]:
        """How often each character follows; "" for the end of a document or of the text."""
        ends = places + size
        keys = sum(self.byte_at(ends + i).astype(np.int64) << 8 * i for i in range(4))
        values, counts = np.unique(np.asarray(keys, dtype="<u4"), return_counts=True)
        result: Counter[str] = Counter()
        for value, number in zip(values.astype("<u4"), counts.tolist(), strict=True):
            here = value.tobytes().partition(BORDER)[0]
            result[here.decode("utf-8", "ignore")[:1]] += number
        return result

    def whole_words(self, places: np.ndarray, pattern: bytes) -> np.ndarray:
        """Those of a pattern's places where no word goes on beyond it, as by \\b."""
        text, ends = pattern.decode("utf-8", "replace"), places + len(pattern)
        inside = np.zeros(len(places), dtype=bool)
        if in_word(text[:1]):
            inside |= self.letters(places - 1, lambda i: self.text[max(0, i - 3) : i + 1], -1)
        if in_word(text[-1:]):
            inside |= self.letters(ends, lambda i: self.text[i : i + 4], 0)
        return places[~inside]

    def letters(self, places: np.ndarray, around: Callable[[int], bytes], side: int) -> np.ndarray:
        """Whether the character at each byte (n,) is of a word: (n,) bool; outside the text not.

        `around` gives the bytes in which a character beyond ASCII is the first or the last.
        """
        values = self.byte_at(places)
        result = ASCII_WORD[values]
        for i in np.flatnonzero((values >= 0x80) & (values != BORDER[0])).tolist():
            characters = around(int(places[i])).decode("utf-8", "ignore")
            result[i] = bool(characters) and in_word(characters[side])
        return result

    def snippet(self, place: int, size: int) -> dict[str, Any]:
        """What stands around a place, as text: before, match and after."""
        reach = 4 * SNIPPET  # bytes of as many characters
        before = self.text[max(0, place - reach) : place].rpartition(BORDER)[2]
        after = self.text[place + size : place + size + reach].partition(BORDER)[0]
        return {
            "place": place, "before": before.decode("utf-8", "ignore")[-SNIPPET:],
            "match": self.text[place : place + size].decode("utf-8", "replace"),
            "after": after.decode("utf-8", "ignore")[:SNIPPET],
        }  # fmt: skip

    def snippets(self, places: np.ndarray, size: int, limit: int) -> list[dict[str, Any]]:
        """What stands around some of the places, from the beginning of the text to its end."""
        places = np.sort(places)
        picked = np.unique(np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int))
        return [self.snippet(int(places[i]), size) for i in picked]


def pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The text of every token, by id; BORDER for one that stands between texts."""
    texts = list(tokenizer.tokens())
    for token in tokenizer.special().values():
        texts[token] = BORDER
    if tokenizer.end_of_text is not None:
        texts[tokenizer.end_of_text] = BORDER
    return texts


def in_word(char: str) -> bool:
    """Whether a character is a letter, a digit or an underscore, as \\w has it."""
    return char.isalnum() or char == "_"


def has_words(text: str) -> bool:
    """Whether a text begins and ends with letters of scripts that put spaces between words."""
    return all(
        in_word(char) and not unicodedata.name(char, "").startswith(UNSPACED)
        for char in (text[0], text[-1])
    )


def count(dataset: Dataset, text: str, splits: tuple[str, ...], places: int) -> dict[str, Any]:
    """How often a text stands in splits of a dataset, as JSON values.

    As characters and, where its script has spaces between words, as a whole word, case as written;
    the characters that follow, and some places: `places` of each split.
    """
    pattern = text.encode("utf-8", "surrogatepass")
    follows: Counter[str] = Counter()
    by_split: dict[str, dict[str, int | None]] = {}
    shown = []
    for name in splits:
        split = SplitText(dataset.splits[name], dataset.tokenizer)
        at = split.positions(pattern)
        words = len(split.whole_words(at, pattern)) if has_words(text) else None
        by_split[name] = {"characters": len(at), "whole_word": words}
        follows += split.next_characters(at, len(pattern))
        shown += [{"split": name, **each} for each in split.snippets(at, len(pattern), places)]
    total = sum(follows.values())
    whole = [split["whole_word"] or 0 for split in by_split.values()]
    return {
        "text": text, "characters": total, "whole_word": sum(whole) if has_words(text) else None,
        "splits": by_split, "places": shown,
        "follows": [{"character": char or None, "count": number, "share": number / total}
                    for char, number in follows.most_common()],
    }  # fmt: skip
