"""Byte-level BPE as GPT-2 and its successors have it, and every other `tokenizer.json`.

The tokenizers library encodes, and much text of the vocabularies whose pattern it knows the
compiled core. Decoding is ours wherever tokens are bytes: the same for streamed
text, and without the library's clean-up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any

import numpy as np

from bardlet.data.tokenizers import special
from bardlet.data.tokenizers.bpe_encoding import Encoder
from bardlet.data.tokenizers.byte_tokens import BYTE_OF, ByteTokens, utf8
from bardlet.data.tokenizers.json_file import attempt, open_with_library
from bardlet.data.tokenizers.patterns import CL100K, GPT2, LLAMA3, O200K, parts_of_utf8
from bardlet.errors import DataError

FAST = 1 << 16  # bytes of text from which on the core is worth opening, for 0.1 s
# words that patterns split differently, and letters that each of Unicode's latest versions added
PROBE = (
    "Hello, world!  It's 1234567 o'clock\r\n\n\tWE'LL na\u00efve \ufb01x\u00a0x\u00b2 "
    "<|endoftext|> \u0928\u092e\u0938\u094d\u0924\u0947 \u4e16\u754c\uff0c\u4f60\u597d\u3002 "
    "\U0001f468\u200d\U0001f469 e\u0301\u200b x\U0001e4d0x\U0002ebf0x\U00010d4a \n  "
)


class LibraryTokenizer(ByteTokens):
    """A tokenizer that the tokenizers library runs, of the `tokenizer.json` that was read."""

    def __init__(self, text: str, document: dict[str, Any], name: str, eos: str = "") -> None:
        """`document` is the checked content of `text`; `name` says which file, for messages; `eos`
        is the token that its publisher says ends a text.
        """
        self.text = text
        self.document = document
        self.name = name
        self.library = open_with_library(text, name)
        self.added = {token["content"]: token["id"] for token in document.get("added_tokens") or []}
        end = special.end_of_text(document, eos)
        self.end_of_text = self.library.token_to_id(end) if end else None

    def id_of(self, name: str) -> int | None:
        """The id of the token with this text or name, None where there is none."""
        i = self.library.token_to_id(name)
        return super().id_of(name) if i is None else i

    def special(self) -> dict[str, int]:
        """The ids of the tokens that no text is encoded to, by name."""
        ids = ((name, self.library.token_to_id(name)) for name in special.names(self.document))
        return {name: i for name, i in ids if i is not None}

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (T,) uint32; names of special tokens in it are plain text."""
        utf8(text)  # refuses what the library cannot take
        return np.array(self.ids_of([text]), dtype=np.uint32)

    def ids_of(self, texts: Iterable[str]) -> list[int]:
        """The library's ids of these texts, one after the other; DataError where it has none."""
        encode = partial(self.library.encode_batch_fast, add_special_tokens=False)
        try:
            return [i for encoded in attempt(encode, list(texts)) for i in encoded.ids]
        except ValueError as error:
            raise DataError(
                f"{self.name} cannot encode this text: {error}",
                "It lacks what the text needs, or is damaged; take another tokenizer",
            ) from None

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Each token of `text` with the place of its characters: from, to, id."""
        encoded = self.library.encode(text, add_special_tokens=False)
        return [(*span, i) for span, i in zip(encoded.offsets, encoded.ids, strict=True)]

    def to_json(self) -> str:
        """The `tokenizer.json` that was read, to the letter."""
        return self.text

    def identity(self) -> str:
        """What the tokenizer does, as a text that equal tokenizers share."""
        model = {k: v for k, v in self.document["model"].items() if v not in (None, False, "")}
        if "merges" in model:  # two spellings of the same
            model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        if isinstance(model["vocab"], dict):  # which may have the added tokens, or not
            model["vocab"] = {**model["vocab"], **self.added}
        whole = {"type": "BPE", **model, "added": self.added, "steps": self.steps()}
        return json.dumps(whole, sort_keys=True)

    def steps(self) -> Any:
        """What is done before and after the model."""
        return [self.document.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]


class BPETokenizer(LibraryTokenizer):
    """Byte-level BPE: every token is a string of bytes, and there is no text without ids."""

    kind = "bpe"
    done = 0  # bytes of text that were encoded, of one or of many

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, (T,) uint32, or from the core uint16 where that holds them; names of
        special tokens in it are plain text.
        """
        return self.encode_utf8(utf8(text)) if self.pattern else super().encode(text)

    def encode_utf8(self, raw: bytes) -> np.ndarray:
        """`encode` of a text in UTF-8."""
        if not self.pattern:
            return super().encode(raw.decode())
        self.done += len(raw)
        parts = parts_of_utf8(raw)
        if self.done < FAST or self.quick is None:
            return np.array(self.ids_of(str(part, "utf-8") for part in parts), dtype=np.uint32)
        return self.quick.encode(raw, map(len, parts))

    def steps(self) -> Any:
        """The pattern, where that is all: the same in every spelling of the file."""
        return self.pattern or super().steps()

    @cached_property
    def pattern(self) -> str | None:
        """Which of the patterns above splits a text into words, if that is all that is done."""
        splits = self.document.get("pre_tokenizer") or {}
        steps = splits.get("pretokenizers") or [splits]
        level = steps[-1]
        changed = self.document.get("normalizer") or level.get("add_prefix_space", True)
        special = all(token.get("special") for token in self.document.get("added_tokens") or [])
        if changed or not special or level.get("type") != "ByteLevel" or len(steps) > 2:
            return None
        if len(steps) == 1:
            return GPT2 if level.get("use_regex", True) else None
        kind = (steps[0].get("type"), steps[0].get("behavior"), steps[0].get("invert", False))
        pattern = (steps[0].get("pattern") or {}).get("Regex")
        plain = kind == ("Split", "Isolated", False) and not level.get("use_regex", True)
        return pattern if plain and pattern in (GPT2, CL100K, LLAMA3, O200K) else None

    @cached_property
    def dtype(self) -> Any:
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @cached_property
    def quick(self) -> Encoder | None:
        """The core's encoder, if it was compiled and gives the library's ids; else None."""
        assert self.pattern
        try:
            quick = Encoder(self.pattern, self.document["model"], self.dtype)
        except OSError:
            return None
        ids = self.library.encode(PROBE, add_special_tokens=False).ids
        return quick if quick.encode(PROBE.encode()).tolist() == ids else None

    @cached_property
    def vocab(self) -> list[bytes]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The bytes of every token, by id; empty for an id that has none."""
        vocab = self.library.get_vocab(with_added_tokens=True)
        pieces = [b""] * (max(vocab.values(), default=-1) + 1)
        for token, i in vocab.items():
            spelt = token not in self.added and all(char in BYTE_OF for char in token)
            pieces[i] = bytes(BYTE_OF[c] for c in token) if spelt else token.encode("utf-8")
        return pieces


def is_byte_level(document: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` has tokens that are bytes in GPT-2's spelling."""
    decoder = document.get("decoder")
    return (
        document["model"].get("type", "BPE") == "BPE"
        and isinstance(decoder, dict)
        and decoder.get("type") == "ByteLevel"
    )
