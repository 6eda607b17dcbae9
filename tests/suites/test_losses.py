"""Losses token by token: `evaluate`'s, and the same parts of a text for any tokenizer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import CPU, scorer_of

from bardlet.data.dataset.folder import Dataset
from bardlet.errors import DataError
from bardlet.evaluate import evaluate
from bardlet.suites.likelihood import Scorer
from bardlet.suites.losses import TextLosses, of_split, of_text
from bardlet.system.distributed import Group


def same_as_evaluate(scorer: Scorer, data: Dataset) -> TextLosses:
    losses = of_split(scorer, data, "val")
    masked = bool(scorer.trained.state.config.get("doc_mask"))
    score = evaluate(
        scorer.gpt, data, "val", batch_size=3, machine=CPU, group=Group(), doc_mask=masked
    )
    assert losses.loss == pytest.approx(score.loss, rel=1e-5)
    assert losses.bits_per_byte == pytest.approx(score.bits_per_byte, rel=1e-5)
    assert len(losses.nats) == score.tokens
    return losses


def test_they_are_evaluates(dataset_folder: Path) -> None:
    data = Dataset(dataset_folder)
    scorer = scorer_of(data.tokenizer)
    losses = same_as_evaluate(scorer, data)
    text = data.tokenizer.decode(data.splits["val"].read(0, 10**6))
    assert losses.ends.tolist() == list(range(2, len(text) + 1))
    whole = of_text(scorer, text)
    assert whole.text == losses.text
    np.testing.assert_allclose(whole.nats, losses.nats, atol=1e-5)
    assert losses.segments()[1] == "1 blocks of 1,024 bytes"


def test_prompts_do_not_count(tmp_path: Path) -> None:
    """What is left out of the loss stands between what counts, also at the end of a window."""
    from bardlet import cli

    pairs = [{"q": f"what is {i} ? ", "a": "to be é" * (1 + i % 3)} for i in range(200)]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (tmp_path / "pairs.jsonl").write_text(lines, encoding="utf-8")
    args = ["--prompt_key=q", "--response_key=a", "--out", str(tmp_path / "data")]
    assert cli.main(["prepare", str(tmp_path / "pairs.jsonl"), *args]) == 0
    data = Dataset(tmp_path / "data")
    losses = same_as_evaluate(scorer_of(data.tokenizer, block_size=7), data)
    ids = data.splits["val"].read(0, 10**6)
    size = int(data.tokenizer.token_bytes()[ids].sum())
    assert losses.ends[-1] <= size and losses.documents[-1] == (ids == data.end_of_text).sum() - 1
    assert losses.bytes.sum() < size


def test_any_tokenizer_gives_the_same_parts(characters: Scorer, words: Scorer) -> None:
    text = "to be or not to be that is the question whether nobler " * 90
    one, other = of_text(characters, text), of_text(words, text)
    assert one.text == other.text and len(one.nats) > len(other.nats)
    assert one.segments()[1] == other.segments()[1] == "5 blocks of 1,024 bytes"
    sizes = [np.bincount(losses.segments()[0], losses.bytes) for losses in (one, other)]
    assert abs(sizes[0] - sizes[1]).max() <= 8  # a token over a border, and the first
    assert one.bits_per_byte == pytest.approx(
        one.nats.sum() / math.log(2) / (len(text.encode()) - 1)
    )
    assert of_text(characters, text.replace("not", "nob")).text != one.text


def test_documents_are_told_by_their_end(tmp_path: Path) -> None:
    """A document ends with its token for that, which belongs to it."""
    texts = [f"to be {i}" for i in range(400)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts),
                                      encoding="utf-8")  # fmt: skip
    from bardlet import cli

    assert cli.main(["prepare", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "data")]) == 0
    data = Dataset(tmp_path / "data")
    scorer = scorer_of(data.tokenizer)
    losses = same_as_evaluate(scorer, data)
    count = int((data.splits["val"].read(0, 10**6) == data.end_of_text).sum())
    assert count >= 30 and losses.segments()[1] == f"{count:,} documents"
    assert losses.documents.min() == 0 and losses.documents.max() == count - 1
    state = replace(scorer.trained.state, config={"doc_mask": True})
    scorer.trained = replace(scorer.trained, state=state)
    assert same_as_evaluate(scorer, data).loss != pytest.approx(losses.loss, rel=1e-4)


def test_a_text_is_computed_in_smaller_parts_when_memory_runs_out(
    dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset(dataset_folder)
    scorer = scorer_of(data.tokenizer)
    whole = of_split(scorer, data, "val")
    inner = scorer.logits

    def small(idx: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if len(idx) > 1:
            raise MemoryError
        return inner(idx, *others)

    monkeypatch.setattr(scorer, "logits", small)
    with pytest.warns(UserWarning, match="out of memory"):
        losses = of_split(scorer, data, "val")
    np.testing.assert_allclose(losses.nats, whole.nats, atol=1e-5)


def test_what_has_no_loss_is_refused(characters: Scorer) -> None:
    with pytest.raises(DataError, match="none to predict"):
        of_text(characters, "t")
    with pytest.raises(DataError, match="not in the model's alphabet"):
        of_text(characters, "straße")
