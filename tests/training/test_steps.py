"""Iterations that are read one late, as on a GPU: the same run, and no wait for the device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_end, events, losses, metrics, stop_after, tiny_config
from torch.utils._python_dispatch import TorchDispatchMode

from bardlet import native
from bardlet.errors import TrainingError
from bardlet.run import run_folder
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.train import train, train_step
from bardlet.training.log import Log
from bardlet.training.setup import Training, setup

# what reads a device's numbers: item(), bool() and float() of a tensor, and masks
READS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select"}


class CountReads(TorchDispatchMode):
    """Counts what would wait for a device, if the tensors were on one."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in READS
        return func(*args, **(kwargs or {}))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read one iteration late on a CPU too."""
    monkeypatch.setattr(Training, "late", True)


def test_a_run_that_is_read_late_is_the_same(
    family: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations, saves and a signal to stop come between iterations that are read and not yet."""
    options: dict[str, Any] = {
        "max_iters": 20, "eval_interval": 8, "save_interval": 3, "log_interval": 2,
    }  # fmt: skip
    at_once = tiny_config(dataset_folder, tmp_path / "at-once", family, **options)
    late = tiny_config(dataset_folder, tmp_path / "late", family, **options)
    train(at_once)
    monkeypatch.setattr(Training, "late", True)
    with monkeypatch.context() as stopping:
        stop_after(11, stopping)
        assert train(late).stopped
    train(late)
    assert_same_end(at_once, late)
    logged = [[(e["iter"], e["grad_norm"], e["lr"], e["tokens"]) for e in metrics(c)]
              for c in (at_once, late)]  # fmt: skip
    assert logged[0] == logged[1] and len(logged[0]) == 10


@pytest.mark.parametrize("save_interval", [1, 0])
@pytest.mark.usefixtures("late")
def test_a_loss_that_is_not_finite_is_never_saved(
    save_interval: int, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=save_interval)
    count, forward = -1, torch.nn.functional.embedding

    def spoiled(*args: Any, **more: Any) -> torch.Tensor:
        nonlocal count
        count += torch.is_grad_enabled()  # of training alone
        return forward(*args, **more) * (math.nan if count >= 5 else 1.0)

    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(torch.nn.functional, "embedding", spoiled)
    with pytest.raises(TrainingError, match=r"the loss is nan at iteration 5\. Lower") as error:
        train(config)
    assert "keeps its last checkpoint" in error.value.hint
    saved = run_folder.newest(tmp_path / "run")
    assert run_folder.iter_of(saved) == (5 if save_interval else 4)
    assert events(config)[-1]["event"] == "nonfinite" and events(config)[-1]["iter"] == 5
    assert len(losses(config)) == 5


@pytest.mark.parametrize("late", [True, False])
def test_what_waits_for_the_device(
    late: bool, family: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss and a norm an iteration, or nothing: of torch's own path, which GPUs take."""
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(Training, "late", late)
    options: dict[str, Any] = {"batch_size": 2, "gradient_accumulation_steps": 2, "grad_clip": 1.0}
    config = tiny_config(dataset_folder, tmp_path / "run", family, **options)
    machine = Machine(device=torch.device("cpu"), dtype=torch.float32, why="for the test")
    t = setup(config, Group(), machine, None, Log, "", None)
    batches = [t.batches.batch(it) for it in range(3)]
    train_step(t, 0, *batches[0])
    lists, tolist = [], torch.Tensor.tolist  # which no mode sees; token ids are on the host
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: lists.append(x.dtype) or tolist(x))
    for it in (1, 2):
        lists.clear()
        with CountReads() as reads:
            step = train_step(t, it, *batches[it])
        assert reads.count + lists.count(torch.float64) == (0 if late else 1)
        assert math.isfinite(step.loss) and step.grad_norm > 0 and not step.stop
    t.log.close()
