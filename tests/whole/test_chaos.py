"""A run killed anywhere ends as the undisturbed one: weights, optimizer, losses, bit for bit.

Kills come at every call that changes what is on disk, in saving, pruning and logging alike, and at
random moments of a process of its own. `-m slow` runs a hundred of either.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import counted, damage, in_child, some_text, tiny_config

from bardlet.commands.settings import resolve_settings
from bardlet.config import TrainConfig
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import CheckpointError
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import read_json
from bardlet.train import train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

OPTIONS: dict[str, Any] = {
    "max_iters": 9, "eval_interval": 3, "save_interval": 1, "keep_checkpoints": 2, "dropout": 0.1,
    "gradient_accumulation_steps": 2, "lr_decay_iters": 9,
}  # fmt: skip
CHANGES = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")  # os functions


def end_of(out: Path) -> dict[str, Any]:
    """How a run ended: its last state, and what it logged of the mathematics."""
    folder = run_folder.newest(out)
    run_folder.verify(folder)
    state = read_json(folder / "state.json")
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [
        {k: e[k] for k in ("type", "iter", "loss", "grad_norm", "lr", "val_loss") if k in e}
        for e in map(json.loads, lines)
        if e["type"] in ("iter", "eval")
    ]
    best = run_folder.read_pointer(out, "best")
    return {
        "tensors": {
            name: tensor
            for file in ("model", "optimizer")
            for name, tensor in load_file(folder / f"{file}.safetensors").items()
        },
        "logged": logged,
        "state": {k: state.get(k) for k in ("iter", "tokens", "best_val_loss", "guards", "scaler")},
        "scores": run_folder.read_scores(folder),
        "best": best.name if best else None,
        "kept": sorted(p.name for p in (out / "checkpoints").iterdir()),
    }


def assert_same_end(ours: Path, undisturbed: dict[str, Any]) -> None:
    end = end_of(ours)
    tensors, others = end["tensors"], undisturbed["tensors"]
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    for what, value in undisturbed.items():
        assert what == "tensors" or end[what] == value, what


def counting(config: TrainConfig, act: Callable[[int], None]) -> None:
    """Train, calling `act` with a running number before each change of what is on disk."""
    watched = counted(act)
    for name in CHANGES:
        setattr(os, name, watched(getattr(os, name)))
    train(config)


def killed_at(config: TrainConfig, moment: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Train in a process that ends itself before its change number `moment`."""

    def act(count: int) -> None:
        if count == moment:
            os.kill(os.getpid(), number)

    return in_child(lambda: counting(config, act))


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """A dataset, how an undisturbed run on it ends, and how often that changes what is on disk."""

    data: Path
    end: dict[str, Any]
    changes: int

    def config(self, out: Path) -> TrainConfig:
        return tiny_config(self.data, out, **OPTIONS)


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    root = tmp_path_factory.mktemp("chaos")
    prepare(Corpus(name="words", text=some_text(2000), sources=()), root / "data")
    changes = root / "changes"

    def note(count: int) -> None:
        changes.write_text(str(count), encoding="utf-8")

    config = tiny_config(root / "data", root / "whole", **OPTIONS)
    assert in_child(lambda: counting(config, note)) == 0
    count = int(changes.read_text(encoding="utf-8"))
    return Chaos(data=root / "data", end=end_of(root / "whole"), changes=count)


def resumed(config: TrainConfig) -> None:
    """Train again as the same command would, in a process of its own, unless all was done."""
    found = run_folder.checkpoints(Path(config.out_dir))
    if not (found and run_folder.finished(found[-1])):
        assert in_child(lambda: train(config)) == 0


@pytest.fixture(scope="module")
def killed_half_way(chaos: Chaos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run killed in the middle, which tests copy (`half`)."""
    out = tmp_path_factory.mktemp("halves") / "run"
    assert killed_at(chaos.config(out), chaos.changes // 2) == -signal.SIGKILL
    return out


@pytest.fixture
def half(killed_half_way: Path, tmp_path: Path) -> Path:
    """A copy of the run that was killed in the middle."""
    return shutil.copytree(killed_half_way, tmp_path / "run")


def kill_at_changes(chaos: Chaos, folder: Path, times: int) -> None:
    """Runs killed once each, at changes spread over a whole run, and resumed."""
    assert chaos.changes > 200
    for i in range(times):
        config = chaos.config(folder / f"run{i}")
        assert killed_at(config, 1 + (i * 2 + 1) * chaos.changes // (2 * times)) == -signal.SIGKILL
        resumed(config)
        assert_same_end(folder / f"run{i}", chaos.end)


def kill_at_moments(chaos: Chaos, folder: Path, times: int) -> None:
    """Runs killed at random moments, again and again until they are done, `times` in all."""
    chance = random.Random(times)
    began = time.monotonic()
    assert in_child(lambda: train(chaos.config(folder / "timed"))) == 0
    lifetime = time.monotonic() - began
    kills, ended = 0, 0
    while kills < times or not ended:
        config = chaos.config(folder / f"run{ended}")
        if in_child(lambda: train(config), chance.uniform(0, lifetime)) == -signal.SIGKILL:  # noqa: B023
            kills += 1
        else:
            assert_same_end(Path(config.out_dir), chaos.end)
            ended += 1


def test_killed_while_it_saves_prunes_or_logs(chaos: Chaos, tmp_path: Path) -> None:
    kill_at_changes(chaos, tmp_path, 20)


def test_killed_at_random_moments(chaos: Chaos, tmp_path: Path) -> None:
    kill_at_moments(chaos, tmp_path, 10)


@pytest.mark.slow
def test_killed_a_hundred_times(chaos: Chaos, tmp_path: Path) -> None:
    kill_at_changes(chaos, tmp_path / "changes", 100)
    kill_at_moments(chaos, tmp_path / "moments", 100)


def test_killed_again_and_again(chaos: Chaos, tmp_path: Path) -> None:
    config = chaos.config(tmp_path / "run")
    chance = random.Random(0)
    kills = 0
    while killed_at(config, chance.randint(1, 150)) != 0:
        kills += 1
        assert kills < 200
    assert kills >= 3
    assert_same_end(tmp_path / "run", chaos.end)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_stopped_by_a_signal_anywhere(name: str, chaos: Chaos, tmp_path: Path) -> None:
    for i in range(4):
        config = chaos.config(tmp_path / f"run{i}")
        first = 20  # later than the handler is set
        moment = first + i * (chaos.changes - first) // 4
        assert killed_at(config, moment, getattr(signal, name)) == 0
        run_folder.verify(run_folder.newest(Path(config.out_dir)))
        resumed(config)
        assert_same_end(Path(config.out_dir), chaos.end)


def test_a_moved_run_goes_on(chaos: Chaos, tmp_path: Path) -> None:
    killed_at(chaos.config(tmp_path / "here"), chaos.changes // 2)
    (tmp_path / "here").rename(tmp_path / "there")
    resumed(chaos.config(tmp_path / "there"))
    assert_same_end(tmp_path / "there", chaos.end)


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
@pytest.mark.parametrize("name", [*checkpoint.FILES, "checksums.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    name: str, how: str, chaos: Chaos, half: Path
) -> None:
    out, config = half, chaos.config(half)
    newest, before = (run_folder.iter_of(p) for p in reversed(run_folder.checkpoints(out)[-2:]))
    damage(run_folder.newest(out) / name, how)
    with pytest.warns(UserWarning, match=f"going on from {run_folder.name_of(before)}"):
        train(config)
    assert before < newest
    assert_same_end(out, chaos.end)


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
def test_losses_that_are_damaged_are_found_again(how: str, chaos: Chaos, tmp_path: Path) -> None:
    config = chaos.config(tmp_path / "run")
    killed_at(config, chaos.changes * 3 // 4)
    evaluated = [p for p in run_folder.checkpoints(tmp_path / "run") if run_folder.read_scores(p)]
    newest = evaluated[-1]
    for later in run_folder.checkpoints(tmp_path / "run"):
        if run_folder.iter_of(later) > run_folder.iter_of(newest):
            run_folder.remove(later)
    damage(newest / "eval.json", how)
    resumed(config)
    assert_same_end(tmp_path / "run", chaos.end)


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
@pytest.mark.parametrize(
    "name", ["config.toml", "metrics.jsonl", ".lock", "checkpoints/last", "checkpoints/best"]
)
def test_no_other_file_of_a_run_can_stop_it(name: str, how: str, chaos: Chaos, half: Path) -> None:
    """But the log of what is past, and which of equals was the best, are not told again."""
    out = half
    (out / ".lock").write_text("x", encoding="utf-8")
    damage(out / name, how)
    train(resolve_settings([], {"out_dir": str(out)}, print))
    lost = {"logged"} if name == "metrics.jsonl" else set()
    if name == "checkpoints/best":
        lost = {"best", "kept"}
    assert_same_end(out, {k: v for k, v in chaos.end.items() if k not in lost})


def test_all_checkpoints_damaged_is_said(chaos: Chaos, half: Path) -> None:
    for folder in run_folder.checkpoints(half):
        damage(folder / "model.safetensors", "flipped")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing or damaged"):
        train(chaos.config(half))
    assert len(run_folder.checkpoints(half)) >= 2, "nothing is thrown away"
