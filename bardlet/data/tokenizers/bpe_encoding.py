"""Encodes text with a byte-level BPE in the compiled core (bpe_encoding.cpp).

It also looks at bytes for who prepares them: whether they are plain text, how many of each, their
ids. Where it was not compiled numpy does the latter two, and text is decoded to be looked at.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.data.tokenizers.byte_tokens import ALPHABET, BYTE_OF
from bardlet.data.tokenizers.patterns import CL100K, GPT2, LLAMA3, O200K
from bardlet.system import native_library

PATTERNS = (GPT2, CL100K, LLAMA3, O200K)  # as numbered in words.h
MAX_ID, MAX_MERGES = (1 << 21) - 1, (1 << 22) - 2
NO_ID = (1 << 16) - 1  # in a table of ids: there is none
MARGIN = 64  # ids that the core may write beyond those of a text


class Encoder:
    """The core's encoder of a vocabulary. Its memory has a bound, whatever it encodes."""

    def __init__(self, pattern: str, model: dict[str, Any], dtype: Any) -> None:
        """`model` is that of a tokenizer.json, in `ALPHABET`. OSError where the core does not run
        it: a byte has no token, a word is more than its bytes, or there are too many tokens.
        """
        library, vocab = core(), model["vocab"]
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        changed = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        whole_alphabet = all(char in vocab for char in ALPHABET)
        too_many = len(pairs) > MAX_MERGES or max(vocab.values(), default=0) >= MAX_ID
        if library is None or changed or too_many or not whole_alphabet:
            raise OSError("the core does not run this vocabulary")
        of_bytes = np.array([vocab[char] for char in ALPHABET], dtype=np.int32)
        made = [(vocab[a], vocab[b], vocab[a + b]) for a, b in pairs]
        joints, wide_joints = joints_of(pairs)
        triples = np.array(made, dtype=np.int32).reshape(-1, 3)
        # words that are not merged where they are tokens
        whole = [t for t in vocab if all(c in BYTE_OF for c in t)] * model.get(
            "ignore_merges", False
        )
        spelt = [bytes(BYTE_OF[c] for c in token) for token in whole]
        ends = np.cumsum([len(token) for token in spelt], dtype=np.int64)
        ids = np.array([vocab[token] for token in whole], dtype=np.int32)
        self.dtype, self.library = np.dtype(dtype), library
        self.handle = library.bardlet_encoder_new(
            PATTERNS.index(pattern), self.dtype.itemsize == 2, of_bytes, triples, len(triples),
            joints, wide_joints, b"".join(spelt), ends, ids, len(ids),
        )  # fmt: skip
        if not self.handle:
            raise OSError("there is no memory for the core's encoder")
        self.alone = threading.Lock()
        weakref.finalize(self, library.bardlet_encoder_delete, self.handle)

    def encode(self, raw: bytes, sizes: Iterable[int] = ()) -> np.ndarray:
        """The ids of a text in UTF-8, (T,) of the `dtype`, or of its parts of `sizes` bytes one
        after the other.
        """
        ids = np.empty(len(raw) + MARGIN, dtype=self.dtype)
        room, at, count = ids.ctypes.data, 0, 0
        with self.alone:  # its memory of words is one
            for size in sizes or (len(raw),):
                to = room + count * ids.itemsize
                written = self.library.bardlet_encode(self.handle, raw, at, at + size, to)
                if written < 0:
                    raise MemoryError
                at, count = at + size, count + written
        ids.resize(count, refcheck=False)  # gives back what is left over, and moves nothing
        return ids


def joints_of(pairs: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Where a token of these merges may have two bytes side by side: (256, 256) by both, and
    (64, 64, 16) where the second begins a character of three bytes, by the last six bits of the
    two bytes before it and the last four of it; uint8.
    """
    joints = np.zeros((256, 256), dtype=np.uint8)
    wide = np.zeros((64, 64, 16), dtype=np.uint8)
    for left, right in {(a[-2:], b[:1]) for a, b in pairs}:
        if right in BYTE_OF and left and all(char in BYTE_OF for char in left):
            last, head = BYTE_OF[left[-1]], BYTE_OF[right]
            joints[last, head] = 1
            if head >> 4 == 0xE:
                before = BYTE_OF[left[0]] & 63 if len(left) > 1 else slice(None)
                wide[before, last & 63, head & 15] = 1
    return joints, wide


def plain_characters(raw: bytes) -> int:
    """The number of characters of a text in UTF-8, -1 where it has to be looked at more closely: it
    is not UTF-8, has a NUL, a carriage return or a line that begins as a mark between documents
    does, or there is no core to tell.
    """
    library = core()
    return library.bardlet_plain_characters(raw, len(raw)) if library else -1


def count_bytes(raw: bytes) -> np.ndarray:
    """How often each byte is there, (256,) int64."""
    library = core()
    if library is None:
        return np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256)
    counts = np.zeros(256, dtype=np.int64)
    library.bardlet_count_bytes(raw, len(raw), counts)
    return counts


def look_up(raw: bytes, table: np.ndarray) -> np.ndarray | None:
    """The entry of `table`, (256,) uint16, for each byte, uint16; None where one is `NO_ID`."""
    library = core()
    if library is None:
        ids = table[np.frombuffer(raw, dtype=np.uint8)]
        return None if ids.max(initial=0) == NO_ID else ids
    ids = np.empty(len(raw), dtype=np.uint16)
    return ids if library.bardlet_look_up(raw, len(raw), table, ids) else None


@functools.cache
def core() -> ctypes.CDLL | None:
    """The library that is compiled of bpe_encoding.cpp, or None where it was not."""
    path = Path(__file__).parent / "core-encoding.so"
    library = native_library.load_optional(path, "encoding")
    if library is None:
        return None
    array, size = np.ctypeslib.ndpointer, ctypes.c_long
    library.bardlet_encoder_new.restype = ctypes.c_void_p
    library.bardlet_encoder_new.argtypes = [
        ctypes.c_int, ctypes.c_int, array(np.int32), array(np.int32), size, array(np.uint8),
        array(np.uint8), ctypes.c_char_p, array(np.int64), array(np.int32), size,
    ]  # fmt: skip
    library.bardlet_encoder_delete.argtypes = [ctypes.c_void_p]
    library.bardlet_encode.restype = size
    library.bardlet_encode.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, size, size, ctypes.c_void_p,
    ]  # fmt: skip
    library.bardlet_plain_characters.restype = size
    library.bardlet_plain_characters.argtypes = [ctypes.c_char_p, size]
    library.bardlet_count_bytes.argtypes = [ctypes.c_char_p, size, array(np.int64)]
    library.bardlet_count_bytes.restype = None
    library.bardlet_look_up.argtypes = [ctypes.c_char_p, size, array(np.uint16), array(np.uint16)]
    library.bardlet_look_up.restype = ctypes.c_int
    library.bardlet_classes.restype = ctypes.POINTER(ctypes.c_uint8)
    return library
