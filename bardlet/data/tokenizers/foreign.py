"""Any other `tokenizer.json`: WordPiece, Unigram, SentencePiece's BPE.

Their decoders look at neighbouring tokens (a space before a word, none before the first), so text
comes from the library, and a token's bytes are those that it adds to a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, partial

import numpy as np

from bardlet.data.tokenizers.bpe import LibraryTokenizer
from bardlet.data.tokenizers.json_file import attempt
from bardlet.errors import DataError

CONTEXT = 12  # tokens that the library sees at least: whole characters of 1 to 4 bytes


class ForeignStream:
    """Text out of tokens as they arrive: what each adds to the text of those before it."""

    def __init__(self, tokenizer: ForeignTokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []  # the last ones
        self.emitted = ""  # the part of their text that was emitted already

    def feed(self, ids: Iterable[int]) -> str:
        """The characters that `ids` complete."""
        self.ids += [int(i) for i in ids]
        text = self.tokenizer.decode(self.ids)
        # a token that is one byte of a character decodes to U+FFFD until the others have come
        sure = text.rstrip("\ufffd")
        new = sure[len(self.emitted) :]
        self.emitted += new
        if len(self.ids) > 5 * CONTEXT:
            self.forget()
        return new

    def forget(self) -> None:
        """Drop the first ids, unless they decide how those after them are read.

        So the time for a token does not grow with the text.
        """
        last = self.tokenizer.decode(self.ids[-CONTEXT:])
        if last.strip() and "\ufffd" not in last and self.emitted.endswith(last):
            self.ids, self.emitted = self.ids[-CONTEXT:], last

    def end(self) -> str:
        """What is left when no more tokens come."""
        return self.tokenizer.decode(self.ids)[len(self.emitted) :]


class ForeignTokenizer(LibraryTokenizer):
    """A tokenizer whose tokens are not plain strings of bytes."""

    @property
    def kind(self) -> str:
        return str(self.document["model"].get("type", "BPE")).lower()

    @property
    def vocab_size(self) -> int:
        return self.size

    @cached_property
    def size(self) -> int:
        ids = self.library.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """The text of token ids, each in [0, vocab_size)."""
        decode = partial(self.library.decode, skip_special_tokens=False)
        try:
            return attempt(decode, [int(i) for i in ids])
        except ValueError as error:
            raise DataError(f"{self.name} is damaged: it cannot decode: {error}") from None

    def stream(self) -> ForeignStream:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A decoder for tokens that come a few at a time."""
        return ForeignStream(self)

    @cached_property
    def vocab(self) -> list[bytes]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What every token adds to a text, by id; empty for an id that has none."""
        vocab = self.library.get_vocab(with_added_tokens=True)
        anchor = min(vocab.values(), default=0)
        before = self.decode([anchor])
        pieces = [b""] * self.vocab_size
        for token, i in vocab.items():
            byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token)
            text = self.decode([anchor, i]).removeprefix(before)
            pieces[i] = bytes.fromhex(byte[1]) if byte else text.encode("utf-8")
        return pieces
