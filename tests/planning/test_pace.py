"""A sized run keeps to its time on a machine that is slower, or faster, than it was measured."""

from __future__ import annotations

import dataclasses
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pytest import CaptureFixture, MonkeyPatch
from support import silent, some_text, tiny_config

from bardlet import cli
from bardlet.planning import sizing, speed
from bardlet.planning.pace import Pace
from bardlet.planning.sizing import Speed


def asked(each: float, *, budget_s: float = 100, worth: int = 10**6, planned: int = 900) -> Any:
    """What a pace makes of iterations that take `each` seconds, and after how many of them."""
    pace = Pace(budget_s=budget_s, max_iters=worth, say=silent)
    config = tiny_config(Path("d"), Path("o"), max_iters=planned, eval_interval=planned // 3)
    changed = None
    for it in range(1, planned + 1):
        changed = changed or pace(config, it, 5.0 + each * (it - 1))  # the first one warms up
        if pace.decided:
            break
    return changed, it


@pytest.mark.parametrize(
    ("each", "iters"), [(0.3, 233), (0.2, 400), (0.1, None), (0.09, None), (0.05, 1800)]
)
def test_the_iterations_follow_the_measured_speed(each: float, iters: int | None) -> None:
    changed, it = asked(each)
    assert it * each < 12, "early"
    if iters is None:
        assert changed is None
        return
    assert changed.max_iters == pytest.approx(iters, abs=1)
    assert changed.eval_interval == -(-changed.max_iters // 3)
    assert changed.max_iters * each + 10 * each / 0.1 <= 100 * 1.01


def test_a_text_that_is_not_worth_more_is_not_repeated() -> None:
    assert asked(0.01, worth=1000)[0] is None
    assert asked(0.01, worth=1500)[0].max_iters == 1500


def test_a_resumed_run_has_so_much_time_more() -> None:
    """From iteration 500 on: 200 of 0.4 s were planned for 100 s, and take 0.2 s each."""
    pace = Pace(budget_s=100, max_iters=10**6, say=silent, start=500)
    config = tiny_config(Path("d"), Path("o"), max_iters=700, eval_interval=50)
    changes = [pace(config, 500 + n, 5.0 + 0.2 * (n - 1)) for n in range(1, 60)]
    (changed,) = [change for change in changes if change is not None]
    assert changed.max_iters == pytest.approx(500 + 450, abs=1)
    assert changed.eval_interval == 50


def test_each_stage_of_a_chain_has_its_part_of_the_time() -> None:
    """30 s for the first stage, which is not worth more, 70 for the others, which are slow."""
    pace = Pace(budget_s=100, max_iters=300, say=silent, parts=(0.3, 0.7, 0.7))
    teacher = tiny_config(Path("d"), Path("o/1"), max_iters=300, eval_interval=100)
    student = dataclasses.replace(teacher, out_dir="o", max_iters=400)
    last = dataclasses.replace(teacher, out_dir="o/3", max_iters=400)
    changes = [
        [pace(stage, n, 2.0 + each * (n - 1)) for n in range(1, 301)]
        for stage, each in ((teacher, 0.05), (student, 0.2), (last, 9.0))
    ]
    assert changes[0] == [None] * 300
    (changed,) = [change for change in changes[1] if change is not None]
    assert changed.max_iters == pytest.approx(0.7 * 100 * (1 - 0.1 * 80 / 63) / 0.2, abs=1)
    (changed,) = [change for change in changes[2] if change is not None]
    assert changed.max_iters == 0.75 * 300, "fewer would undo what the teacher knows"


def test_it_decides_once() -> None:
    pace = Pace(budget_s=1.0, max_iters=10**6, say=silent)
    config = tiny_config(Path("d"), Path("o"), max_iters=100)
    changed = [pace(config, it, it * 0.1) for it in range(1, 40)]
    assert sum(c is not None for c in changed) == 1


def test_a_slow_machine_ends_in_time(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    """The machine is measured ten times as fast as it is."""
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text(some_text(60_000), encoding="utf-8")
    assert cli.main(["prepare", "words.txt"]) == 0
    with monkeypatch.context() as alone:  # as on a machine that does nothing else
        alone.setattr(speed.time, "perf_counter", time.thread_time)
        measured = speed.measure(sizing.device.choose("cpu", "float32"))
    monkeypatch.setattr(sizing, "measure", lambda machine: Speed(flops=10 * measured.flops))
    capsys.readouterr()
    began = time.process_time()
    command = ["train", "--dataset=words", "--budget=2s", "--device=cpu", "--dtype=float32"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "iterations in place of" in out
    assert time.process_time() - began < 15  # it would be 20
    lines = [json.loads(x) for x in Path("out/words/metrics.jsonl").read_text("utf-8").splitlines()]
    event = next(line for line in lines if line.get("event") == "replanned")
    config = tomllib.loads(Path("out/words/config.toml").read_text(encoding="utf-8"))
    assert config["max_iters"] == event["max_iters"] < lines[0]["max_iters"]
    done = [line["iter"] for line in lines if line["type"] == "eval"][-1]
    assert done == config["max_iters"]
    last = Path("out/words/checkpoints", f"iter-{done:08d}", "state.json")
    assert json.loads(last.read_text("utf-8"))["config"]["max_iters"] == done
    assert cli.main(["train", "--dataset=words"]) == 1  # it is finished
