"""A model that is asked: completions with their own ends, log-probabilities, from Python."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import PLAY as TEXT

from bardlet.cli import main
from bardlet.commands.sample import CHOICE
from bardlet.errors import DataError, UsageError
from bardlet.sampling.filters import Sampling
from bardlet.serve.completion import Completer, Completion, mean_loss
from bardlet.serve.model import Model
from bardlet.serve.talk import written


def test_the_same_text_from_python_a_stream_and_the_command(
    folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"max_new_tokens": 70, "seed": 7, "top_p": 0.9}
    whole = model.generate("All:", **options)
    assert len(whole.tokens) == 70 and whole.finish_reason == "length"
    assert str(whole) == whole.text == model.tokenizer.decode(whole.tokens)
    assert "".join(model.stream("All:", **options)) == whole.text
    beside = model.generate_many(["First", "All:", "All:"], **options)
    assert beside[1].tokens == whole.tokens != beside[2].tokens
    words = ["--start=All:", "--max_new_tokens=70", "--seed=7", "--top_p=0.9", "--json"]
    capsys.readouterr()
    assert main(["sample", str(folder / "run"), "--num_samples=2", "--dtype=float32", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["samples"][0] == "All:" + whole.text
    assert printed["tokens"][0] == whole.tokens and printed["finish_reasons"] == ["length"] * 2


def test_a_completion_ends_before_a_stop_string(model: Model) -> None:
    text = model.generate("All:", max_new_tokens=60, temperature=0).text
    for stop in (text[5:8], text[20:21], text[30:45]):
        ended = model.generate("All:", max_new_tokens=60, temperature=0, stop=["@", stop])
        assert ended.text == text[: text.index(stop)] and ended.finish_reason == "stop"
        decoded = model.tokenizer.decode(ended.tokens)
        assert decoded.endswith(stop) and decoded.startswith(ended.text)
        pieces = list(model.stream("All:", max_new_tokens=60, temperature=0, stop=stop))
        assert "".join(pieces) == ended.text


def test_text_that_only_began_a_stop_string_is_shown_in_the_end(model: Model) -> None:
    text = model.generate("All:", max_new_tokens=20, temperature=0).text
    stop = text[-3:] + "never"
    assert model.generate("All:", max_new_tokens=20, temperature=0, stop=stop).text == text


def test_log_probabilities_are_the_models(model: Model) -> None:
    """Before any filter, of the tokens chosen and of the likeliest: those of float64 to 1e-5."""
    whole = model.generate("All:", max_new_tokens=20, logprobs=3, top_k=2, temperature=1.3)
    ids = torch.tensor([*model.prompt("All:"), *whole.tokens])
    with torch.no_grad():
        logits = model.gpt(ids[None, :-1], ids[None, 1:])[0][0].double().log_softmax(-1)
    start = len(model.prompt("All:")) - 1
    for row, each, token in zip(logits[start:], whole.logprobs, whole.tokens, strict=True):
        assert each.token == token
        assert each.logprob == pytest.approx(row[token].item(), abs=1e-5)
        values, best = row.topk(3)
        assert [id for id, _ in each.top] == best.tolist()
        assert [value for _, value in each.top] == pytest.approx(values.tolist(), abs=1e-5)
    alone = model.generate("All:", max_new_tokens=20, top_k=2, temperature=1.3)
    assert alone.tokens == whole.tokens and alone.logprobs == []


def test_the_mean_log_probability_is_the_loss_that_eval_measures(
    folder: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    val = TEXT[-len(TEXT) // 10 :]
    capsys.readouterr()
    assert main(["eval", str(folder / "run"), "--dtype=float32", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    logprobs = model.logprobs(val[-scores["tokens"] - 1 :])
    assert len(logprobs) == scores["tokens"]
    assert mean_loss(logprobs) == pytest.approx(scores["loss"], abs=1e-5)


def test_neighbours_that_come_and_go_change_nothing(model: Model) -> None:
    def request(i: int) -> Any:
        options: dict[str, Any] = {"max_new_tokens": 5 + 7 * i % 40, "seed": i}
        options |= [{}, {"logprobs": 2}, {"top_p": 0.8}, {"stop": ["ea", "\n\n"]}][i % 4]
        return model.request(TEXT[i : 2 * i + 1], **options)

    alone = [model.complete([request(i)])[0] for i in range(24)]
    completer = Completer(model.gpt, model.tokenizer, 5)
    together = [completer.add(Completion(request(i))) for i in range(24)]
    gone = completer.add(Completion(model.request("All", max_new_tokens=1000)))
    for turn in range(1000):
        if not completer.step():
            break
        if turn == 9:
            completer.remove(gone)
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.text for c in together] == [c.text for c in alone]
    assert {c.finish_reason for c in together} == {"stop", "length"}
    assert gone.finish_reason is None and len(completer.writer.free) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temprature": 1}, "no option temprature"), ({"seed": -1}, "seed=-1"),
     ({"top_p": 0}, "top_p=0 must be above 0"),
     ({"logprobs": 21}, "logprobs=21 must be from 0 to 20"), ({"max_new_tokens": -1}, "at least 0"),
     ({"logit_bias": ((99999, 1.0),)}, "logit_bias of token 99999")],
)  # fmt: skip
def test_what_cannot_be_asked_for(model: Model, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate("All:", **options)


def test_the_commands_defaults_are_samplings() -> None:
    """They stand there once more: help must not import torch."""
    assert {name: default for name, (default, _) in CHOICE.items()} == {
        field.name: field.default for field in dataclasses.fields(Sampling)
        if field.name != "logit_bias"
    }  # fmt: skip


def test_edges(model: Model) -> None:
    assert model.generate("All:", max_new_tokens=0).finish_reason == "length"
    assert model.generate_many([]) == []
    assert len(model.generate("", max_new_tokens=3).tokens) == 3  # as a line begins
    assert len(model.generate("All:" * 40, max_new_tokens=3).tokens) == 3  # beyond the context
    with pytest.raises(DataError, match="not in the model's alphabet"):
        model.generate("\u4e16")


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_prompts_out_of_files(
    folder: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, objects = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("All:\n\nFirst\n", encoding="utf-8")
    records = [{"prompt": "All:"}, {"prompt": "First", "max_new_tokens": 4, "logprobs": 1}]
    objects.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    options = ["--max_new_tokens=9", "--seed=3", "--dtype=float32"]
    expected = [model.generate(prompt, max_new_tokens=9, seed=3) for prompt in ("All:", "First")]
    out = printed(capsys, "sample", folder / "run", "--prompts", lines, *options)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["prompt"], row["text"]) for row in rows] == [
        ("All:", expected[0].text), ("First", expected[1].text),
    ]  # fmt: skip
    out = printed(capsys, "sample", folder / "run", "--prompts", objects, *options)
    own = [json.loads(line) for line in out.splitlines()]
    assert own[0] == rows[0]
    assert own[1]["tokens"] == expected[1].tokens[:4]
    assert [each["id"] for each in own[1]["logprobs"]] == expected[1].tokens[:4]
    assert all(len(each["top"]) == 1 for each in own[1]["logprobs"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no prompt"), ("[1]", ":1 is not an object with a text"), ("{", ":1 is not JSON"),
     ('{"prompt": 1}', "is not an object"), ('{"prompt": "a", "temp": 1}', "no option temp"),
     ('{"prompt": "All:"}\n{"prompt": "\u4e16"}', "prompt 2: "),
     ('{"prompt": "a", "top_k": "many"}', "prompt 1: top_k='many' is not a whole number"),
     ('{"prompt": "a", "seed": 1.5}', "seed=1.5 is not a whole number"),
     ('{"prompt": "a", "top_p": true}', "top_p=True is not a number"),
     ('{"prompt": "a", "stop": 3}', "stop=3 is not a text or a list of texts"),
     ('{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias"),
     ('{"prompt": "a", "logit_bias": [1]}', "logit_bias")],
)  # fmt: skip
def test_prompts_that_cannot_be_answered(
    folder: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    code = main(["sample", str(folder / "run"), "--prompts", str(tmp_path / "p.jsonl")])
    err = capsys.readouterr().err
    assert code in (1, 2) and message in err and "internal error" not in err


def test_a_texts_own_loss(
    folder: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT[:200], encoding="utf-8")
    words = ["sample", folder / "run", "--logprobs", path, "--dtype=float32"]
    scores = json.loads(printed(capsys, *words, "--json", "--top_logprobs=2"))
    assert scores["tokens"] == len(scores["logprobs"]) == 199
    assert scores["loss"] == pytest.approx(mean_loss(model.logprobs(TEXT[:200])), abs=1e-9)
    assert scores["bits_per_byte"] == pytest.approx(scores["loss"] / math.log(2), abs=1e-9)
    lines = printed(capsys, *words).splitlines()
    worst = min(each["logprob"] for each in scores["logprobs"])
    assert len(lines) == 11 and f"{-worst:.2f} nats" in lines[1]


def test_talking(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options are set, a text goes on, an error and Ctrl-C end a text and not the program."""
    lines = iter(["/temperature 0", "/max_new_tokens 12", "All:", "/more", "\u4e16", "/top_k x",
                  "/stop k\\n", "/frobnicate", "/options", KeyboardInterrupt()])  # fmt: skip

    def line(prompt: str) -> str:
        try:
            value = next(lines)
        except StopIteration:
            raise EOFError from None
        if isinstance(value, KeyboardInterrupt):
            raise value
        return value

    monkeypatch.setattr("builtins.input", line)
    out = printed(capsys, "sample", folder / "run", "-i", "--dtype=float32")
    greedy = model.generate("All:", max_new_tokens=24, temperature=0).text
    assert f"All:{greedy[:12]}\n" in out and f"All:{greedy[:24]}\n" in out
    assert "temperature 0.0\n" in out and "not in the model's alphabet" in out
    assert "/top_k takes a whole number, such as 200, not 'x'" in out
    assert "stop ['k\\n']" in out and "max_new_tokens 12" in out
    assert out.count("Ctrl-C stops the text") == 2  # at the beginning, and for what is no option


def test_ctrl_c_stops_a_text_that_is_written(model: Model) -> None:
    def pieces() -> Iterator[str]:
        yield "a"
        raise KeyboardInterrupt

    shown: list[str] = []
    assert written("Q", pieces(), shown.append) == "Qa"
    assert shown == ["Q", "a", "\n"]
