"""batch_size=auto: what is tried, what is chosen, and that a run then is one with plain numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import as_ranks, tiny_config

from bardlet.commands import settings
from bardlet.config import Auto, TrainConfig, resolve, to_toml
from bardlet.errors import TrainingError, UsageError
from bardlet.run import run_folder
from bardlet.system import memory
from bardlet.train import train
from bardlet.training import auto_batch, trial_process
from bardlet.training.auto_batch import Measurement, fastest, sizes
from bardlet.training.trial_process import TrialProcess


def written(out: Path) -> dict[str, Any]:
    return tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for line in lines if (entry := json.loads(line))["type"] == "iter"]


# --- the option


def test_auto_keeps_the_number_below_it() -> None:
    preset: tuple[str, dict[str, object]] = ("preset", {"batch_size": 16})
    auto: tuple[str, dict[str, object]] = ("command line", {"batch_size": "auto"})
    config = resolve([preset, auto])
    assert isinstance(config.batch_size, Auto) and config.batch_size == 16
    assert resolve([auto]).batch_size == TrainConfig.batch_size, "the default"
    again = resolve([preset, auto, ("later", {"batch_size": "8"})]).batch_size
    assert again == 8 and not isinstance(again, Auto)
    assert isinstance(resolve([preset, auto, auto]).batch_size, Auto)
    assert "batch_size = 16\n" in to_toml(config), "a file has plain numbers"
    with pytest.raises(UsageError, match="batch_size=fast is not an integer"):
        resolve([("command line", {"batch_size": "fast"})])


def test_auto_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('batch_size = "auto"\n', encoding="utf-8")
    bases = ["demo", str(tmp_path / "run.toml")]
    config = settings.resolve_settings(bases, {"device": "cpu"}, lambda line: None)
    assert isinstance(config.batch_size, Auto) and config.batch_size == 16


# --- the choice


@pytest.mark.parametrize(
    ("sequences", "most", "asked", "expected"),
    [
        (16, 16, 16, [1, 2, 4, 8, 16]),
        (480, 480, 12, [1, 2, 4, 8, 12, 24, 48, 96, 240, 480]),
        (480, 60, 12, [1, 2, 4, 8, 12, 24, 48]),  # the share of one of eight processes
        (7, 7, 7, [1, 7]),
        (1, 1, 1, [1]),
    ],
)
def test_sizes_divide_the_sequences(
    sequences: int, most: int, asked: int, expected: list[int]
) -> None:
    assert sizes(sequences, most, asked) == expected
    assert all(sequences % size == 0 for size in expected)


def made(*times: tuple[int, float, float]) -> list[Measurement]:
    return [
        Measurement(size=n, first_s=first, more_s=more, peak_bytes=0) for n, first, more in times
    ]


def test_the_fastest_is_chosen() -> None:
    one, four, sixteen = made((1, 0.2, 0.1), (4, 0.3, 0.2), (16, 1.2, 0.0))
    assert [t.iteration_s(16) for t in (one, four, sixteen)] == pytest.approx([1.7, 0.9, 1.2])
    assert four.iteration_s(17) == pytest.approx(1.1), "a rest is one more"
    assert fastest([one, four, sixteen], 16) == 4
    assert fastest(made((4, 1.00, 0.0), (8, 1.02, 0.0), (16, 1.1, 0.0)), 16) == 8


class Answers:
    """A TrialProcess with made-up results: bytes and seconds of so many sequences at once.

    Trials whose number is in `busy` take ten times as long.
    """

    def __init__(
        self, seconds: Callable[[int], float], available: int, busy: Container[int] = ()
    ) -> None:
        self.seconds, self.available, self.busy = seconds, available, busy
        self.asked = list[int]()

    def iterations(self, size: int, steps: int, seconds: float, **changes: Any) -> dict[str, Any]:
        self.asked.append(size)
        if 100 * size > self.available:
            return {"failed": "memory", "hint": ""}
        slow = 10 if len(self.asked) - 1 in self.busy else 1
        return {
            "iter_s": slow * (0.1 + steps * self.seconds(size)), "peak_bytes": 100 * size,
            "available_bytes": self.available,
        }  # fmt: skip


def tried(answers: Answers) -> list[int]:
    found = auto_batch.measure_sizes(answers, [1, 2, 4, 8, 16, 32], 32)
    return [attempt.size for attempt in found]


def test_what_is_tried() -> None:
    assert tried(Answers(lambda n: 0.01 * n**0.5, 10**6)) == [1, 2, 4, 8, 16, 32]
    assert tried(Answers(lambda n: 0.01 * n**0.5, 1000)) == [1, 2, 4, 8], "16 fails"
    assert tried(Answers(lambda n: 0.01 * n**0.5, 850)) == [1, 2, 4], "8 leaves no margin"
    slower = Answers(lambda n: 0.01 * n**1.5, 10**6)
    assert tried(slower) == [1, 2, 4, 8, 16], "three that are far slower end it"
    long = Answers(lambda n: 3.0 * n, 10**6)
    assert tried(long) == [1, 2, 4], "and what takes longer than ten seconds"


def quick(n: int) -> float:
    return 0.004 + 0.0001 * n  # larger is faster, up to the largest


@pytest.mark.parametrize("busy", [{2}, {3}, {2, 3}, {4, 5}, {0}, {1}, {6, 7, 8}], ids=str)
def test_a_slower_trial_does_not_end_the_search(busy: set[int]) -> None:
    """Once in a while a trial of a busy machine takes many times as long."""
    answers = Answers(quick, 10**6, busy)
    sizes = [1, 2, 4, 8, 16, 32, 64, 128]
    measured = list(auto_batch.measure_sizes(answers, sizes, 128))
    assert [m.size for m in measured] == sizes
    assert fastest(measured, 128) == 128


def test_a_second_micro_batch_that_seems_free_is_no_bargain() -> None:
    """The first trial was slow, by chance: then one of two takes no longer than one of one."""
    measured = list(auto_batch.measure_sizes(Answers(quick, 10**6, {0}), [1, 128], 128))
    assert measured[0].iteration_s(128) > measured[1].iteration_s(128)


# --- in a run


AUTO = {"batch_size": "auto", "gradient_accumulation_steps": 3, "max_iters": 4}


def no_trials(*args: object, **kwargs: object) -> None:
    raise AssertionError("nothing is to be tried here")


@pytest.fixture
def config(dataset_folder: Path, tmp_path: Path) -> TrainConfig:
    return tiny_config(dataset_folder, tmp_path / "auto", **AUTO)  # 12 x 3 sequences


def test_a_run_gets_numbers_and_keeps_them(
    config: TrainConfig, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(auto_batch, "SECONDS", 0.01)
    train(dataclasses.replace(config, max_iters=2, lr_decay_iters=4))
    out = Path(config.out_dir)
    assert "batch_size=auto: " in capsys.readouterr().err
    have = written(out)
    size, steps = have["batch_size"], have["gradient_accumulation_steps"]
    assert size * steps == 36
    assert [p.name for p in out.iterdir() if p.name.startswith(".trial")] == []

    # the same option goes on with them, and tries nothing
    monkeypatch.setattr(auto_batch, "TrialProcess", no_trials)
    train(dataclasses.replace(config, lr_decay_iters=4, init_from="resume"))
    assert f"batch_size=auto: {size} at once, as the run had it" in capsys.readouterr().err
    after = written(out)
    assert (after["batch_size"], after["gradient_accumulation_steps"]) == (size, steps)

    # and it was the run that these numbers make
    options = {**AUTO, "batch_size": size, "gradient_accumulation_steps": steps}
    plain = tiny_config(dataset_folder, tmp_path / "plain", **options, lr_decay_iters=4)
    train(plain)
    assert losses(tmp_path / "plain") == losses(out)


@pytest.mark.parametrize(
    ("change", "trials"), [({}, 0), ({"n_layer": 1}, 1), ({"fresh": True}, 1)], ids=str
)
def test_a_run_killed_before_its_first_checkpoint_keeps_its_size(
    change: dict[str, Any], trials: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.toml has it, for a run with the same options."""
    choices = []

    def chosen(*how: object) -> Iterator[Measurement]:
        choices.append(how)
        yield Measurement(size=9, first_s=1.0, more_s=0.0, peak_bytes=0)

    monkeypatch.setattr(auto_batch, "TrialProcess", lambda *how: contextlib.nullcontext())
    monkeypatch.setattr(auto_batch, "measure_sizes", chosen)
    train(config)
    out = Path(config.out_dir)
    assert len(choices) == 1 and written(out)["batch_size"] == 9
    for folder in run_folder.checkpoints(out):
        run_folder.remove(folder)
    train(dataclasses.replace(config, **change))
    assert len(choices) == 1 + trials
    assert written(out)["batch_size"] == 9


@pytest.mark.parametrize(
    "text", ["", "batch_size = [", "batch_size = 'x'", "[a]\nb = 1", "\0"], ids=repr
)
def test_a_damaged_file_of_options_is_as_none(text: str, config: TrainConfig) -> None:
    Path(config.out_dir).mkdir()
    (Path(config.out_dir) / "config.toml").write_text(text, encoding="utf-8")
    assert auto_batch.options_of_killed(config) is None


def test_evaluating_only_tries_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_batch, "TrialProcess", no_trials)
    train(dataclasses.replace(config, eval_only=True))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes of trials, of which each sleeps and answers nothing."""
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def sleeps(command: list[str], **options: Any) -> subprocess.Popen[str]:
        started.append(popen([command[0], "-c", "import time; time.sleep(60)"], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", sleeps)
    return started


def ended_without_a_trace(processes: list[subprocess.Popen[str]], folder: Path) -> bool:
    return [p.poll() is not None for p in processes] == [True] and not [*folder.glob(".trial*")]


def test_a_trial_that_does_not_start_leaves_no_process(
    config: TrainConfig, tmp_path: Path, silent: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refused(self: TrialProcess, **request: Any) -> None:
        raise TrainingError("refused")

    monkeypatch.setattr(TrialProcess, "ask", refused)
    with pytest.raises(TrainingError, match="refused"), TrialProcess(config, vocab_size=50):
        pass
    assert ended_without_a_trace(silent, tmp_path)


def test_a_trial_that_does_not_answer_is_ended(
    config: TrainConfig, tmp_path: Path, silent: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(trial_process, "ANSWER_S", 0.1)
    with (
        pytest.raises(TrainingError, match=r"a trial of the run did not answer within 0\.3 s"),
        TrialProcess(config) as trials,
    ):
        trials.iterations(1, 1, 0.2)
    assert ended_without_a_trace(silent, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_what_does_not_fit_is_not_taken(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """128 sequences at once take over 1 GB, of which there are 700 MB: they are run in parts."""
    monkeypatch.setenv("BARDLET_CORE", "0")
    monkeypatch.setattr(auto_batch, "SECONDS", 0.01)
    config = tiny_config(
        dataset_folder, tmp_path / "run", batch_size=128, block_size=128, vocab_size=4096,
        max_iters=1, eval_iters=1,
    )  # fmt: skip
    auto = resolve([("test", dataclasses.asdict(config)), ("", {"batch_size": "auto"})])
    with monkeypatch.context() as small:
        small.setattr(memory, "available", lambda: 700e6)
        train(auto)
    have = written(tmp_path / "run")
    assert have["batch_size"] * have["gradient_accumulation_steps"] == 128
    tries = re.findall(r"(\d+): [\d.]+ ms", capsys.readouterr().err)
    assert "1" in tries and "128" not in tries and str(have["batch_size"]) in tries


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_take_the_same(dataset_folder: Path, tmp_path: Path) -> None:
    """Two processes train as one does with the numbers that the first of them found."""
    few = {**AUTO, "batch_size": 4, "gradient_accumulation_steps": 1}  # two for each process
    below = dataclasses.asdict(tiny_config(dataset_folder, tmp_path / "many", **few))
    config = resolve([("test", below), ("", {"batch_size": "auto"})])

    def work() -> None:
        with (
            (tmp_path / f"said-{os.environ['RANK']}").open("w", encoding="utf-8") as said,
            contextlib.redirect_stderr(said),
        ):
            train(config)

    as_ranks(2, work)
    said = "".join((tmp_path / f"said-{rank}").read_text(encoding="utf-8") for rank in (0, 1))
    assert said.count("batch_size=auto: ") == 1
    have = written(tmp_path / "many")
    size, steps = have["batch_size"], have["gradient_accumulation_steps"]
    assert size * steps == 4 and size <= 2
    options = {**AUTO, "batch_size": size, "gradient_accumulation_steps": steps}
    train(tiny_config(dataset_folder, tmp_path / "one", **options))
    # equal but for the order of float32 sums, which Muon magnifies
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
