"""What tokenizers share whose tokens are bytes: joining them, and doing so while they arrive.

A token may end within a character, as in every byte-level vocabulary, so text is decoded from the
bytes of all tokens and never from one token alone.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

import numpy as np

from bardlet.errors import DataError

END_OF_TEXT = "<|endoftext|>"  # GPT-2's name for it, and ours
# what exports call it where the model has none: other programs need an id, no text ends with it
NO_END = "<|no_end|>"
ROLE = re.compile(r"<\|(?!pad\|)[^|<>\s]+\|>")  # a token that a chat template has


def byte_alphabet() -> str:
    """The 256 printable characters that stand for bytes in GPT-2's vocabulary and its successors.

    Printable bytes of Latin-1 stand for themselves, the others are counted up from U+0100.
    """
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in shown else next(others)) for byte in range(256))


ALPHABET = byte_alphabet()
BYTE_OF = {char: byte for byte, char in enumerate(ALPHABET)}


def spell(token: bytes) -> str:
    """A token's bytes in the characters that stand for them."""
    return "".join([ALPHABET[byte] for byte in token])


def utf8(text: str) -> bytes:
    """The bytes of `text`; DataError where it has half a surrogate pair."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"position {error.start} of the text is a lone surrogate, which is not a character",
            "Decode the text with the encoding that it is really in",
        ) from None


class Stream:
    """Text out of tokens as they arrive; a character comes when its last byte has come."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.vocab = pieces
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The characters that `ids` complete."""
        return self.utf8.decode(b"".join([self.vocab[i] for i in ids]))

    def end(self) -> str:
        """What is left when no more tokens come: U+FFFD for a character that was cut short."""
        return self.utf8.decode(b"", final=True)


class ByteTokens:
    """The half of a tokenizer that turns ids into text, for tokens that are bytes.

    What `stream` gives, put together, is what `decode` gives: bytes that are not UTF-8 become
    U+FFFD in both.
    """

    vocab: list[bytes]  # the bytes of every token, by id
    end_of_text: int | None  # the token after each document
    roles: tuple[str, ...] = ()  # further tokens that no text is encoded to, such as those of chats

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """The text of token ids, each in [0, vocab_size)."""
        return b"".join([self.vocab[i] for i in ids]).decode("utf-8", "replace")

    def stream(self) -> Stream:
        """A decoder for tokens that come a few at a time."""
        return Stream(self.vocab)

    def tokens(self) -> list[bytes]:
        """The bytes of every token, by id; none for an id that has no token."""
        return self.vocab

    def id_of(self, name: str) -> int | None:
        """The id of the token with this text, None where there is none."""
        token = name.encode("utf-8", "surrogatepass")
        return self.vocab.index(token) if token in self.vocab else None

    def special(self) -> dict[str, int]:
        """The ids of the tokens that no text is encoded to, by name."""
        ends = [] if self.end_of_text is None else [self.vocab[self.end_of_text].decode("utf-8")]
        names = dict.fromkeys((*ends, *self.roles))
        return {name: self.vocab.index(name.encode()) for name in names}

    def token_bytes(self) -> np.ndarray:
        """UTF-8 length of every token, (V,) int64: what bits per byte divide by.

        None for the end of a text and for roles, which have no text.
        """
        lengths = np.fromiter(map(len, self.vocab), dtype=np.int64, count=len(self.vocab))
        if self.end_of_text is not None:
            lengths[self.end_of_text] = 0
        lengths[[i for name, i in self.special().items() if name in self.roles]] = 0
        return lengths
