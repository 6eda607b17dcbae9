"""What is to be done with every unit of text, in each process that does it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from functools import cached_property

from bardlet.data.dataset.folder import SPLITS
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.data.tokenizers.chat import ChatTemplate
from bardlet.data.tokenizers.coverage import Coverage


@dataclass(frozen=True, kw_only=True)
class EncodeSpec:
    """What is to be done with every unit. `tokenizer` is a tokenizer.json; empty: none is made."""

    reading: Reading
    by: str  # position or document
    val_fraction: float
    separate: bool  # whether something stands between documents
    skip: bool = False  # what cannot be read is reported and left out
    distinct: bool = False  # a digest of each document is wanted
    tokenizer: str = ""
    end_of_text: int | None = None  # None: the tokenizer's own
    chat_template: str = ""  # of conversations, in Jinja
    splits: tuple[str, ...] = SPLITS  # that are encoded

    @cached_property
    def encoder(self) -> tokenizers.Tokenizer:
        encoder = tokenizers.from_json(self.tokenizer, "the tokenizer")
        return tokenizers.with_end_of_text(encoder, self.end_of_text)

    def use(self, encoder: tokenizers.Tokenizer) -> None:
        """Take for `encoder` what is open already, in a spec that stays in this process."""
        vars(self)["encoder"] = encoder

    @cached_property
    def chat(self) -> ChatTemplate:
        return ChatTemplate(self.chat_template, self.encoder)

    @cached_property
    def coverage(self) -> Coverage:
        return Coverage(self.encoder)

    @cached_property
    def undecoded(self) -> bool:
        """Whether parts of a text can be encoded that are not decoded."""
        plain = codecs.lookup(self.reading.encoding).name == "utf-8" and not self.reading.normalize
        exact = isinstance(self.encoder, BPETokenizer) and self.coverage.exact
        return plain and exact and self.by != "blocks" and not self.reading.masked

    @cached_property
    def narrow(self) -> bool:
        """Whether ids have two bytes; asking a tokenizer for its size can take long."""
        return self.encoder.vocab_size <= 1 << 16
