"""Models that tasks are set for: a tiny one of characters, and one of a BPE."""

from __future__ import annotations

import numpy as np
import pytest
from support import ALPHABET, scorer_of, some_text

from bardlet.data.tokenizers import bpe_training
from bardlet.data.tokenizers.base import from_json
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.suites.likelihood import Scorer


@pytest.fixture(scope="package")
def characters() -> Scorer:
    """With a token that ends texts."""
    return scorer_of(CharTokenizer(ALPHABET[:-1], ends=True))


@pytest.fixture(scope="package")
def words() -> Scorer:
    """With a BPE whose tokens begin with spaces."""
    return scorer_of(from_json(bpe_training.train(some_text(9000), 300), "bpe"), block_size=8)


@pytest.fixture
def sentences() -> list[tuple[str, str]]:
    """Contexts and continuations of words, of many lengths; some contexts are empty."""
    generator = np.random.default_rng(7)
    text = some_text(4000, seed=3).split(" ")
    pairs = []
    for _ in range(40):
        start, before, after = generator.integers((0, 0, 1), (500, 12, 4)).tolist()
        context = " ".join(text[start : start + before]) + " " * int(generator.integers(0, 2))
        behind = " ".join(text[start + before : start + before + after])
        pairs.append((context, " " * (not context.endswith(" ")) + behind))
    return pairs
