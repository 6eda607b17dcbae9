"""Trackers: refused before anything is written, one run there for all sessions of a run here.

TensorBoard's files are read by its own reader; trackio and Weights & Biases are stand-ins.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import assert_same_end, metrics, tiny_config

from bardlet import cli
from bardlet.config import to_toml
from bardlet.errors import UsageError
from bardlet.run import run_folder
from bardlet.run.state import Scores
from bardlet.train import train
from bardlet.training import tracker
from bardlet.training.log import Log


class Tracked(list[dict[str, Any]]):
    """What wandb.init was called with; what was logged, as (step, values)."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def init(self, **options: Any) -> Any:
        self.append(options)
        return SimpleNamespace(
            id=options.get("id") or f"id{len(self)}", finish=lambda: None,
            log=lambda values, step: self.logged.append((step, values)),
        )  # fmt: skip


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Tracked:
    tracked = Tracked()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=tracked.init))  # pyright: ignore
    return tracked


def test_every_entry_is_logged(tmp_path: Path, wandb: Tracked) -> None:
    config = tiny_config(
        tmp_path, tmp_path, wandb_log=True, wandb_project="plays", wandb_run_name="first"
    )
    writer = Log(config, main=True, tracker=tracker.start(config, None))
    writer.evaluation(Scores(train_loss=2.0, val_loss=2.5, bits_per_byte=3.0), 4)
    writer.close()
    assert wandb[0]["project"] == "plays" and wandb[0]["name"] == "first"
    assert wandb[0]["config"]["n_layer"] == 2 and "id" not in wandb[0]
    losses = {
        "eval/train_loss": 2.0, "eval/val_loss": 2.5, "eval/bits_per_byte": 3.0,
        "eval/val_batches": 0,
    }  # fmt: skip
    assert wandb.logged == [(4, losses)]


def test_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="wandb_log=True needs the package wandb"):
        tracker.check(tiny_config(tmp_path, tmp_path, wandb_log=True))
    tracker.check(tiny_config(tmp_path, tmp_path))


def test_it_is_installed_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that lacks one of its own is no internal error."""
    (tmp_path / "trackio.py").write_text("import gradio_client_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="trackio=True: trackio cannot be used: No module named"):
        tracker.check(tiny_config(tmp_path, tmp_path, trackio=True))


@pytest.mark.parametrize("error", [RuntimeError("api_key not configured (no-tty)"), OSError()])
def test_without_a_key_nothing_is_written(
    error: Exception, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def init(**options: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))  # pyright: ignore
    out = tmp_path / "run"
    (tmp_path / "a.toml").write_text(to_toml(tiny_config(dataset_folder, out)), encoding="utf-8")
    assert cli.main(["train", str(tmp_path / "a.toml"), "--wandb_log"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    what = str(error) or "OSError"
    assert f"Weights & Biases cannot be used: {what}" in said and "WANDB_MODE=offline" in said
    assert not out.exists()


def test_a_run_of_trackio_is_named_as_the_folder_and_goes_on(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = Tracked()
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=tracked.init))  # pyright: ignore
    config = tiny_config(dataset_folder, tmp_path / "run", trackio=True, max_iters=4)
    train(config)
    train(dataclasses.replace(config, init_from="resume", max_iters=6))
    names = [(options["project"], options["name"], options["resume"]) for options in tracked]
    assert names == [("bardlet", "run", "never"), ("bardlet", "run", "allow")]
    steps = [step for step, values in tracked.logged if "iter/loss" in values]
    assert steps == list(range(6))


def test_tensorboards_reader_sees_each_iteration_once(dataset_folder: Path, tmp_path: Path) -> None:
    """Also where a killed process had logged what the resumed one does again."""
    config = tiny_config(dataset_folder, tmp_path / "run", tensorboard=True, sample_interval=4)

    def write_samples(*args: Any) -> list[tuple[str, str]]:
        return [("to ", "be <b>")]

    train(dataclasses.replace(config, max_iters=4), write_samples=write_samples)
    killed = tracker.start(config, run_folder.read_state(run_folder.newest(tmp_path / "run")))
    assert killed is not None
    killed.log({"iter/loss": 99.0}, 6)
    killed.finish()
    train(dataclasses.replace(config, init_from="resume"), write_samples=write_samples)
    seen = read_events(tmp_path / "run" / "tensorboard")
    scalars = {
        name: [(e.step, e.value) for e in seen.Scalars(name)] for name in seen.Tags()["scalars"]
    }
    for tag, kind, key in (("iter/loss", "iter", "loss"), ("eval/val_loss", "eval", "val_loss")):
        wanted = [(line["iter"], pytest.approx(line[key])) for line in metrics(config, kind)]
        assert scalars[tag] == wanted  # float32 there
    texts = seen.Tensors("samples/0/text_summary")
    assert {e.step for e in texts} == {0, 4, 8}  # this reader purges scalars alone
    assert texts[0].tensor_proto.string_val == [b"    to be <b>"]
    train(dataclasses.replace(config, fresh=True, max_iters=2))
    again = read_events(tmp_path / "run" / "tensorboard").Scalars("iter/loss")
    assert [e.step for e in again] == [0, 1]


def read_events(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protobuf
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return EventAccumulator(str(folder)).Reload()


def test_a_tracker_that_fails_changes_nothing_and_is_named_once(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route to host")

    run = SimpleNamespace(id="a", log=fail, finish=fail)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: run))  # pyright: ignore
    config = tiny_config(dataset_folder, tmp_path / "run", wandb_log=True)
    train(config)
    plain = dataclasses.replace(config, wandb_log=False, out_dir=str(tmp_path / "plain"))
    train(plain)
    assert_same_end(config, plain)
    assert (
        capsys.readouterr().err.count("Weights & Biases: no route to host. Training goes on") == 1
    )


def test_a_resumed_run_goes_on_in_the_same_one(
    dataset_folder: Path, tmp_path: Path, wandb: Tracked
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", wandb_log=True)
    train(dataclasses.replace(config, max_iters=4))
    again = dataclasses.replace(config, init_from="resume")
    train(dataclasses.replace(again, max_iters=6, wandb_log=False))  # which forgets nothing
    train(again)
    assert [options.get("id") for options in wandb] == [None, "id1"]
    assert wandb[1]["resume"] == "allow"
    assert run_folder.read_state(run_folder.newest(tmp_path / "run")).wandb_id == "id1"
    train(dataclasses.replace(config, fresh=True))
    assert "id" not in wandb[2]
