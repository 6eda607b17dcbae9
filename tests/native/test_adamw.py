"""The core's AdamW and norm of gradients against torch's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bardlet import native
from bardlet.native import adamw
from bardlet.optim import AdamW
from bardlet.training import gradients

SHAPES = [(300, 96), (96,), (32,), (7, 64, 32)]  # one longer than what a thread takes at once


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(params: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype) * 3.0**seed


def groups(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    """The first two differ in their decay alone, and are one to the core."""
    return [
        {"params": params[:2], "weight_decay": 0.3},
        {"params": params[2:3]},
        {"params": params[3:], "lr": 0.002},
    ]


def options() -> dict[str, Any]:
    return {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.0}


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
def test_steps_are_torchs_in_float64(build: str, max_norm: float) -> None:
    """Clipped, not clipped, and with a bound that no norm reaches."""
    ours, theirs = parameters(), [torch.nn.Parameter(p.detach().double()) for p in parameters()]
    by_core = AdamW(groups(ours), fused=True, **options())
    expected = torch.optim.AdamW(groups(theirs), **options())
    assert adamw.steps(by_core)
    for it in range(6):
        give_gradients(ours, it)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = p.grad.double()  # type: ignore[union-attr]
        norm = gradients.total_norm(ours)
        wanted = torch.nn.utils.get_total_norm([q.grad for q in theirs])  # type: ignore[misc]
        assert norm.dtype == torch.float32
        torch.testing.assert_close(norm.double(), wanted, rtol=1e-6, atol=0)
        if max_norm:
            gradients.clip(ours, [by_core], max_norm, norm)
            torch.nn.utils.clip_grads_with_norm_(theirs, max_norm, wanted)
        by_core.step()
        expected.step()
        assert by_core.scale == 1.0
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.double(), q, rtol=2e-6, atol=2e-6)
        for name in ("exp_avg", "exp_avg_sq"):
            state, wanted = by_core.state[p][name].double(), expected.state[q][name]
            assert (state - wanted).norm() <= 1e-6 * wanted.norm()
        assert by_core.state[p]["step"].item() == 6


def test_groups_that_differ_in_decay_alone_are_one_call(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, sizes = native.core(), []

    class Counted:
        def bardlet_adamw(self, items: int, count: int, *rest: Any) -> None:
            sizes.append(count)
            core.bardlet_adamw(items, count, *rest)

    params = parameters()
    optimizer = AdamW(groups(params), fused=True, **options())
    give_gradients(params, 0)
    monkeypatch.setattr(native, "core", Counted)
    optimizer.step()
    assert sizes == [3, 1]


def test_neither_depends_on_the_number_of_threads(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(native, "threads", lambda threads=threads: threads)
        params = parameters()
        optimizer = AdamW(params, fused=True)
        give_gradients(params, 0)
        norm = gradients.total_norm(params)
        optimizer.step()
        results.append([norm, *(p.detach() for p in params)])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_what_is_not_finite_shows_in_the_norm(build: str, poison: float) -> None:
    params = parameters()
    give_gradients(params, 0)
    params[1].grad[50] = poison  # type: ignore[index]
    norm = gradients.total_norm(params)
    assert not norm.isfinite()


def test_what_the_core_cannot_step_is_left_to_torch(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other formats and sizes; parameters without a gradient stay where they are."""
    for params in ([torch.nn.Parameter(torch.ones(5))], [p.double() for p in parameters()]):
        optimizer = AdamW([torch.nn.Parameter(p.detach()) for p in params])
        assert not adamw.steps(optimizer) and not optimizer.by_core
    params = parameters()
    optimizer = AdamW(params, fused=True)
    params[0].grad = torch.ones_like(params[0])
    before = [p.detach().clone() for p in params]
    optimizer.step()
    moved = [not torch.equal(p, q) for p, q in zip(params, before, strict=True)]
    assert moved == [True, False, False, False]
    monkeypatch.setattr(native, "library", lambda: None)
    assert not adamw.steps(optimizer)


def test_state_that_was_replaced_is_what_moves(build: str) -> None:
    """As where a checkpoint is loaded between two steps: the bits of a run without it."""
    ends, left = [], []
    for replaced in (False, True):
        params = parameters()
        optimizer = AdamW(groups(params), fused=True, **options())
        for seed in range(3):
            give_gradients(params, seed)
            optimizer.step()
            if replaced:
                state = optimizer.state[params[0]]
                left += [(value, value.clone()) for value in state.values()]
                optimizer.state[params[0]] = {what: value.clone() for what, value in state.items()}
        ends.append([p.detach() for p in params])
    assert all(map(torch.equal, *ends))
    assert all(torch.equal(value, then) for value, then in left)


def test_state_and_gradients_that_the_core_cannot_read_are_refused(build: str) -> None:
    params = parameters()
    optimizer = AdamW(groups(params), fused=True, **options())
    give_gradients(params, 0)
    optimizer.step()
    weights = [p.detach().clone() for p in params]
    state, right = optimizer.state[params[0]], optimizer.state[params[0]]["exp_avg"]
    for wrong in (right[:-1].clone(), right.double(), right.T.contiguous().T):
        state["exp_avg"] = wrong
        with pytest.raises(ValueError, match=r"sizes differ|contiguous"):
            optimizer.step()
    state["exp_avg"] = right
    assert params[0].grad is not None
    params[0].grad = params[0].grad.T.contiguous().T
    with pytest.raises(ValueError, match="strided"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params[:2], weights[:2], strict=True))
