"""`bardlet eval --task` and `--suite`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest import CaptureFixture, MonkeyPatch
from support import RUN, Refused

from bardlet import cli
from bardlet.commands import eval_tasks

TASK = '{"context": "to be", "choices": ["or not", "that is"], "answer": 0}\n'


@pytest.fixture
def task(sent: Path) -> str:
    Path("mine.jsonl").write_text(TASK * 3, encoding="utf-8")
    return "mine.jsonl"


def test_scores_are_printed_and_examples_written(task: str, capsys: CaptureFixture[str]) -> None:
    Path("cloze.jsonl").write_text('{"text": "to be or not"}\n', encoding="utf-8")
    args = ["eval", str(RUN), "--task", task, "--task=cloze.jsonl", "--examples=e.jsonl"]
    assert cli.main(args) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("mine: acc ") and first.endswith("over 3 examples")
    assert second.startswith("cloze: acc ") and ", perplexity " in second
    rows = [json.loads(line) for line in Path("e.jsonl").read_text("utf-8").splitlines()]
    assert [(row["task"], row["line"]) for row in rows] == [
        ("mine", 1), ("mine", 2), ("mine", 3), ("cloze", 1),
    ]  # fmt: skip
    assert cli.main([*args[:-1], "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["tasks"]
    acc = sum(row["acc"] for row in rows[:3]) / 3
    assert scores[0]["acc"] == acc and scores[0]["acc_stderr"] == 0
    assert scores[1]["examples"] == 1 and scores[1]["acc_stderr"] is None


def test_a_suite_is_a_table(sent: Path, capsys: CaptureFixture[str]) -> None:
    Path("files/blimp").mkdir(parents=True)
    pair = '{"sentence_good": "to be or not", "sentence_bad": "be to or not"}\n'
    Path("files/blimp/order.jsonl").write_text(pair * 2, encoding="utf-8")
    args = ["eval", str(RUN), "--suite=babylm", "--suite_files=files"]
    assert cli.main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("order  ") and lines[0].endswith(", over 2")
    assert lines[1].startswith("babylm: blimp ") and "arXiv:1912.00582" in lines[-1]
    assert cli.main([*args, "--json"]) == 0
    suite = json.loads(capsys.readouterr().out)["suites"][0]
    assert suite["scores"]["blimp"] == suite["tasks"][0]["accuracy"]


def test_what_cannot_be_is_refused_before_the_work(task: str, refused: Refused) -> None:
    for args, words in (
        (["--task=none.jsonl"], "cannot read none.jsonl"),
        (["--task=-", "--task=-"], "there is one standard input"),
        (["--task", task, "--batch_size=0"], "batch_size=0"),
        (["--suite=core", "--max_examples=-1"], "max_examples=-1"),
        (["--task", task, "--examples=no/e.jsonl"], "--examples=no/e.jsonl is not a file"),
        (["--task", task, "--examples=data"], "--examples=data is not a file"),
        (["--suite=core", "--suite_files=none"], "none is not a folder"),
        (["--suite=cora"], "invalid choice"),
    ):
        assert words in refused("eval", str(RUN), *args)


def test_a_bar_has_one_line_at_a_time(monkeypatch: MonkeyPatch) -> None:
    """rich shows one bar at a time, and a suite has many tasks."""

    class Bar:
        def __init__(self, *columns: str) -> None:
            self.task_ids: list[int] = []
            self.advanced: list[tuple[int, int]] = []

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: Any) -> None:
            pass

        def add_task(self, name: str, total: int | None) -> int:
            assert not self.task_ids
            self.task_ids.append(len(self.advanced))
            return self.task_ids[0]

        def remove_task(self, task: int) -> None:
            self.task_ids = [one for one in self.task_ids if one != task]

        def advance(self, task: int, count: int) -> None:
            self.advanced.append((task, count))

    bar = Bar()
    monkeypatch.setattr(eval_tasks, "live_bar", lambda *columns: bar)
    with eval_tasks.progress() as begin:
        begin("a", 3)(2)
        begin("b", None)(5)
    assert bar.advanced == [(0, 2), (1, 5)]


def test_what_has_no_effect_is_said(task: str, capsys: CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(RUN), "--task", task, "--split=train", "--max_examples=2"]) == 0
    said = capsys.readouterr().err
    assert "--split has no effect here" in said and "--max_examples has no effect here" in said
