"""Trains a byte-level BPE on a text: GPT-2's method, with words of any script kept together."""

from __future__ import annotations

import json
import math

from bardlet.data.patterns import O200K, parts
from bardlet.data.pieces import ALPHABET, BYTE_OF, END_OF_TEXT, utf8
from bardlet.data.tokenizer_json import byte_level
from bardlet.errors import UsageError

LEAST = 257  # the bytes, of which any text is made, and the end of a text
MOST = 1 << 20


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
    if not LEAST <= vocab_size <= MOST:
        raise UsageError(f"vocab_size={vocab_size} must lie between {LEAST} and {MOST:,}")
    utf8(text)
    merges = learn(text, vocab_size - LEAST)
    tokens = [*ALPHABET, *(left + right for left, right in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    document = byte_level(vocab, merges, O200K, {END_OF_TEXT: len(vocab)})
    return json.dumps(document, ensure_ascii=False) + "\n"


def learn(text: str, count: int) -> list[tuple[str, str]]:
    """Up to `count` merges in order, each of the pair that is then the most frequent."""
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
