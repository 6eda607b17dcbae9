"""The character tokenizer: a token for every character of the text that it was made for."""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np

from bardlet.data.tokenizers.bpe_encoding import NO_ID, count_bytes, look_up
from bardlet.data.tokenizers.byte_tokens import END_OF_TEXT, ROLE, ByteTokens
from bardlet.data.tokenizers.json_file import added
from bardlet.errors import DataError

UNKNOWN = "<unk>"
PATTERN = {"Regex": "[\\s\\S]"}  # every character a word of its own, new lines and spaces too


class CharTokenizer(ByteTokens):
    """One token per character (Unicode code point), ids in sorted order from 0, as nanoGPT's.

    With `unknown` there is one more after them, that stands for all other characters; with `ends`
    one that ends a text; and then those of `roles`.
    """

    kind = "char"

    def __init__(
        self, chars: str, *, unknown: bool = False, ends: bool = False, roles: tuple[str, ...] = ()
    ) -> None:  # fmt: skip
        """`chars` are the alphabet's characters in the order of their ids, each once."""
        assert len(set(chars)) == len(chars)
        self.chars = chars
        self.unknown = unknown
        self.ends, self.roles = ends, roles
        self.end_of_text = len(chars) + unknown if ends else None
        self.points = code_points(chars).astype("<u4")  # (V,)
        self.vocab = [char.encode("utf-8", "surrogatepass") for char in chars]
        self.vocab += [UNKNOWN.encode()] * unknown + [END_OF_TEXT.encode()] * ends
        self.vocab += [name.encode() for name in roles]
        # id by code point, -1 where unknown; it ends one past the largest code point of all
        other = len(chars) if unknown else -1
        self.ids = np.full(int(self.points.max(initial=0)) + 2, other, dtype=np.int32)
        self.ids[self.points] = np.arange(len(chars), dtype=np.int32)

    @classmethod
    def train(
        cls, text: str, chunk: int = 1 << 22, *, limit: int = 0, ends: bool = False
    ) -> CharTokenizer:  # fmt: skip
        """The tokenizer whose alphabet is the characters of `text`.

        With `limit` it has that many tokens at most: where there are more characters, the rarest
        have one token together. With `ends` one of its tokens ends a text.
        """
        if text.isascii() and not limit:  # a byte each: strike out what is known, see what is left
            raw = text.encode("ascii")
            known = bytes(set(raw[:chunk]))
            return cls("".join(map(chr, sorted({*known, *raw.translate(None, known)}))), ends=ends)
        counts = count(text, np.zeros(0, dtype=np.int64), chunk)
        return cls.of_counts(counts, limit, ends=ends)

    @classmethod
    def of_counts(cls, counts: np.ndarray, limit: int, *, ends: bool = False) -> CharTokenizer:
        """The tokenizer of texts that have each character, by code point, `counts` times."""
        seen = np.flatnonzero(counts)
        left_out = bool(limit) and len(seen) > limit - ends
        if left_out:
            commonest = np.argsort(-counts[seen], kind="stable")[: max(limit - ends - 1, 0)]
            seen = np.sort(seen[commonest])
        return cls("".join(map(chr, seen)), unknown=left_out, ends=ends)

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (number of characters,) of some integer type that holds them.

        DataError where a character is unknown and no token stands for that.
        """
        if text.isascii() and (ids := look_up(text.encode("ascii"), self.of_bytes)) is not None:
            return ids
        points = code_points(text)
        # everything beyond the table's end shares its last entry, which is unknown
        ids = self.ids.take(points, mode="clip")
        if ids.min(initial=0) < 0:
            raise self.unseen(text, ids)
        return ids

    @cached_property
    def of_bytes(self) -> np.ndarray:
        """The ids of ASCII's characters, (256,) uint16, `NO_ID` where there is none that fits."""
        ids = self.ids[:128]
        table = np.full(256, NO_ID, dtype=np.uint16)
        table[: len(ids)] = np.where((ids < 0) | (ids > NO_ID), NO_ID, ids)
        return table

    def unseen(self, text: str, ids: np.ndarray) -> DataError:
        """What to say of the characters of `text` that have no id."""
        places = np.flatnonzero(ids < 0)
        counts = Counter(text[at] for at in places[:10_000])
        message = (
            f"character {text[places[0]]!r} at position {places[0]} is not in the model's alphabet"
        )
        if len(places) > 1:
            few = ", ".join(f"{char!r} {n} times" for char, n in counts.most_common(8))
            message += f"; {len(places):,} characters are not, of them {few}"
        shown = self.chars if len(self.chars) <= 200 else self.chars[:200] + "..."
        return DataError(message, f"Its {len(self.chars)} characters are {shown!r}")

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """The text of token ids, each in [0, vocab_size)."""
        if len(self.vocab) > len(self.chars):
            return super().decode(ids)
        return (
            self.points[np.asarray(ids, dtype=np.int64)]
            .tobytes()
            .decode("utf-32-le", "surrogatepass")
        )

    def to_json(self) -> str:
        """`tokenizer.json` in the format of Hugging Face's tokenizers library."""
        vocab = {char: i for i, char in enumerate(self.chars)}
        vocab |= {UNKNOWN: len(vocab)} if self.unknown else {}
        names = [END_OF_TEXT] * self.ends + list(self.roles)
        special = {name: len(vocab) + i for i, name in enumerate(names)}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added(special),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": PATTERN,
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {**vocab, **special},
                "unk_token": UNKNOWN,  # the format wants a name, with or without such a token
            },
        }
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"

    def identity(self) -> str:
        """What the tokenizer does, as a text that equal tokenizers share."""
        return self.to_json()


def is_char(document: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` gives texts the ids that a character tokenizer of ours does.

    A post_processor adds around a text what no tokenizer here does, so it is left aside: other
    programs write one when they save the file again. They may add special tokens, too.
    """
    model, split = document["model"], document.get("pre_tokenizer")
    added = document.get("added_tokens") or ()
    return (
        model.get("type") == "WordLevel"
        and model.get("unk_token") == UNKNOWN
        and not document.get("normalizer")
        and all(token["special"] for token in added)
        and isinstance(split, dict)
        and split.get("pattern") == PATTERN
    )


def from_document(document: dict[str, Any]) -> CharTokenizer:
    """The tokenizer of a document that `is_char`; ValueError where it cannot be one."""
    added = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    by_id = sorted((document["model"]["vocab"] | added).items(), key=lambda item: item[1])
    names = [name for name, _ in by_id]
    more: list[str] = []
    while names and names[-1] in added.keys() - {END_OF_TEXT, UNKNOWN} and len(names[-1]) > 1:
        more.insert(0, names.pop())
    while more and not ROLE.fullmatch(more[-1]):  # such as one for padding
        more.pop()
    by_id = by_id[: len(names) + len(more)]
    ends = END_OF_TEXT in added and names[-1:] == [END_OF_TEXT]
    unknown = names[len(names) - ends - 1 : len(names) - ends] == [UNKNOWN]
    chars = names[: len(names) - ends - unknown]
    if [i for _, i in by_id] != list(range(len(by_id))) or any(len(char) != 1 for char in chars):
        raise ValueError("ids are not 0..V-1, each of one character")
    return CharTokenizer("".join(chars), unknown=unknown, ends=ends, roles=tuple(more))


def code_points(text: str) -> np.ndarray:
    """The Unicode code points of `text`, (number of characters,) uint32 or smaller."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    # surrogates can stand alone in text decoded with errors="surrogateescape"
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def count(text: str, counts: np.ndarray, chunk: int = 1 << 16) -> np.ndarray:
    """`counts` by code point, made longer where need be, with those of `text` added.

    `chunk` characters at a time, which stay in the cache as the integers that numpy makes of them.
    """
    for start in range(0, len(text), chunk):
        shown = text[start : start + chunk]
        ascii = shown.isascii()
        part = (
            count_bytes(shown.encode("ascii"))[:128] if ascii else np.bincount(code_points(shown))
        )
        if len(part) > len(counts):
            counts = np.concatenate([counts, np.zeros(len(part) - len(counts), dtype=np.int64)])
        counts[: len(part)] += part
    return counts
