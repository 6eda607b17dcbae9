"""`bardlet ls` and `bardlet inspect --vocab`: what is here, and what a dataset is made of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import made
from support import Refused, tiny_model

from bardlet import cli
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import DatasetRef, Imported, RunState, Scores


def a_run(out: Path, it: int, **changes: Any) -> Path:
    """A run with one checkpoint, saved at the given second of 2026."""
    state = RunState(
        iter=it, tokens=it * 10, scaler={},
        **{"dataset": DatasetRef(name="plays", hash=""), "config": {"max_iters": 50}, **changes},
    )  # fmt: skip
    tokenizer = CharTokenizer.train("abc")
    folder = checkpoint.save(out, tiny_model("gpt2", vocab_size=3), [], tokenizer, state)
    for name in ("last", "best"):
        run_folder.set_pointer(out, name, folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_and_datasets_are_listed_the_newest_first(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scores = Scores(train_loss=1.0, val_loss=1.23456, bits_per_byte=1.0)
    run_folder.write_scores(a_run(here / "out" / "a", 40), scores)
    estimate = Scores(train_loss=1.0, val_loss=2.5, bits_per_byte=1.0, val_batches=9)
    run_folder.write_scores(a_run(here / "out-nano", 7), estimate)
    a_run(here / "out" / "b", 0, imported=Imported(source="gpt2"), config={})
    (here / "a.txt").write_text("abc" * 30, encoding="utf-8")
    made(here / "data" / "plays", here / "a.txt", tokenizer="char")
    (here / "data" / "nano").mkdir()
    for name in ("train", "val"):
        np.arange(20, dtype="<u2").tofile(here / "data" / "nano" / f"{name}.bin")
    (here / "out" / "broken" / "checkpoints").mkdir(parents=True)
    (here / "data" / "cut").mkdir()
    (here / "data" / "cut" / "manifest.json").write_text("{", encoding="utf-8")
    (here / ".hidden").mkdir()
    made(here / ".hidden" / "d", here / "a.txt", tokenizer="char")
    for second, path in enumerate(("out/a", "out-nano", "out/b"), start=1):
        os.utime(f"{path}/checkpoints/last", (1.8e9 + second, 1.8e9 + second))
    assert cli.main(["ls", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    runs = {entry["path"]: entry for entry in listed["runs"]}
    assert [path for path in runs if path != "out/broken"] == ["out/b", "out-nano", "out/a"]
    assert "has no checkpoint" in runs["out/broken"]["problem"]
    assert (runs["out/a"]["val_loss"], runs["out/a"]["dataset"]) == (1.23456, "plays")
    assert (runs["out/b"]["val_loss"], runs["out/b"]["dataset"]) == (None, "gpt2")
    datasets = {entry["path"]: entry for entry in listed["datasets"]}
    assert set(datasets) == {"data/plays", "data/nano", "data/cut"}
    assert datasets["data/plays"]["tokens"] == {"train": 81, "val": 9}
    assert datasets["data/nano"]["tokens"] == {"train": 20, "val": 20}
    assert "damaged" in datasets["data/cut"]["problem"]
    files = (here / "data" / "plays").iterdir()
    assert datasets["data/plays"]["bytes"] == sum(path.stat().st_size for path in files)
    assert cli.main(["ls"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "val", "loss", "iterations", "dataset", "size", "saved"]
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["out/a"][1:4] == ["1.2346", "40/50", "plays"]
    assert rows["out-nano"][1:4] == ["~2.5000", "7/50", "plays"]
    assert rows["out/b"][1:5] == ["-", "0", "from", "gpt2"]
    assert rows["data/plays"][1:5] == ["81", "9", "char", "3"]
    assert cli.main(["ls", "data"]) == 0
    assert "data/plays" in (out := capfd.readouterr().out) and "out/a" not in out


def test_a_folder_without_any_says_how_to_make_some(
    here: Path, capfd: pytest.CaptureFixture[str], refused: Refused
) -> None:
    assert cli.main(["ls"]) == 0
    captured = capfd.readouterr()
    assert (captured.out, "`bardlet demo` makes one of each" in captured.err) == ("", True)
    assert "nowhere is not a folder" in refused("ls", "nowhere")


def test_tokens_of_a_dataset_with_their_counts(
    here: Path, capfd: pytest.CaptureFixture[str], refused: Refused
) -> None:
    (here / "a.txt").write_text("aaab\n" * 10, encoding="utf-8")
    made(here / "d", here / "a.txt", tokenizer="char")
    assert cli.main(["inspect", "d", "--vocab", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["tokens"] == 50
    assert shown["vocab"] == [
        {"id": 1, "token": "a", "count": 30, "share": 0.6},
        {"id": 0, "token": "\n", "count": 10, "share": 0.2},
        {"id": 2, "token": "b", "count": 10, "share": 0.2},
    ]
    assert cli.main(["inspect", "d", "--vocab"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["id", "count", "share", "token"], ["1", "30", "60.00%", '"a"'],
        ["0", "10", "20.00%", r'"\n"'], ["2", "10", "20.00%", '"b"'],
    ]  # fmt: skip
    made(here / "bytes", here / "a.txt", tokenizer="byte")
    assert cli.main(["inspect", "bytes", "--vocab", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["vocab"]
    assert (len(rows), rows[-1]["count"]) == (257, 0)
    assert "is not a dataset" in refused("inspect", str(here), "--vocab", code=2)
