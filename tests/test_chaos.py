"""A run that is killed anywhere ends as the undisturbed one: weights, optimizer, losses, bit for bit.

Kills come at every call that changes what is on disk, in saving, pruning and logging alike, and at
random moments of a process of its own. `-m slow` runs a hundred of either.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from safetensors.torch import load_file

from bardlet import runs
from bardlet.config import TrainConfig, to_toml
from bardlet.train import train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

OPTIONS: dict[str, Any] = {
    "max_iters": 9, "eval_interval": 3, "save_interval": 1, "keep_checkpoints": 2, "dropout": 0.1,
    "gradient_accumulation_steps": 2, "lr_decay_iters": 9,
}  # fmt: skip
CHANGES = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")  # os functions


def end_of(out: Path) -> dict[str, Any]:
    """How a run ended: its last state, and what it logged of the mathematics."""
    folder = runs.newest(out)
    runs.verify(folder)
    state = runs.read_json(folder / "state.json")
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [
        {k: e[k] for k in ("type", "iter", "loss", "grad_norm", "lr", "val_loss") if k in e}
        for e in map(json.loads, lines)
        if e["type"] in ("iter", "eval")
    ]
    best = runs.pointed(out, "best")
    return {
        "tensors": {
            name: tensor
            for file in ("model", "optimizer")
            for name, tensor in load_file(folder / f"{file}.safetensors").items()
        },
        "logged": logged,
        "state": {k: state[k] for k in ("iter", "tokens", "best_val_loss", "guards", "scaler")},
        "scores": runs.scores_of(folder),
        "best": best.name if best else None,
        "kept": sorted(p.name for p in (out / "checkpoints").iterdir()),
    }


def assert_same_end(ours: Path, undisturbed: dict[str, Any]) -> None:
    end = end_of(ours)
    tensors, others = end.pop("tensors"), undisturbed["tensors"]
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    assert end == {k: v for k, v in undisturbed.items() if k != "tensors"}


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit status, negative for the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.suppress(Exception):
                sys.stderr = sys.stdout = nothing
                work()
                code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def counting(config: TrainConfig, act: Callable[[int], None]) -> None:
    """Train, calling `act` with a running number before each change of what is on disk."""
    count = 0

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            act(count)
            return change(*args, **named)

        return watching

    for name in CHANGES:
        setattr(os, name, watched(getattr(os, name)))
    train(config)


def killed_at(config: TrainConfig, moment: int, number: signal.Signals = signal.SIGKILL) -> int:
    """Train in a process that ends itself before its change number `moment`."""

    def act(count: int) -> None:
        if count == moment:
            os.kill(os.getpid(), number)

    return in_child(lambda: counting(config, act))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    """A dataset, how its undisturbed run ends, and how often that changes what is on disk."""
    from conftest import some_text

    from bardlet.data.corpus import Corpus
    from bardlet.data.prepare import prepare

    root = tmp_path_factory.mktemp("chaos")
    prepare(Corpus(name="words", text=some_text(2000), sources=()), root / "data")
    config = tiny_config(root / "data", root / "whole", **OPTIONS)
    changes = root / "changes"

    def act(count: int) -> None:
        changes.write_text(str(count), encoding="utf-8")

    assert in_child(lambda: counting(config, act)) == 0
    return root / "data", end_of(root / "whole"), int(changes.read_text(encoding="utf-8"))


def resumed(config: TrainConfig) -> None:
    """Train again as the same command would, in a process of its own, unless all was done."""
    found = runs.checkpoints(Path(config.out_dir))
    if not (found and runs.finished(found[-1])):
        assert in_child(lambda: train(config)) == 0


def kill_at_changes(
    undisturbed: tuple[Path, dict[str, Any], int], tmp_path: Path, times: int, **change: Any
) -> None:
    data, end, changes = undisturbed
    assert changes > 200
    for i in range(times):
        moment = 1 + (i * 2 + 1) * changes // (2 * times)
        config = tiny_config(data, tmp_path / f"run{i}", **OPTIONS)
        assert killed_at(config, moment, **change) != 0
        resumed(config)
        assert_same_end(Path(config.out_dir), end)


def test_killed_while_it_saves_prunes_or_logs(
    undisturbed: tuple[Path, dict[str, Any], int], tmp_path: Path
) -> None:
    kill_at_changes(undisturbed, tmp_path, 25)


@pytest.mark.slow
def test_killed_at_a_hundred_changes(
    undisturbed: tuple[Path, dict[str, Any], int], tmp_path: Path
) -> None:
    kill_at_changes(undisturbed, tmp_path, 100)


def test_killed_again_and_again(
    undisturbed: tuple[Path, dict[str, Any], int], tmp_path: Path
) -> None:
    data, end, _ = undisturbed
    config = tiny_config(data, tmp_path / "run", **OPTIONS)
    chance = random.Random(0)
    kills = 0
    while killed_at(config, chance.randint(1, 150)) != 0:
        kills += 1
        assert kills < 200
    assert kills >= 3
    assert_same_end(tmp_path / "run", end)
