"""`bardlet compare`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest import CaptureFixture
from support import DATA, RUN, Refused, tiny_config

from bardlet import cli
from bardlet.commands import compare
from bardlet.config import to_toml

OTHER = Path("out/b")


@pytest.fixture
def runs(sent: Path, capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """RUN, and one that has learnt more."""
    monkeypatch.setattr(compare, "TIMED_TOKENS", 4)
    shape: dict[str, Any] = {
        "n_embd": 64,
        "n_head": 2,
        "n_kv_head": 1,
        "block_size": 64,
        "max_iters": 30,
    }
    config = tiny_config(DATA, OTHER, eval_interval=30, **shape)
    Path("b.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["train", "b.toml"]) == 0
    capsys.readouterr()
    return [str(RUN), str(OTHER)]


def compared(capsys: CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert cli.main(["compare", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_runs_side_by_side(runs: list[str], capsys: CaptureFixture[str]) -> None:
    """Their losses are those of `bardlet eval`, whatever their contexts."""
    Path("t.jsonl").write_text('{"text": "to be or not"}\n' * 5, encoding="utf-8")
    document = compared(capsys, *runs, "--task=t.jsonl", "--dtype=float32")
    first, second = document["models"]
    for one in (first, second):
        assert cli.main(["eval", one["name"], "--json", "--dtype=float32"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert one["loss"] == pytest.approx(scores["loss"], rel=1e-4)
        assert one["bits_per_byte"] == pytest.approx(scores["bits_per_byte"], rel=1e-4)
        assert one["training_s"] > 0 and one["tokens_per_s"] > 0 and one["tasks"][0]["acc"] >= 0
    folder = OTHER / "checkpoints" / "iter-00000030"
    assert second["bytes"] == (folder / "model.safetensors").stat().st_size
    loss, task = document["differences"]
    assert (loss["best"], loss["other"], loss["measure"]) == (*runs[::-1], "bits per byte")
    gap = first["bits_per_byte"] - second["bits_per_byte"]
    assert loss["difference"] == pytest.approx(gap, rel=1e-6)
    assert loss["low"] <= loss["difference"] <= loss["high"]
    assert task["measure"] == "t acc" and task["over"] == "5 examples"
    assert document["nats_compare"]


def test_the_table(runs: list[str], capsys: CaptureFixture[str]) -> None:
    assert cli.main(["compare", *runs]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == runs
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "bits per byte", "loss, nats per token", "parameters",
    ]  # fmt: skip
    assert "out/a has +" in lines[-1] and "paired bootstrap, 95% interval" in lines[-1]
    assert "nothing of other seeds" in captured.err


def test_nats_do_not_compare_between_tokenizers(
    runs: list[str], capsys: CaptureFixture[str]
) -> None:
    """Models of other tokenizers compare in bits per byte, on one text."""
    assert cli.main(["prepare", "words.txt", "--tokenizer=byte", "--out=data/bytes"]) == 0
    config = tiny_config(Path("data/bytes"), Path("out/bytes"), max_iters=2)
    Path("c.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["train", "c.toml"]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(RUN), "out/bytes", "--text=words.txt"]) == 0
    captured = capsys.readouterr()
    assert "nats per token" not in captured.out and "bits per byte" in captured.out
    assert "different tokenizers: nats per token do not compare" in captured.err
    document = compared(capsys, str(RUN), "out/bytes", "--text=words.txt")
    assert not document["nats_compare"] and len(document["differences"]) == 1
    # the same validation text, in other tokens, is one text too
    assert len(compared(capsys, str(RUN), "out/bytes")["differences"]) == 1


def test_other_texts_are_said(runs: list[str], capsys: CaptureFixture[str]) -> None:
    Path("other.txt").write_text(Path("words.txt").read_text("utf-8")[::-1], encoding="utf-8")
    assert cli.main(["prepare", "other.txt", "--out=data/other"]) == 0
    config = tiny_config(Path("data/other"), Path("out/other"), max_iters=2)
    Path("d.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["train", "d.toml"]) == 0
    capsys.readouterr()
    document = compared(capsys, runs[0], "out/other")
    assert document["differences"] == []
    assert any("different texts" in note for note in document["notes"])


def test_what_cannot_be_compared(sent: Path, refused: Refused) -> None:
    Path("empty.txt").touch()
    for args, words in (
        ([], "two runs or more"),
        (["out/a"], "two runs or more"),
        (["out/a", "out/a"], "named twice"),
        (["out/a", "out/none"], "out/none"),
        (["out/a", "out/a/checkpoints/iter-00000002", "--text=none.txt"], "cannot read none.txt"),
        (["out/a", "out/a/checkpoints/iter-00000002", "--text=empty.txt"], "empty.txt is empty"),
        (["out/a", "out/a/checkpoints/iter-00000002", "--dataset=none"], "no dataset at data/none"),
        (["out/a", "out/b", "--batch_size=0"], "batch_size=0"),
    ):
        assert words in refused("compare", *args)
