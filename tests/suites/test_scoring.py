"""Scores of tasks: by transformers on the exported model, and by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bardlet.errors import DataError
from bardlet.interop.huggingface import export as huggingface
from bardlet.suites import scoring
from bardlet.suites.encoding import UnscorableError, encoder
from bardlet.suites.likelihood import Likelihood, Scorer
from bardlet.suites.scoring import judged, score_task
from bardlet.suites.tasks import Cloze, MultipleChoice, Task

transformers = pytest.importorskip("transformers")

KINDS = ("characters", "words")


@pytest.fixture(params=KINDS)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def by_transformers(folder: Path, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Log-probability and whether it is greedy, a pair at a time and a token at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    result = []
    for context, continuation in pairs:
        spaces = context[len(context.rstrip()) :]
        context, continuation = context.rstrip(), spaces + continuation
        before = tokenizer(context)["input_ids"] if context else [tokenizer.bos_token_id]
        whole = tokenizer(context + continuation)["input_ids"]
        behind = whole[len(before) if context else 0 :]
        ids = [*before, *behind][-(model.config.max_position_embeddings + 1) :]
        logits = model(torch.tensor([ids[:-1]])).logits[0].double()
        first = len(ids) - len(behind)
        logprobs = [logits[i - 1].log_softmax(-1)[ids[i]].item() for i in range(first, len(ids))]
        greedy = all(logits[i - 1].argmax().item() == ids[i] for i in range(first, len(ids)))
        result.append((sum(logprobs), greedy))
    return result


def test_likelihoods_are_transformers(
    scorer: Scorer, sentences: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Boundaries, empty contexts, contexts that are cut, and lengths that differ in a batch."""
    huggingface.write(scorer.trained, tmp_path, "float32")
    encode = encoder(scorer.trained, scorer.context)
    spans = [encode.pair(*pair) for pair in sentences]
    ours = scorer.score([span for span, _ in spans])
    assert 0 < sum(cut for _, cut in spans) < len(spans)
    assert sum(not context.strip() for context, _ in sentences) > 0
    theirs = by_transformers(tmp_path, sentences)
    for one, (logprob, greedy) in zip(ours, theirs, strict=True):
        assert one.logprob == pytest.approx(logprob, abs=1e-4)
        assert one.greedy == greedy


def test_what_stands_beside_changes_nothing(
    scorer: Scorer, sentences: list[tuple[str, str]]
) -> None:
    encode = encoder(scorer.trained, scorer.context)
    spans = [encode.pair(*pair)[0] for pair in sentences]
    together = scorer.score(spans)
    alone = [scorer.score([span])[0] for span in spans]
    for a, b in zip(together, alone, strict=True):
        assert (a.logprob, a.greedy) == (pytest.approx(b.logprob, abs=1e-5), b.greedy)


def test_a_greedy_text_is_found_greedy(characters: Scorer) -> None:
    encode = encoder(characters.trained, characters.context)
    ids = list(encode.ids("to be"))
    for _ in range(4):
        idx = torch.tensor([ids])
        ids.append(int(characters.gpt(idx)[0][0, -1].argmax()))
    span = encode.span(tuple(ids), 5)[0]
    assert characters.score([span])[0].greedy
    wrong = dataclasses.replace(span, tokens=(*span.tokens[:-1], (span.tokens[-1] + 1) % 50))
    assert not characters.score([wrong])[0].greedy


def test_spaces_belong_to_what_follows(words: Scorer) -> None:
    """A context that ends in a space gives the tokens of one that does not."""
    encode = encoder(words.trained, words.context)
    assert encode.pair("to be or ", "not")[0] == encode.pair("to be or", " not")[0]
    assert encode.pair("to be or", " not")[0].scored == 1
    assert encode.pair("   ", "not")[0] == encode.pair("", "   not")[0]


def test_the_context_is_cut_from_the_left(characters: Scorer) -> None:
    encode = encoder(characters.trained, characters.context)
    span, cut = encode.pair("x" * 40, " not")
    assert cut and len(span.tokens) == characters.context + 1 and span.scored == 4
    assert not encode.pair("x" * 29, " not")[1]
    with pytest.raises(UnscorableError, match="longer than"):
        encode.pair("x", "y" * 33)
    with pytest.raises(UnscorableError, match="without a token"):
        encode.pair("x", "")
    with pytest.raises(UnscorableError, match="characters"):
        encode.pair("x", "ß")


def test_normalised_scores_by_hand() -> None:
    """By sum the first wins, by characters the second, by bytes the third."""
    example = MultipleChoice(
        line=1, context="", delimiter=" ", choices=("abcd", "abcdefgh", "中中中中"), answer=1
    )
    rows = [Likelihood(logprob, False, 1) for logprob in (-6.0, -7.0, -6.5)]
    row = judged(example, rows)
    assert (row["predicted"], row["predicted_norm"]) == (0, 1)
    assert (row["acc"], row["acc_norm"], row["acc_bytes"]) == (0, 1, 0)
    assert scoring.normalised(example, [-6.0, -7.0, -6.5])[1] == [-1.5, -7 / 8, -6.5 / 12]


def test_averages_by_hand() -> None:
    rows: list[dict[str, Any]] = [
        {"acc": 1, "logprob": -1.0}, {"acc": 0, "logprob": -2.0}, {"acc": 1, "logprob": -4.5},
    ]  # fmt: skip
    scores = scoring.averages(rows, "cloze")
    assert scores["acc"] == pytest.approx(2 / 3)
    assert scores["acc_stderr"] == pytest.approx(math.sqrt(1 / 3 / 3))  # sample variance 1/3
    assert scores["perplexity"] == pytest.approx(math.exp(2.5))
    deviation = np.std([1.0, 2.0, 4.5], ddof=1) / math.sqrt(3)
    assert scores["perplexity_stderr"] == pytest.approx(math.exp(2.5) * deviation)
    assert scoring.averages(rows[:1], "cloze")["acc_stderr"] is None


def test_what_cannot_be_scored_is_left_out_and_counted(characters: Scorer) -> None:
    good = Cloze(line=1, context="to be or", target=" not")
    bad = Cloze(line=2, context="straße", target=" x")
    long = Cloze(line=3, context="to be", target=" " + "n" * 60)
    result = score_task(characters, Task(name="t", examples=(good, bad, long)))
    assert [row["line"] for row in result.examples] == [1]
    assert sum(result.left_out.values()) == 2 and len(result.left_out) == 2
    assert result.to_json()["examples"] == 1
    with pytest.raises(DataError, match="none of the 2 examples"):
        score_task(characters, Task(name="t", examples=(bad, long)))
