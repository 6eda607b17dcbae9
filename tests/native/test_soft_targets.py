"""Soft targets in the compiled core against their definition in float64 by torch."""

from __future__ import annotations

import pytest
import torch
from native_support import SHAPES, batch, formats, random_model
from torch import Tensor
from torch.nn import functional as F

from bardlet.data.dataset.loader import first_seen
from bardlet.model import GPT, GPTConfig
from bardlet.native.training import NativeGPT, Soft, rows

each_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
each_setting = pytest.mark.parametrize(("weight", "t"), [(0.7, 1.0), (0.4, 2.5), (1.0, 0.5)])


def teachers_rows(config: GPTConfig, size: int) -> Tensor:
    """Distributions (B, T, rows(V)) that no model has written, zero behind the vocabulary."""
    q = torch.rand(size, config.block_size, config.vocab_size, dtype=torch.float64) ** 4
    q = (q / q.sum(-1, keepdim=True)).float()
    return F.pad(q, (0, rows(config.vocab_size) - config.vocab_size))


def definition(model: GPT, idx: Tensor, targets: Tensor, q: Tensor, weight: float, t: float,
               first: Tensor | None) -> Tensor:  # fmt: skip
    """(1 - a) CE + a t^2 CE(q, softmax(logits / t)), the mean over the targets that count."""
    logits = model(idx, targets, first=first)[0].double()
    hard = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    soft = -(q[..., : logits.size(-1)] * F.log_softmax(logits / t, -1)).sum(-1)
    return (1 - weight) * hard + weight * t * t * soft[targets >= 0].mean()


@each_setting
@each_shape
def test_loss_and_gradients_are_the_definitions(
    build: str, config: GPTConfig, weight: float, t: float
) -> None:
    idx, targets = batch(config)
    q, first = teachers_rows(config, len(idx)), first_seen(idx, 7)
    model = random_model(config)
    expected = definition(model, idx, targets, q, weight, t, first)
    expected.backward()
    for dtype, tolerance in formats(build):
        ours = random_model(config)
        core = NativeGPT(ours, dtype)
        soft = Soft(targets=q, weight=weight, temperature=t)
        _, loss = core(idx, targets, first, soft)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance / 10)
        for (name, p), r in zip(ours.named_parameters(), model.parameters(), strict=True):
            assert p.grad is not None and r.grad is not None
            assert (p.grad - r.grad).norm() <= 2 * tolerance * r.grad.norm(), name
        with torch.no_grad():
            assert core(idx, targets, first, soft)[1].item() == loss.item()


@each_shape
def test_a_teacher_writes_the_models_distributions(build: str, config: GPTConfig) -> None:
    idx, _ = batch(config)
    model, first = random_model(config), first_seen(idx, 7)
    with torch.no_grad():
        expected = F.softmax(model(idx, idx, first=first)[0].double() / 1.7, -1)
    for dtype, tolerance in formats(build):
        q = NativeGPT(model, dtype).distributions(idx, first, 1.7)
        assert q.shape == (*idx.shape, rows(config.vocab_size))
        assert (q[..., : config.vocab_size] - expected).abs().max() < tolerance
        assert not q[..., config.vocab_size :].any()
        assert q.sum(-1).sub(1).abs().max() < 1e-5


def test_no_weight_is_no_teacher(build: str) -> None:
    """Bit for bit: what a teacher adds is zero."""
    config = SHAPES["llama"]
    idx, targets = batch(config)
    grads = []
    for soft in (None, Soft(targets=teachers_rows(config, 5), weight=0.0, temperature=1.0)):
        model = random_model(config)
        _, loss = NativeGPT(model, torch.float32)(idx, targets, None, soft)
        loss.backward()
        grads.append((loss.item(), [p.grad for p in model.parameters()]))
    assert grads[0][0] == grads[1][0]
    for ours, theirs in zip(grads[0][1], grads[1][1], strict=True):
        assert ours is not None and theirs is not None and torch.equal(ours, theirs)


def test_soft_targets_of_another_shape_are_refused(build: str) -> None:
    config = SHAPES["llama"]
    idx, targets = batch(config)
    soft = Soft(targets=torch.zeros(5, 64, 65), weight=0.5, temperature=1.0)
    with pytest.raises(ValueError, match="do not fit the model"):
        NativeGPT(random_model(config), torch.float32)(idx, targets, None, soft)
