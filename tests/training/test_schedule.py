"""Learning rates against hand-made values."""

from __future__ import annotations

import math

import pytest
import torch
from support import scheduled, tiny_model

from bardlet.optim import build_optimizers
from bardlet.training.schedule import learning_rate, set_learning_rate


def test_cosine_is_nanogpts() -> None:
    c = scheduled()
    assert learning_rate(c, 0) == pytest.approx(1 / 11)
    assert learning_rate(c, 9) == pytest.approx(10 / 11)
    assert learning_rate(c, 10) == pytest.approx(1.0)
    assert learning_rate(c, 60) == pytest.approx(0.55)  # half way: the middle of peak and floor
    assert learning_rate(c, 35) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(c, 110) == learning_rate(c, 5000) == 0.1


def test_cosine_ends_at_lr_decay_iters() -> None:
    c = scheduled(lr_decay_iters=60)
    assert learning_rate(c, 35) == pytest.approx(0.55)
    assert learning_rate(c, 60) == 0.1


def test_trapezoid_is_flat_then_linear() -> None:
    c = scheduled(schedule="trapezoid", max_iters=100, cooldown_frac=0.4)
    assert [learning_rate(c, it) for it in (10, 30, 60)] == [1.0] * 3
    assert learning_rate(c, 80) == pytest.approx(0.55)
    assert learning_rate(c, 99) == pytest.approx(0.1 + 0.9 / 40)
    assert learning_rate(c, 100) == 0.1


def test_trapezoid_without_cooldown_stays_up() -> None:
    assert learning_rate(scheduled(schedule="trapezoid", cooldown_frac=0.0), 109) == 1.0


def test_constant_rate_has_no_warmup() -> None:
    assert (
        learning_rate(scheduled(decay_lr=False), 0)
        == learning_rate(scheduled(decay_lr=False), 10**6)
        == 1
    )


def test_all_groups_follow_one_schedule() -> None:
    model = tiny_model("llama")
    c = scheduled(optimizer="muon", muon_lr=0.5)
    optimizers = build_optimizers(model, c, "cpu", torch.float32)
    set_learning_rate(optimizers, 0.25)
    assert [g["lr"] for o in optimizers for g in o.param_groups] == [0.25, 0.25, 0.125]
