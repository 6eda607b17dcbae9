"""One iteration alone: what float16's scaler, clipping and the guards make of its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import metrics, tiny_config

from bardlet.system import device
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.train import may_step, step_optimizers, train, train_step, unscaled_norm
from bardlet.training import guards
from bardlet.training.log import Log
from bardlet.training.setup import Training, setup

# which the command line refuses on a CPU, where float16 is slow
FLOAT16 = Machine(device=torch.device("cpu"), dtype=torch.float16, why="for the test")


@pytest.fixture
def training(dataset_folder: Path, tmp_path: Path) -> Iterator[Training]:
    """A run in float16 with AdamW and Muon, set up on the CPU."""
    config = tiny_config(dataset_folder, tmp_path / "run", warmup_iters=0)
    set_up = setup(config, Group(), FLOAT16, None, Log, "", None)
    yield set_up
    set_up.log.close()


def step(t: Training, it: int, loss: float) -> float:
    """What train_step makes of gradients that are there; their norm."""
    norm = unscaled_norm(t)
    if may_step(t, it, loss, norm.item()):
        step_optimizers(t, norm)
    t.scaler.update()
    return norm.item()


def weights(t: Training) -> list[torch.Tensor]:
    return [p.detach().clone() for p in t.model.parameters()]


def test_a_step_takes_its_batch_and_lowers_its_loss(training: Training) -> None:
    idx, targets = training.batches.batch(0)
    results = [train_step(training, it, idx, targets) for it in range(6)]
    assert results[0].loss == pytest.approx(math.log(training.model.config.vocab_size), abs=1e-3)
    assert results[-1].loss < results[0].loss - 0.2
    assert all(math.isfinite(r.grad_norm) and not r.stop for r in results)
    assert train_step(training, 6, idx, targets, stop=True).stop


def test_what_an_iteration_draws_follows_from_its_number(training: Training) -> None:
    """Without dropout too: noise that is added to the model is the same after a resume."""
    assert not training.config.dropout
    drawn = []
    training.model.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(()).item()))
    idx, targets = training.batches.batch(0)
    for it in (3, 4, 3):
        train_step(training, it, idx, targets)
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_where_one_gradient_overflows_no_optimizer_steps(
    training: Training, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(training.config.__dict__, "grad_clip", clip)
    for p in training.model.parameters():
        p.grad = torch.full_like(p, 0.5)
    training.scaler.scale(torch.zeros(()))  # which makes its scale
    scale = training.scaler.get_scale()
    spoilt = training.model.lm_head.weight.grad  # AdamW's; Muon's own are finite
    assert spoilt is not None
    spoilt[0, 0] = math.inf
    before = weights(training)
    assert not math.isfinite(step(training, 0, 2.0))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(training), strict=True))
    assert training.scaler.get_scale() == scale / 2
    for p in training.model.parameters():
        p.grad = torch.full_like(p, 0.5 * scale / 2)
    count = sum(p.numel() for p in training.model.parameters())
    assert step(training, 1, 2.0) == pytest.approx(0.5 * math.sqrt(count), rel=1e-5)
    assert all(not torch.equal(a, b) for a, b in zip(before, weights(training), strict=True))


def test_float16_goes_on_after_a_skipped_spike(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "MIN_HISTORY", 4)
    monkeypatch.setattr(guards, "SPIKE", -1.0)  # what does not fall is one
    monkeypatch.setattr(guards, "MAX_SKIPPED", 2)
    monkeypatch.setattr(device, "choose", lambda *how: FLOAT16)
    config = tiny_config(dataset_folder, tmp_path / "run", skip_spikes=True, max_iters=16)
    assert train(config).iter == 16
    assert [event["event"] for event in metrics(config, "event")].count("skipped") >= 1


def test_an_untrained_model_is_shown_at_the_start(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tiny_config(dataset_folder, tmp_path / "plain")
    shown = tiny_config(dataset_folder, tmp_path / "shown", eval_on_start=True)
    train(plain)
    assert "step 0:" not in capsys.readouterr().out
    train(shown)
    assert (
        "step 0: train loss 2.7081, val loss ~2.7081 (1 batch)" in capsys.readouterr().out
    )  # ln 15
    first, *rest = metrics(shown, "eval")
    assert first["iter"] == 0 and first["val_loss"] == pytest.approx(math.log(15), abs=1e-4)
    assert rest == metrics(plain, "eval"), "it changes nothing else"
