"""The log: what goes to metrics.jsonl, what a resumed run keeps of it, and the optional tracker."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import tiny_config

from bardlet.training.log import Log
from bardlet.training.metrics_lines import lines_until

STEP = {
    "loss": 1.5, "seconds": 0.1, "waiting": 0.002, "flops": 1e9, "peak_flops": 1e11, "lr": 1e-3,
    "grad_norm": 0.5, "tokens": 100, "tokens_seen": 200,
}  # fmt: skip


def log(out: Path, **options: object) -> Log:
    out.mkdir(exist_ok=True)
    return Log(tiny_config(out, out, **options), main=True)


def test_an_iteration_is_one_line_on_the_console_and_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = log(tmp_path)
    writer.iteration(7, **STEP)
    writer.close()
    assert capsys.readouterr().out == (
        "iter 7: loss 1.5000, time 100.00ms, mfu 10.00%, lr 1.000e-03, grad norm 0.500, "
        "1,000 tok/s\n"
    )
    assert json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8")) == {
        "type": "iter", "iter": 7, "loss": 1.5, "lr": 1e-3, "grad_norm": 0.5, "time_ms": 100.0,
        "data_ms": 2.0, "mfu": 0.1, "tokens_per_s": 1000.0, "tokens": 200,
    }  # fmt: skip


def test_an_unknown_peak_is_said_to_be_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = log(tmp_path)
    writer.iteration(0, **{**STEP, "peak_flops": 0.0, "grad_norm": math.nan})
    writer.close()
    assert "mfu unknown" in capsys.readouterr().out
    entry = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"))
    assert entry["mfu"] is None and entry["grad_norm"] is None


def test_a_resumed_run_keeps_what_it_will_not_do_again(tmp_path: Path) -> None:
    kinds = [("eval", 0), ("iter", 0), ("iter", 1), ("eval", 2), ("iter", 2)]
    entries = [{"type": kind, "iter": it} for kind, it in kinds]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(e) + "\n" for e in entries) + '{"type": "it', "utf-8")
    assert [json.loads(line) for line in lines_until(path, 2)] == entries[:4]
    assert [json.loads(line) for line in lines_until(path, 1)] == entries[:2]
    assert lines_until(tmp_path / "none", 5) == []


def test_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = Log(tiny_config(tmp_path, tmp_path), main=False)
    writer.say("hello")
    writer.iteration(0, **STEP)
    writer.close()
    assert capsys.readouterr() == ("", "") and not (tmp_path / "metrics.jsonl").exists()


def test_lines_go_on_after_an_error_of_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a line got through before it; said once, and the tracker loses nothing."""
    writer = log(tmp_path)
    logged: list[int] = []
    writer.tracker = SimpleNamespace(
        log=lambda values, step: logged.append(step), finish=lambda: None
    )
    file = writer.file
    assert file is not None

    def full(data: bytes) -> int:
        return file.write(data[:5]) if b'"iter": 1,' in data else fail()

    def fail() -> int:
        raise OSError(28, "No space left on device")

    writer.record(type="iter", iter=0, loss=3.0)
    writer.file = SimpleNamespace(write=full, name="metrics.jsonl", close=file.close)  # pyright: ignore
    writer.record(type="iter", iter=1, loss=2.0)
    writer.record(type="iter", iter=2, loss=2.0)
    writer.file = file
    writer.record(type="iter", iter=3, loss=1.0)
    writer.close()
    assert capsys.readouterr().out.count("No space left on device; lines are lost until") == 1
    kept = [json.loads(line)["iter"] for line in lines_until(tmp_path / "metrics.jsonl", 9)]
    assert kept == [0, 3] and logged == [0, 1, 2, 3]


def a_terminal(stream: Any, monkeypatch: pytest.MonkeyPatch, *, columns: int = 80) -> None:
    """Let a standard stream say that it is a terminal of so many columns."""
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(("terminal", "place"), [(True, "err"), (False, "out")])
def test_lines_go_to_stdout_where_that_is_no_terminal(
    terminal: bool, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if terminal:
        a_terminal(sys.stdout, monkeypatch)
    with contextlib.closing(log(tmp_path)) as writer:
        writer.iteration(3, **STEP)
    printed = capsys.readouterr()._asdict()
    assert printed.pop(place).startswith("iter 3: loss ")
    assert list(printed.values()) == [""]


@pytest.mark.parametrize(
    ("columns", "last"),
    [(200, "1,000 tok/s"), (80, "norm 0.500"), (40, "time 100.00ms"), (10, "loss 1.5000")],
)
def test_a_narrow_terminal_gets_shorter_lines(
    columns: int, last: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for stream in (sys.stdout, sys.stderr):
        a_terminal(stream, monkeypatch, columns=columns)
    writer = log(tmp_path)
    writer.start_progress(0)
    writer.iteration(3, **STEP)
    writer.close()
    line = next(line for line in capsys.readouterr().err.splitlines() if "iter 3: " in line)
    line = line[line.index("iter 3: ") :]
    assert line.startswith("iter 3: loss 1.5000") and line.endswith(last)


def test_a_log_whose_reader_leaves_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    with contextlib.closing(log(tmp_path)) as writer:
        writer.say("one")
        writer.say("two")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: standard output: Broken pipe; the log goes on here", "one", "two"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stopped_run_names_the_command_that_goes_on(
    processes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "my run"
    with contextlib.closing(log(run)) as writer:
        writer.stopped(7, processes)
    command = capsys.readouterr().out.rstrip().split("; go on with: ")[1]
    launch = ["torchrun", "--nproc_per_node=2", "-m"] if processes == 2 else []
    wanted = [*launch, "bardlet", "train", "--resume", f"--out_dir={run}"]
    assert shlex.split(command) == wanted
