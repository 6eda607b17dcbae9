"""Models that tasks are set for: a tiny one of characters, and one of a BPE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import ALPHABET, a_state, some_text, tiny_model

from bardlet.data.tokenizers import bpe_training
from bardlet.data.tokenizers.base import Tokenizer, from_json
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.interop.verify import Trained
from bardlet.suites.likelihood import Scorer
from bardlet.system.device import Machine

CPU = Machine(device=torch.device("cpu"), dtype=torch.float32, why="")


def scorer_of(tokenizer: Tokenizer, **changes: object) -> Scorer:
    """A model of random weights that tells its tokens apart, with this tokenizer."""
    shape = {"vocab_size": tokenizer.vocab_size, "block_size": 32, **changes}
    model = tiny_model("llama", **shape)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    trained = Trained(name="a", model=model.eval(), tokenizer=tokenizer, state=a_state())
    return Scorer(trained, CPU, 2)


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
