"""Which ways to compile are tried, and documents by FlexAttention against the dense mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import tiny_config, tiny_model
from torch import Tensor, nn
from torch.nn.attention import flex_attention

from bardlet.data.dataset.loader import first_seen
from bardlet.gpu import attention
from bardlet.gpu.attention import FLEX, Kernel
from bardlet.gpu.compiling import compilations
from bardlet.gpu.forward import GPUModel, on_gpu
from bardlet.model import GPT, attend
from bardlet.system import device
from bardlet.system.device import Machine
from bardlet.training.backend import compiled, select

CUDA = Machine(device=torch.device("cuda"), dtype=torch.float32, why="for the test")


def names(*how: object) -> list[str]:
    return [way.name for way in compilations(*how)]  # pyright: ignore


def test_the_fastest_way_is_tried_first() -> None:
    usual = ["compiled", "compiled"]
    assert names("cpu", 1e20) == ["compiled"]
    assert names("cuda", 1e17) == usual
    assert names("cuda", 1e19) == ["compiled, autotuned", *usual]
    static, plain = compilations("cuda", 1e17)
    assert static.options == {"dynamic": False, "fullgraph": True} and not plain.options


def test_each_way_falls_back_to_the_next(
    dataset_folder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried of a run with masks on a GPU, where nothing but the last of all works."""
    tried: list[tuple[str, str]] = []
    flash = Kernel(name="FlashAttention-4", block=(256, 128), backend="FLASH")

    def try_compile(
        model: nn.Module, idx: torch.Tensor, machine: Machine, first: object, name: str,
        **options: object,
    ) -> nn.Module:  # fmt: skip
        kernel = model.blocks if isinstance(model, GPUModel) else None
        tried.append((kernel.name if kernel else "", "static" if options else "plain"))
        assert name == ", ".join(filter(None, ("compiled", tried[-1][0])))
        return nn.Identity() if not kernel and not options else model

    monkeypatch.setattr(device, "try_compile", try_compile)
    monkeypatch.setattr(attention, "kernels", lambda *_: [flash, FLEX])
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **how: zeros(*size))
    monkeypatch.setattr(Machine, "facts", lambda self: {})
    config = tiny_config(dataset_folder, dataset_folder, doc_mask=True, compile=True)  # pyright: ignore
    on = {"sequences": 4, "flops": 1e9, "processes": 1, "before": {}}
    backend = select(config, tiny_model("llama"), CUDA, **on)  # pyright: ignore
    ways = [(name, mode) for name in ("FlexAttention", "") for mode in ("static", "plain")]
    assert tried == [("FlashAttention-4", "static"), *ways]
    assert backend.name == "compiled, CUDA graphs" and backend.numerics["compiled"]
    tried.clear()
    pairs = dataclasses.replace(config, objective="dpo")
    select(pairs, tiny_model("llama"), CUDA, **on)  # pyright: ignore
    assert tried == [("", "plain")], "batches of pairs are of more lengths than one graph takes"


def test_memory_that_runs_out_has_half_the_sequences_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no other way is tried for what would not fit either."""
    sizes = []

    class Compiled(nn.Module):
        def __init__(self, model: nn.Module, **options: object) -> None:
            super().__init__()
            self.model = model

        def forward(self, idx: torch.Tensor, *args: object, first: object) -> object:
            sizes.append(len(idx))
            if len(idx) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.model(idx, *args)

    monkeypatch.setattr(torch, "compile", Compiled)
    model, idx = tiny_model("llama"), torch.zeros(4, 8, dtype=torch.int64)
    cpu = Machine(device=torch.device("cpu"), dtype=torch.float32, why="for the test")
    with pytest.warns(UserWarning, match="out of memory: going on with") as said:
        way = compiled(model, compilations("cuda", 1e19), idx, cpu, None, False)
    assert way and way[1] == "compiled, autotuned" and sizes == [4, 2, 1] and len(said) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["FlashAttention-4", "FlexAttention"]),
        ({"capability": (9, 0)}, ["FlashAttention-4", "FlexAttention"]),
        ({"capability": (8, 9)}, ["FlexAttention"]),
        ({"capability": (12, 0)}, ["FlexAttention"]),
        ({"dtype": torch.float32}, ["FlexAttention"]),
        ({"head_size": 256}, ["FlexAttention"]),
        ({"head_size": 36}, ["FlexAttention"]),
        ({"installed": False}, ["FlexAttention"]),
        ({"deterministic": True}, ["FlexAttention"]),
        ({"device": "cpu"}, []),
    ],
    ids=str,
)
def test_flash_attention_is_taken_where_it_can_be(
    changes: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """By the GPU's generation, dtype and size of a head, and where its package is installed."""
    how = {"capability": (10, 0), "dtype": torch.bfloat16, "head_size": 64, "device": "cuda",
           "installed": True, "deterministic": False, **changes}  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: how["capability"])
    monkeypatch.setattr(attention, "installed", lambda package: how["installed"])
    asked = torch.are_deterministic_algorithms_enabled
    monkeypatch.setattr(torch, asked.__name__, lambda: how["deterministic"])
    ways = attention.kernels(torch.device(how["device"]), how["dtype"], how["head_size"])
    assert [way.name for way in ways] == expected
    if ways and ways[0].flash:
        assert ways[0].block == {9: (128, 128), 10: (256, 128)}[how["capability"][0]]


def test_a_package_of_another_version_is_not_taken_for_it() -> None:
    assert attention.installed("torch.nn.attention.flex_attention")
    assert not attention.installed("torch.nn.attention.flex_attention.cute")
    assert not attention.installed("no_package_of_this_name.cute")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")  # of the compiler itself
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("name", ["FlashAttention-4", "FlexAttention"])
def test_attention_within_documents_is_that_of_the_dense_mask(name: str, heads: int) -> None:
    """SDPA with the mask, in float32, forward and back: each kernel in bfloat16 is as near to it as
    SDPA's own is. With as many heads of keys and with fewer, at no whole number of blocks.
    """
    where, T, D = torch.device("cuda"), 600, 64
    ways = attention.kernels(where, torch.bfloat16, D)
    kernel = next((way for way in ways if way.name == name), None)
    if kernel is None:
        pytest.skip(f"{name} is not there for this GPU")
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, T, D), (2, heads, T, D), (2, heads, T, D), (2, 4, T, D)]
    q, k, v, slope = (torch.randn(s, generator=generator).to(where) for s in shapes)
    idx = torch.randint(50, (2, T), generator=generator).to(where)
    first = first_seen(idx, 7)
    assert first is not None
    at = torch.arange(T, device=where)
    dense = ((at >= first.unsqueeze(2)) & (at <= at.unsqueeze(1))).unsqueeze(1)

    def by_blocks(q: Tensor, k: Tensor, v: Tensor, first: Tensor) -> Tensor:
        return attention.within_documents(first, kernel)(q, k, v)

    def by_mask(q: Tensor, k: Tensor, v: Tensor, first: Tensor) -> Tensor:
        return attend(q, k, v, 0.0, dense)

    def results(way: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        y = way(*inputs, first)
        return [y.detach(), *torch.autograd.grad(y, inputs, slope.to(dtype))]

    exact = results(by_mask, torch.float32)
    rounded = results(by_mask, torch.bfloat16)
    ours = results(torch.compile(by_blocks, dynamic=False, fullgraph=True), torch.bfloat16)
    for x, usual, truth in zip(ours, rounded, exact, strict=True):
        error, allowed = ((each.float() - truth).norm() / truth.norm() for each in (x, usual))
        assert error < 2 * allowed + 1e-3


def assert_learns_as(
    way: torch.nn.Module, model: GPT, idx: torch.Tensor, first: torch.Tensor, *, rel: float
) -> None:
    """Equal losses and gradients of the model's, but for the order of float32 sums; `rel` is of the
    gradients' norm.
    """
    values, grads = [], []
    for each in (model, way):
        model.zero_grad()
        _, value = each(idx, idx.roll(-1, 1), first=first)
        value.backward()
        values.append(value.item())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # pyright: ignore
    assert values[0] == pytest.approx(values[1], abs=2e-5)
    assert (grads[0] - grads[1]).norm() < rel * grads[0].norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")  # of the compiler itself
def test_gradients_through_blocks_are_those_of_the_dense_mask() -> None:
    """With as many query heads as keys and with fewer, at a length of no whole number of blocks."""
    idx = torch.randint(50, (2, 300), generator=torch.Generator().manual_seed(0)).cuda()
    first = first_seen(idx, 7)
    for name in ("gpt2", "llama"):
        model = tiny_model(name, block_size=300, n_embd=128).cuda()
        fast = on_gpu(model, idx.device, 2, blocks=FLEX)
        machine = Machine(device=idx.device, dtype=torch.float32, why="for the test")
        options: dict[str, Any] = {"dynamic": False, "fullgraph": True}
        compiled = device.try_compile(fast, idx, machine, first, **options)
        assert compiled is not fast, "it compiles"
        assert_learns_as(compiled, model, idx, first, rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler itself
@pytest.mark.parametrize(("block", "backend"), [((128, 128), "AUTO"), ((256, 128), "FLASH")])
def test_the_way_back_is_one_graph(
    block: tuple[int, int], backend: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced forward and back as for a GPU, with the loss in chunks, and computed on the CPU by
    what FlexAttention means: no kernel is compiled.
    """
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # refuses a CPU's
    model = tiny_model(family, block_size=160)
    idx = torch.randint(50, (2, 160), generator=torch.Generator().manual_seed(0))
    first = first_seen(idx, 7)
    kernel = Kernel(name="for the test", block=block, backend=backend)
    fast = GPUModel(model, chunked=True, blocks=kernel)
    traced = torch.compile(fast, backend="aot_eager", fullgraph=True, dynamic=False)
    assert_learns_as(traced, model, idx, first, rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # that it is slow where it is not compiled
@pytest.mark.parametrize("block", [(128, 128), (256, 128)], ids=str)
@torch.no_grad()
def test_documents_by_blocks_are_those_of_the_dense_mask(
    block: tuple[int, int], family: str
) -> None:  # fmt: skip
    """Its forward pass alone: on a CPU, FlexAttention has no way back."""
    model = tiny_model(family, block_size=160).eval()
    kernel = dataclasses.replace(FLEX, block=block)
    idx = torch.randint(50, (2, 160), generator=torch.Generator().manual_seed(0))
    first = first_seen(idx, 7)
    fast = on_gpu(model, torch.device("cuda"), 2, blocks=kernel)
    assert isinstance(fast, GPUModel) and fast.blocks and not fast.chunked
    dense, plain, blocks = (
        model(idx, idx, first=first)[0],
        model(idx, idx)[0],
        fast(idx, idx, first)[0],
    )
    torch.testing.assert_close(blocks, dense, rtol=0, atol=2e-5)
    assert (plain - dense).abs().max() > 0.01, "without it they differ"
    dropping = tiny_model(family, dropout=0.1)
    blocks_fit = isinstance(on_gpu(dropping, torch.device("cuda"), 2, blocks=FLEX), GPUModel)
    assert blocks_fit == (family == "llama"), "gpt2 drops attention out"
