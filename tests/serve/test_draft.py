"""Weights of fewer bits and drafts, through `bardlet.load` and `bardlet sample`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from native_support import SHAPES, random_model

import bardlet
from bardlet import cli, native
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import UsageError
from bardlet.interop import load
from bardlet.run.state import Imported

core = pytest.mark.skipif(native.library() is None, reason="the core was not compiled")
CONFIG = SHAPES["gpt2"]


def saved(path: Path, characters: str, **shape: int) -> Path:
    """A run of random weights."""
    tokenizer = CharTokenizer(characters)
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, **shape)
    made = load.imported(Imported(source="random weights"), random_model(config), tokenizer)
    load.save(made, path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafts")
    letters = "\nabcdefghijklmnopqrstuvwxyz"
    saved(folder / "large", letters)
    saved(folder / "small", letters, n_layer=1)
    saved(folder / "other", letters + "?")
    saved(folder / "odd", letters, n_embd=48)
    return folder


@core
def test_a_draft_changes_no_text_and_weights_do(runs: Path) -> None:
    texts = {}
    for weights in ("auto", "int8", "int4"):
        for draft in ("", "lookup", str(runs / "small")):
            model = bardlet.load(runs / "large", weights=weights, draft=draft, dtype="float32")
            streamed = "".join(model.stream("abc", max_new_tokens=80))
            assert model.generate("abc", max_new_tokens=80).text == streamed
            texts.setdefault(weights, set()).add(streamed)
    assert [len(each) for each in texts.values()] == [1, 1, 1]
    assert len(set.union(*texts.values())) == 3


@core
def test_log_probabilities_are_those_of_the_rounded_weights(runs: Path) -> None:
    """Of a text that is written, in the core, and of one that is scored, in torch: to 2e-3 nats."""
    for weights, cache in (("int8", "auto"), ("int4", "auto"), ("auto", "int8")):
        model = bardlet.load(runs / "large", weights=weights, cache=cache, dtype="float32")
        written = model.generate("abc", max_new_tokens=20, logprobs=0)
        scored = model.logprobs("abc" + written.text)[-20:]
        for ours, theirs in zip(written.logprobs, scored, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=2e-3)


@core
def test_what_cannot_guess_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="another vocabulary"):
        bardlet.load(runs / "large", draft=runs / "other")
    with pytest.raises(UsageError, match="does not run both models"):
        bardlet.load(runs / "odd", draft="lookup")
    assert cli.main(["sample", str(runs / "large"), "--draft", str(runs / "odd")]) == 2
    assert "multiples of 32" in capsys.readouterr().err
    assert cli.main(["sample", str(runs / "odd"), "--weights=int8"]) == 2
    assert "needs the compiled core" in capsys.readouterr().err


@core
def test_sample_takes_both(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--num_samples=1", "--max_new_tokens=60", "--json", "--weights=int8"]
    printed = []
    for draft in ([], ["--draft=lookup"], ["--draft", str(runs / "small")]):
        assert cli.main(["sample", str(runs / "large"), *options, *draft]) == 0
        printed.append(json.loads(capsys.readouterr().out)["samples"])
    assert printed[0] == printed[1] == printed[2]
    assert cli.main(["sample", str(runs / "large"), "--draft=lookup", "--max_new_tokens=4"]) == 0
    assert "one text is left" in capsys.readouterr().err
