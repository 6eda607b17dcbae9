"""The loss in chunks against the plain one, in float64 and in bfloat16, and what it saves."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
from support import tiny_model
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bardlet.evaluate import summed
from bardlet.gpu import loss
from bardlet.gpu.forward import GPUModel, on_gpu
from bardlet.system.device import Machine
from bardlet.system.memory import MicroBatcher


@pytest.fixture(autouse=True)
def chunks_of_7_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 50 * 7)


def plain_loss(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = F.linear(x, weight).flatten(0, 1).double()
    losses = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum")
    return losses / (targets >= 0).sum().clamp(min=1)


def inputs(counted: float = 0.7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (3, 11, 16), a head (50, 16), and targets of which a part counts."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*s, 16, generator=generator) for s in ((3, 11), (50,)))
    targets = torch.randint(50, (3, 11), generator=generator)
    targets[torch.rand(3, 11, generator=generator) >= counted] = -1
    return x.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("counted", [1.0, 0.7, 0.0])
def test_loss_and_gradients_are_those_of_all_logits(counted: float) -> None:
    """Against float64, with targets that do not count; the incoming gradient is passed on."""
    x, weight, targets = inputs(counted)
    ours = loss.chunked_loss(x, weight, targets)
    theirs = plain_loss(x.double(), weight.double(), targets)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=0)
    assert ours.dtype == torch.float32 and bool(ours) == bool(counted)
    got = torch.autograd.grad(3 * ours, (x, weight))
    for a, b in zip(got, torch.autograd.grad(3 * theirs, (x, weight)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_all_logits_are() -> None:
    """Errors relative to the gradient's norm: 2^-8 of an operand, times a few."""
    x, weight, targets = inputs()
    exact = plain_loss(x.double(), weight.double(), targets)
    expected = torch.autograd.grad(exact, (x, weight))
    errors = []
    for way in (loss.chunked_loss, plain_loss):
        with torch.autocast("cpu", torch.bfloat16):
            value = way(x, weight, targets)
        assert value.item() == pytest.approx(exact.item(), rel=2e-3)
        grads = torch.autograd.grad(value, (x, weight))
        errors.append([((a - b).norm() / b.norm()).item() for a, b in
                       zip(grads, expected, strict=True)])  # fmt: skip
    assert all(ours <= 1.5 * theirs < 0.02 for ours, theirs in zip(*errors, strict=True))


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_the_logits_are_never_all_there() -> None:
    x, weight, targets = inputs()
    sizes = []
    for way in (loss.chunked_loss, plain_loss):
        with Largest() as largest:
            way(x, weight, targets).backward()
        sizes.append(largest.numel)
    assert sizes == [50 * 16, 33 * 50], "7 rows of logits are fewer than the head has weights"


def test_chunks_are_of_whole_tiles_where_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loss.chunk_rows(50) == 7
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1 << 28)
    assert loss.chunk_rows(50304) == 1280
    assert loss.chunk_rows(65) == loss.MAX_ROWS
    assert loss.chunk_rows(10**9) == 1
    assert loss.pays(12 * 1024, 50304) and not loss.pays(64 * 256, 65)


def test_a_model_is_trained_and_scored_as_it_is(family: str) -> None:
    """Tied heads get both gradients; evaluation needs none."""
    model = tiny_model(family)
    idx = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(0))
    targets = idx.roll(-1, 1).clone()
    targets[:, -3:] = -1
    cuda = torch.device("cuda")
    fast = on_gpu(model, cuda, 3)
    assert isinstance(fast, GPUModel) and fast.chunked
    assert on_gpu(model, torch.device("cpu"), 3) is model
    assert on_gpu(model, cuda, 3, logits=True) is model, "a student's are compared"
    grads, values = [], []
    for way in (model, fast):
        model.zero_grad()
        logits, value = way(idx, targets)
        assert (logits is None) == (way is fast)
        value.backward()
        values.append(value.item())
        grads.append([p.grad for p in model.parameters()])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    cpu = Machine(device=torch.device("cpu"), dtype=torch.float32, why="for the test")
    parts = MicroBatcher(2)
    scores = [summed(way, cpu, None, idx, targets, parts, 2) for way in (model, fast)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6) and math.isfinite(scores[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # of the compiler itself
def test_it_compiles_into_one_graph() -> None:
    x, weight, targets = inputs()
    compiled = torch.compile(loss.chunked_loss, fullgraph=True, dynamic=False)
    results = []
    for way in (compiled, loss.chunked_loss):
        value = way(x, weight, targets)
        results.append([value.detach(), *torch.autograd.grad(value, (x, weight))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
