"""When a run saves, and what it does where the disk does not take it."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import assert_same_end, in_child, metrics, tiny_config

from bardlet.config import TrainConfig
from bardlet.data.dataset.loader import Prefetcher
from bardlet.errors import CheckpointError, TrainingError
from bardlet.run import lock, run_folder
from bardlet.train import train
from bardlet.training import saver

Before = Callable[[int, Callable[[], object]], None]


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Before:
    """Lets something happen while iteration `it` fetches its batch."""

    def arrange(it: int, happen: Callable[[], object]) -> None:
        fetch = Prefetcher.batch

        def batch(self: Any, asked: int) -> Any:
            if asked == it:
                happen()
            return fetch(self, asked)

        monkeypatch.setattr(Prefetcher, "batch", batch)

    return arrange


@pytest.fixture
def limit_files(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the disk be full from a moment on: half of a file's bytes are written, and no more."""

    def fail(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr(saver.checkpoint, "save_file", fail)


def kept(config: TrainConfig) -> list[int]:
    return [run_folder.iter_of(folder) for folder in run_folder.checkpoints(Path(config.out_dir))]


def events(config: TrainConfig) -> list[str]:
    return [entry["event"] for entry in metrics(config, "event")]


def test_saves_by_iterations_and_keeps_the_newest(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", save_interval=3, eval_interval=100, max_iters=11,
        keep_checkpoints=3,
    )  # fmt: skip
    train(config)
    assert kept(config) == [6, 9, 11]
    assert run_folder.read_pointer(tmp_path / "run", "last") == run_folder.newest(tmp_path / "run")


def test_saves_by_minutes(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Before
) -> None:
    clock = [0.0]
    monkeypatch.setattr(saver.time, "monotonic", lambda: clock[0])

    def minutes_pass() -> None:
        clock[0] += 2.5 * 60

    config = tiny_config(
        dataset_folder, tmp_path / "run", eval_interval=100, max_iters=7, keep_checkpoints=9,
        save_minutes=2,
    )  # fmt: skip
    before(3, minutes_pass)
    train(config)
    assert kept(config) == [4, 7]
    train(tiny_config(dataset_folder, tmp_path / "run2", eval_interval=100, save_minutes=0))
    assert kept(tiny_config(dataset_folder, tmp_path / "run2")) == [8]


@pytest.mark.parametrize("how", ["limit", "free"])
def test_a_full_disk_costs_checkpoints_and_not_the_run(
    how: str, dataset_folder: Path, tmp_path: Path, before: Before,
    limit_files: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = tiny_config(dataset_folder, tmp_path / "whole", save_interval=2)
    train(whole)
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=2)
    full = {
        "limit": limit_files,
        "free": lambda: monkeypatch.setattr(saver, "free_bytes", lambda path: 1000.0),
    }
    before(4, full[how])
    capsys.readouterr()
    with pytest.raises(TrainingError, match=r"MB are needed; .*run keeps iter-00000004"):
        train(config)  # to its end, where the last save must not fail
    said = capsys.readouterr().out
    assert "Training goes on" in said
    assert "iter 7: " in said, "it trained to the end"
    assert "disk" in events(config)
    assert kept(config)[-1] == 4 and not list((tmp_path / "run/checkpoints").glob(".*"))
    monkeypatch.undo()
    train(config)
    assert_same_end(whole, config)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a process of its own")
def test_a_file_that_the_system_refuses(
    dataset_folder: Path, tmp_path: Path, before: Before
) -> None:
    whole = tiny_config(dataset_folder, tmp_path / "whole", save_interval=2)
    train(whole)
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=2)

    def starved() -> None:
        before(4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
        train(config)

    assert in_child(starved) == 1, "the last save must not fail"
    assert kept(config)[-1] == 4 and not list((tmp_path / "run/checkpoints").glob(".*"))
    train(config)
    assert_same_end(whole, config)


def test_a_full_disk_stops_the_run_where_that_is_asked_for(
    dataset_folder: Path, tmp_path: Path, before: Before, limit_files: Callable[[], None]
) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", save_interval=1, save_failure="stop", max_iters=50
    )  # fmt: skip
    before(3, limit_files)
    with pytest.raises(TrainingError, match="keeps iter-00000003"):
        train(config)
    assert metrics(config)[-1]["iter"] < 10


def test_too_little_room_is_said_before_the_run(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", keep_checkpoints=3)
    monkeypatch.setattr(saver, "free_bytes", lambda path: 5e6)
    with pytest.raises(
        TrainingError, match=r"run needs \d+ MB for 5 checkpoints, and 5 MB are free"
    ):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_slow_disk_does_not_hold_up_training(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Before
) -> None:
    """A disk that takes until iteration 7 comes for what was saved after 4."""
    finish = saver.checkpoint.finish
    came = threading.Event()
    done: list[tuple[str, bool]] = []

    def slowly(folder: Path) -> None:
        done.append((folder.name, came.wait(60)))
        finish(folder)

    before(7, came.set)
    monkeypatch.setattr(saver.checkpoint, "finish", slowly)
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=4, eval_interval=100)
    train(config)
    assert done == [("iter-00000004", True), ("iter-00000008", True)]


def test_one_process_at_a_time(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run")
    with (
        lock.held(tmp_path / "run"),
        pytest.raises(CheckpointError, match="another process"),
    ):
        train(config)
    assert train(config).iter == 8
    # nothing stays of a folder in which nothing came about
    with lock.held(tmp_path / "other"):
        assert (tmp_path / "other/.lock").exists()
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_that_cannot_be_removed_ends_no_run(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(run: Path, keep: int) -> None:
        raise PermissionError(13, "Permission denied", str(run))

    monkeypatch.setattr(saver.run_folder, "prune", fail)
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=2, max_iters=6)
    assert train(config).iter == 6
    assert kept(config) == [2, 4, 6]
    assert (
        "cannot remove an old checkpoint: [Errno 13] Permission denied" in capsys.readouterr().out
    )


def test_the_failure_of_a_save_that_nothing_follows_is_told(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Before,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It is under way while the run ends by an error of its own."""

    def fail(folder: Path) -> None:
        raise CheckpointError(f"cannot save {folder.name}: no room")

    def stop() -> None:
        raise TrainingError("the run ends here")

    monkeypatch.setattr(saver.checkpoint, "finish", fail)
    before(4, stop)
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=4, eval_interval=100)
    with pytest.raises(TrainingError, match="the run ends here"):
        train(config)
    assert "warning: cannot save iter-00000004: no room" in capsys.readouterr().out
