"""Ten minutes more: a finished run that is given more iterations goes on, and says at what rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import judged, metrics, stop_after, tiny_config

from bardlet import cli
from bardlet.analysis import history
from bardlet.config import TrainConfig
from bardlet.errors import UsageError
from bardlet.planning import pace
from bardlet.run import run_folder
from bardlet.train import train
from bardlet.training.extension import schedule
from bardlet.training.schedule import learning_rate

Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run `bardlet train` with these options, which exits with `code`, and return what it says."""

    def command(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(["train", *args]) == code
        return "".join(capsys.readouterr())

    return command


@pytest.fixture
def run(dataset_folder: Path, tmp_path: Path) -> TrainConfig:
    """A run of 8 iterations that is finished."""
    config = tiny_config(dataset_folder, tmp_path / "run")
    train(config)
    return config


def rates(config: TrainConfig) -> list[float]:
    return [line["lr"] for line in metrics(config)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "the learning rate restarts at 0.00411 (it was 0.0016) and falls to 0.00122"),
        (["--lr_decay_iters=8"], "the learning rate stays at 0.001; --lr_decay_iters=12 restarts"),
        (["--decay_lr=false"], "the learning rate stays at 0.01"),
    ],
)
def test_more_iterations_extend_a_finished_run(
    options: list[str], words: str, run: TrainConfig, said: Said
) -> None:
    err = said("--resume", f"--out_dir={run.out_dir}", "--max_iters=12", *options)
    assert f"8 iterations become 12: {words}" in err
    assert len(metrics(run)) == 12
    newest = run_folder.newest(Path(run.out_dir))
    assert run_folder.finished(newest) and run_folder.iter_of(newest) == 12


def test_the_rate_that_is_said_is_the_rate(run: TrainConfig, said: Said) -> None:
    said("--resume", f"--out_dir={run.out_dir}", "--max_iters=12")
    longer = dataclasses.replace(run, max_iters=12)
    assert rates(run)[8:] == [learning_rate(longer, it) for it in range(8, 12)]


@pytest.mark.parametrize("options", [[], ["--max_iters=8"], ["--max_iters=5"]])
def test_a_finished_run_says_why_nothing_is_trained(
    options: list[str], run: TrainConfig, said: Said
) -> None:
    err = said("--resume", f"--out_dir={run.out_dir}", *options)
    assert "has done 8 iterations, max_iters=" in err and "nothing is left to train" in err
    assert "--resume --max_iters=MORE or --budget=TIME" in err
    assert len(metrics(run)) == 8


def test_a_last_evaluation_that_is_missing_is_made(run: TrainConfig, said: Said) -> None:
    newest = run_folder.newest(Path(run.out_dir))
    (newest / run_folder.EVAL).unlink()
    err = said("--resume", f"--out_dir={run.out_dir}")
    assert "nothing is left to train" not in err
    assert run_folder.finished(newest)


def test_a_rate_of_zero_is_refused_with_the_command(
    dataset_folder: Path, tmp_path: Path, said: Said
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", lr_decay_iters=8, min_lr=0.0)
    train(config)
    args = ["--resume", f"--out_dir={config.out_dir}", "--max_iters=12"]
    last = said(*args, code=2).splitlines()[-1]
    assert "the learning rate is 0 from iteration 8 on" in last
    assert last.endswith("--max_iters=12 --lr_decay_iters=12")
    said(*args, "--lr_decay_iters=12")
    assert len(metrics(config)) == 12


def test_after_early_stopping_more_iterations_train_on(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", max_iters=40, eval_interval=2, patience=2
    )
    with monkeypatch.context() as worse:
        judged([2.0, 2.1, 2.2], worse)
        assert train(config).iter == 6
    args = ["--resume", f"--out_dir={config.out_dir}"]
    err = said(*args)
    assert "stopped early after 6 iterations: no progress in 2 evaluations (patience=2)" in err
    assert "--resume --patience=0, or --max_iters above 40" in err
    with monkeypatch.context() as worse:
        judged([2.1, 2.2], worse)
        err = said(*args, "--max_iters=400")
    assert "it had stopped early, with no progress in 2 evaluations (patience=2)" in err
    assert "40 iterations become 400: the learning rate restarts" in err
    assert len(metrics(config)) == 10, "two more evaluations without progress"
    with monkeypatch.context() as worse:
        judged([2.1] * 3, worse)
        said(*args, "--max_iters=16", "--patience=0")
    assert len(metrics(config)) == 16


def slow(read: Callable[[Path], history.History]) -> Callable[[Path], history.History]:
    """What a run has left, as if each of its iterations had taken 300 ms."""

    def reading(path: Path) -> history.History:
        past = read(path)
        return dataclasses.replace(past, iters=[{**line, "time_ms": 300.0} for line in past.iters])

    return reading


def test_ten_minutes_more(run: TrainConfig, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that its iterations took, a tenth left for evaluation and the like."""
    path = Path(run.out_dir) / "metrics.jsonl"
    monkeypatch.setattr(history, "read", slow(history.read))
    monkeypatch.setattr(pace, "EARLY", 100.0)  # which would adjust it to what they take here
    err = said("--resume", f"--out_dir={run.out_dir}", "--budget=2s")
    assert "6 iterations more, to 14: about 2 s at 300.0 ms each" in err
    assert "8 iterations become 14: the learning rate restarts at" in err
    assert len(metrics(run)) == 14
    options = Path(run.out_dir) / "config.toml"
    err = said(str(options), "--resume", "--budget=2s", "--max_minutes=1", code=2)
    assert "unknown option max_minutes" in err
    assert "6 iterations more, to 20" in said(str(options), "--resume", "--budget=2s")
    err = said("--resume", "--budget=2s", f"--out_dir={run.out_dir}", "--checkpoint=iter-16")
    assert "6 iterations more, to 22" in err and len(metrics(run)) == 22
    monkeypatch.chdir(Path(run.out_dir).parents[0])
    args = ["--resume", f"--out_dir={run.out_dir}", "--budget=2s"]
    assert "Give one of them" in said(*args, "--max_iters=20", code=2)
    path.write_text("")
    assert "does not say how long its iterations take" in said(*args, code=2)
    assert "no run to resume at none" in said("--resume", "--out_dir=none", "--budget=2s", code=2)


def test_a_budget_that_has_no_effect_is_said(
    dataset_folder: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run")
    with monkeypatch.context() as stopping:
        stop_after(5, stopping)
        assert train(config).stopped
    err = said(f"--out_dir={config.out_dir}", "--budget=2m")
    assert "budget=2m has no effect on the run in" in err and "--resume --budget=2m" in err
    assert len(metrics(config)) == 8


@pytest.mark.parametrize(
    ("options", "planned", "it", "words"),
    [
        ({"max_iters": 100}, 50, 20, "restarts at 0.00927 (it was 0.00749) and falls to 0.001"),
        ({"max_iters": 50}, 100, 20, "goes on from 0.007"),
        ({"max_iters": 100, "schedule": "trapezoid"}, 50, 20, "goes on from 0.01 to 0.00118"),
    ],
)
def test_a_run_that_was_not_at_its_end(
    options: dict[str, Any], planned: int, it: int, words: str, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path, tmp_path, **options)
    assert words in schedule(config, it, planned)


def test_zero_is_an_error_of_the_schedule(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, max_iters=30, lr_decay_iters=20, min_lr=0.0)
    with pytest.raises(UsageError, match="going on trains nothing"):
        schedule(config, 25, 20)
