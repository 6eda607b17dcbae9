"""Muon against its definition, and the parameter groups."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from support import scheduled, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from bardlet import native
from bardlet.commands.settings import load_layers, preset_names
from bardlet.config import resolve
from bardlet.model import GPT
from bardlet.native import muon
from bardlet.optim import (
    Muon,
    build_optimizers,
    matrix_rows,
    newton_schulz,
)
from bardlet.training.resume import model_config
from bardlet.training.schedule import make_recordable, set_learning_rate


def test_newton_schulz_brings_singular_values_near_one() -> None:
    x = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    before, after = torch.linalg.svdvals(x), torch.linalg.svdvals(newton_schulz(x, x.dtype))
    assert before.max() / before.min() > 3
    assert after.min() > 0.6 and after.max() < 1.3
    # and keeps the singular vectors: x = U S V^T becomes U S' V^T
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    inner = u.mT @ newton_schulz(x, x.dtype) @ vh.mT
    off_diagonal = inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def preset_shapes() -> list[tuple[int, int]]:
    """The shapes of the matrices that Muon steps in the presets' models, and a larger one."""
    shapes = {(384, 384)}
    for name in preset_names():
        c = resolve(load_layers(name, lambda: "cpu"))
        if c.optimizer == "muon":
            with torch.device("meta"):
                model = GPT(model_config(c, 65))
            _, optimizer = build_optimizers(model, c, "cpu", torch.float32)
            assert isinstance(optimizer, Muon)
            shapes |= {(n, p.size(1)) for p, rows in optimizer.rows.items() for n in rows}
    return sorted(shapes)


def with_singular_values(rows: int, columns: int, values: torch.Tensor) -> torch.Tensor:
    """A matrix of this shape with random singular vectors."""
    u, _ = torch.linalg.qr(torch.randn(rows, len(values)))
    v, _ = torch.linalg.qr(torch.randn(columns, len(values)))
    return u * values @ v.T


def singular_values(matrices: torch.Tensor) -> torch.Tensor:
    """Of each of (N, rows, columns), the largest last; those far below the largest are rounded."""
    tall = matrices.size(1) > matrices.size(2)
    grams = matrices.mT @ matrices if tall else matrices @ matrices.mT
    return torch.linalg.eigvalsh(grams).clamp(min=0).sqrt()


@functools.cache
def hard_cases(shape: tuple[int, int], part: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The hard matrices of a shape, or some, and their singular values, (N, the shorter side)."""
    named = hard_matrices(*shape)
    named = {name: named[name] for name in (SOME if part == "some" else named)}
    return named, singular_values(torch.stack(list(named.values())).double())


def hard_matrices(rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Matrices of every rank and conditioning."""
    torch.manual_seed(0)
    side = min(rows, columns)
    one = torch.outer(torch.randn(rows), torch.randn(columns))
    noise = torch.randn(rows, columns)
    single = torch.zeros(rows, columns)
    single[1, 2] = 3.0
    half = torch.where(torch.arange(side) % 2 == 0, 1.0, 0.05)
    return {
        "rank one": one, "one entry": single, "one row": one * (torch.arange(rows) == 1)[:, None],
        **{f"rank one, noise {s}": one + s * noise for s in (1e-4, 1e-3, 0.01, 0.03)},
        "random": noise, "tiny": 1e-8 * noise, "huge": 1e8 * noise, "beyond float32": 1e25 * noise,
        "tiny rank one": 1e-8 * one, "huge rank one": 1e8 * one, "below all": 1e-22 * one,
        "clustered": with_singular_values(rows, columns, half),
        "two": with_singular_values(rows, columns, torch.tensor([1.0, 0.011])),
        "ill-conditioned": with_singular_values(rows, columns, torch.logspace(0, -6, side)),
        "orthogonal": with_singular_values(rows, columns, torch.ones(side)),
        "zero": torch.zeros(rows, columns),
    }  # fmt: skip


def orthogonalised(matrices: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """What a step of Muon subtracts for these gradients, without momentum, rate and decay."""
    params = [torch.nn.Parameter(torch.zeros_like(m)) for m in matrices]
    for p, m in zip(params, matrices, strict=True):
        p.grad = m.clone()
    rows, columns = matrices[0].shape
    Muon([(p, [rows]) for p in params], 1.0, 0.0, 0.0, dtype).step()
    return [-p.detach().double() / math.sqrt(max(1.0, rows / columns)) for p in params]


# of shapes that take seconds: the others are these at other scales, or between them
SOME = ("rank one, noise 0.01", "random", "clustered", "two", "ill-conditioned")
LARGE = 1 << 19  # weights


def shapes_and_parts() -> list[Any]:
    """Every shape with all hard matrices, the large ones with some each day and all where slow."""
    params = []
    for rows, columns in preset_shapes():
        large, size = rows * columns > LARGE, f"{rows}x{columns}"
        marks = [pytest.mark.slow] if large else []
        params.append(pytest.param((rows, columns), "all", id=size, marks=marks))
        if large:
            params.append(pytest.param((rows, columns), "some", id=f"{size}, some"))
    return params


@pytest.fixture(params=["torch", "core"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations of the step in turn."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("the core was not compiled, or not for this CPU")
    return request.param


@pytest.mark.parametrize(("shape", "part"), shapes_and_parts())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_matrix_leaves_the_singular_values_that_a_step_may_have(
    each_path: str, dtype: torch.dtype, shape: tuple[int, int], part: str
) -> None:
    """In [0, 1.3] all, in [0.7, 1.3] those above 1e-2 of the largest that the quintics reach."""
    if each_path == "core" and not muon.fits([torch.empty(shape)], [[shape[0]]], dtype):
        pytest.skip("this build does not multiply in this dtype")
    named, values = hard_cases(shape, part)
    steps = torch.stack(orthogonalised(list(named.values()), dtype)).float()
    assert steps.isfinite().all()
    results = singular_values(steps)
    for name, before, after in zip(named, values, results, strict=True):
        assert after.max() <= 1.3, name
        norm = before.norm()
        reached = (before > 1e-2 * before[-1]) & (before > 4e-3 * norm) & (1e-15 < norm < 1e18)
        assert (after[reached] >= 0.7).all(), name
        assert reached.any() or name in ("zero", "below all", "beyond float32")


def test_a_matrix_that_is_not_finite_stays_so_and_touches_no_other(each_path: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = [torch.randn(64, 32, generator=generator) for _ in range(3)]
    expected = orthogonalised(clean, torch.float32)
    for poison in (math.nan, math.inf):
        spoiled = [m.clone() for m in clean]
        spoiled[1][5, 7] = poison
        first, middle, last = orthogonalised(spoiled, torch.float32)
        assert torch.equal(first, expected[0]) and torch.equal(last, expected[2])
        assert not middle.isfinite().all(), "what reaches a step that it must not, shows"


def reference_muon(p: torch.Tensor, grads: list[torch.Tensor], rows: list[int]) -> torch.Tensor:
    """Muon one matrix at a time, as its authors describe it."""
    lr, momentum, decay = 0.02, 0.9, 0.1
    buffer, p = torch.zeros_like(p), p.clone()
    for grad in grads:
        buffer = momentum * buffer + (1 - momentum) * grad
        update = momentum * buffer + (1 - momentum) * grad
        p *= 1 - lr * decay
        parts = []
        for part in update.split(rows):
            tall = part.size(0) > part.size(1)
            step = newton_schulz((part.T if tall else part)[None], part.dtype)[0]
            parts.append(
                (step.T if tall else step) * math.sqrt(max(1, part.size(0) / part.size(1)))
            )
        p -= lr * torch.cat(parts)
    return p


def test_batched_muon_equals_one_matrix_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [((48, 16), [16, 16, 16]), ((16, 16), [16]), ((80, 16), [40, 40]), ((16, 40), [16])]
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s, _ in shapes]
    grads = [[torch.randn(s, generator=generator) for _ in range(3)] for s, _ in shapes]
    expected = [
        reference_muon(p.detach(), g, rows)
        for p, g, (_, rows) in zip(params, grads, shapes, strict=True)
    ]
    pairs = [(p, rows) for p, (_, rows) in zip(params, shapes, strict=True)]
    muon = Muon(pairs, lr=0.02, momentum=0.9, weight_decay=0.1, matmul_dtype=torch.float32)
    for step in range(3):
        for p, g in zip(params, grads, strict=True):
            p.grad = g[step]
        muon.step()
    for p, e in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_exactly_one_group(family: str, optimizer: str) -> None:
    model = tiny_model(family)
    built = build_optimizers(model, scheduled(optimizer=optimizer), "cpu", torch.float32)
    grouped = [id(p) for o in built for g in o.param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_adamw_groups_are_nanogpts() -> None:
    model = tiny_model("gpt2")
    (adamw,) = build_optimizers(model, scheduled(weight_decay=0.3), "cpu", torch.float32)
    decayed, kept = adamw.param_groups
    assert {p.dim() for p in decayed["params"]} == {2} and decayed["weight_decay"] == 0.3
    assert {p.dim() for p in kept["params"]} == {1} and kept["weight_decay"] == 0.0


def test_muon_takes_the_blocks_matrices_only(family: str) -> None:
    model = tiny_model(family)
    adamw, muon = build_optimizers(model, scheduled(optimizer="muon"), "cpu", torch.float32)
    names = {id(p): n for n, p in model.named_parameters()}
    taken = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert taken == {n for n, p in model.named_parameters() if ".h." in n and p.dim() == 2}
    assert all(g["weight_decay"] == 0 for g in adamw.param_groups)


def test_stacked_matrices_are_told_apart() -> None:
    model = tiny_model("llama")  # 4 heads and 2 key-value heads of size 8; an MLP of 96
    named = dict(model.named_parameters())
    rows = {n: matrix_rows(model, n, p) for n, p in named.items() if ".h.0." in n}
    assert rows["transformer.h.0.attn.c_attn.weight"] == [32, 16, 16]
    assert rows["transformer.h.0.mlp.c_fc.weight"] == [96, 96]
    assert rows["transformer.h.0.mlp.c_proj.weight"] == [32]


class Kernels(TorchDispatchMode):
    """Counts the operations that a GPU would be sent: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = ("unbind", "split", "_unsafe_view")
        self.count += not func.is_view and not any(view in str(func) for view in views)
        return func(*args, **(kwargs or {}))


def test_muon_sends_as_much_for_many_matrices_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """45 operations for the 84 matrices of shakespeare-char, where one by one they were 291."""
    monkeypatch.setattr(native, "library", lambda: None)
    counts = []
    for layers in (1, 12):
        with torch.device("meta"):
            model = GPT(model_config(resolve(load_layers("shakespeare-char", lambda: "cpu")), 65))
        params = [(p, matrix_rows(model, n, p)) for n, p in model.named_parameters()
                  if ".h." in n and p.dim() == 2 and int(n.split(".")[2]) < layers]  # fmt: skip
        muon = Muon(params, 0.02, 0.95, 0.1, torch.bfloat16)
        for p, _ in params:
            p.grad = torch.empty_like(p)
        muon.step()
        with Kernels() as kernels:
            muon.step()
        counts.append(kernels.count)
    assert counts == [45, 45]


def test_a_rate_that_is_a_tensor_moves_as_far(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both optimizers, as a recorded step has them: within a rounding or two of float32."""
    monkeypatch.setattr(native, "library", lambda: None)
    ends = []
    for on_device in (False, True):
        model = tiny_model(family)
        options = scheduled(optimizer="muon", learning_rate=1e-2, min_lr=1e-3, muon_lr=0.02)
        optimizers = build_optimizers(model, options, "cpu", torch.float32)
        if on_device:
            make_recordable(optimizers)
        generator = torch.Generator().manual_seed(0)
        for scale in (1.0, 0.3, 0.01):
            set_learning_rate(optimizers, scale)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            for optimizer in optimizers:
                optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
        rates = [group["lr"] for o in optimizers for group in o.param_groups]
        assert all(isinstance(rate, torch.Tensor) == on_device for rate in rates)
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
