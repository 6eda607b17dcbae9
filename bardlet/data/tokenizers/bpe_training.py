"""Trains a byte-level BPE on a text: GPT-2's method, with words of any script kept together.

The compiled core (bpe_training.cpp) does it, or where there is none, the tokenizers library, which
takes ten times as long for the same merges.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
from pathlib import Path

import numpy as np

from bardlet.data.tokenizers.byte_tokens import ALPHABET, BYTE_OF, END_OF_TEXT, utf8
from bardlet.data.tokenizers.json_file import MAX_TOKEN, byte_level
from bardlet.data.tokenizers.patterns import O200K, parts
from bardlet.errors import UsageError
from bardlet.system import native_library

MIN_SIZE = 257  # the bytes, of which any text is made, and the end of a text
MAX_SIZE = 1 << 20
ORDER = "".join(sorted(ALPHABET))  # of bytes, where pairs are equally frequent: the library's
THREADS = 16  # at most, to count words: each has a table of its own


def suggested_size(text_bytes: int) -> int:
    """A vocabulary for a text of that size: near its square root, a power of two.

    The larger of what a model has to learn per token and of what a text can teach: 1,024 tokens for
    a megabyte, 32,768 for a gigabyte and more.
    """
    return 1 << min(max(round(math.log2(max(text_bytes, 1)) / 2), 9), 15)


def train(text: str, vocab_size: int) -> str:
    """The `tokenizer.json` of a BPE with up to `vocab_size` tokens, merged by their counts in
    `text`.

    Ids are the 256 bytes, the merges in order, the end of a text. A text with too few repetitions
    gives fewer. UsageError for a size that cannot be.
    """
    check_size(vocab_size)
    utf8(text)
    merges = learn(text, vocab_size - MIN_SIZE)
    long = (i for i, (left, right) in enumerate(merges) if len(left) + len(right) > MAX_TOKEN)
    merges = merges[: next(long, len(merges))]
    tokens = [*ALPHABET, *(left + right for left, right in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    document = byte_level(vocab, merges, O200K, {END_OF_TEXT: len(vocab)})
    return json.dumps(document, ensure_ascii=False) + "\n"


def check_size(vocab_size: int) -> None:
    """Raise UsageError for a size that cannot be."""
    if not MIN_SIZE <= vocab_size <= MAX_SIZE:
        raise UsageError(f"vocab_size={vocab_size} must lie between {MIN_SIZE} and {MAX_SIZE:,}")


def learn(text: str, count: int) -> list[tuple[str, str]]:
    """Up to `count` merges in order, each of the pair that is then the most frequent.

    Of equals it is the pair whose tokens come first: bytes as in `ORDER`, then merges as learnt.
    """
    merges = learn_with_core(text, count) if core() else None
    return learn_with_library(text, count) if merges is None else merges


def learn_with_library(text: str, count: int) -> list[tuple[str, str]]:
    """`learn`, by the tokenizers library."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([  # pyright: ignore[reportAttributeAccessIssue]
        pre_tokenizers.Split(Regex(O200K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count, initial_alphabet=list(ALPHABET), show_progress=False
    )  # pyright: ignore[reportCallIssue]
    learner.train_from_iterator(parts(text), trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    assert all(char in BYTE_OF for pair in learnt for token in pair for char in token)
    return [(left, right) for left, right in learnt]


def learn_with_core(text: str, count: int) -> list[tuple[str, str]] | None:
    """`learn`, by the compiled core; None where the text is more than it can take."""
    library = core()
    assert library is not None
    raw = text.encode("utf-8")
    order = np.array([ORDER.index(char) for char in ALPHABET], dtype=np.int32)
    merges = np.zeros((count, 2), dtype=np.int32)
    threads = min(os.cpu_count() or 1, THREADS)
    done = library.bardlet_bpe(raw, len(raw), order, count, threads, merges)
    if done < 0:
        return None
    tokens = [*ORDER]
    for left, right in merges[:done].tolist():
        tokens.append(tokens[left] + tokens[right])
    return [(tokens[left], tokens[right]) for left, right in merges[:done].tolist()]


@functools.cache
def core() -> ctypes.CDLL | None:
    """The library that is compiled of bpe_training.cpp, or None where it was not."""
    path = Path(__file__).parent / "core-bpe.so"
    library = native_library.load_optional(path, "training vocabularies")
    if library is None:
        return None
    array, size = np.ctypeslib.ndpointer, ctypes.c_long
    library.bardlet_bpe.restype = size
    library.bardlet_bpe.argtypes = [
        ctypes.c_char_p, size, array(np.int32), size, ctypes.c_int, array(np.int32),
    ]  # fmt: skip
    return library
