"""Which ways to compile are tried, and documents by FlexAttention against the dense mask."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import tiny_config, tiny_model
from torch import nn

from bardlet.data.dataset.loader import first_seen
from bardlet.gpu.compiling import compilations
from bardlet.gpu.forward import GPUModel, on_gpu
from bardlet.system import device
from bardlet.system.device import Machine
from bardlet.training.backend import select

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
    tried: list[tuple[bool, str]] = []

    def try_compile(
        model: nn.Module, idx: torch.Tensor, machine: Machine, first: object, **options: object
    ) -> nn.Module:
        blocks = isinstance(model, GPUModel) and model.blocks
        tried.append((blocks, str(options.get("mode", "static" if options else "plain"))))
        return nn.Identity() if not blocks and not options else model

    monkeypatch.setattr(device, "try_compile", try_compile)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **how: zeros(*size))
    monkeypatch.setattr(Machine, "facts", lambda self: {})
    config = tiny_config(dataset_folder, dataset_folder, doc_mask=True, compile=True)  # pyright: ignore
    on = {"sequences": 4, "flops": 1e9, "processes": 1, "before": {}}
    backend = select(config, tiny_model("llama"), CUDA, **on)  # pyright: ignore
    modes = ["static", "plain"]
    assert tried == [(blocks, mode) for blocks in (True, False) for mode in modes]
    assert backend.name == "compiled, CUDA graphs" and backend.numerics["compiled"]
    tried.clear()
    pairs = dataclasses.replace(config, objective="dpo")
    select(pairs, tiny_model("llama"), CUDA, **on)  # pyright: ignore
    assert tried == [(False, "plain")], "batches of pairs are of more lengths than one graph takes"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")  # of the compiler itself
def test_gradients_through_blocks_are_those_of_the_dense_mask() -> None:
    """With as many query heads as keys and with fewer, at a length of no whole number of blocks."""
    idx = torch.randint(50, (2, 300), generator=torch.Generator().manual_seed(0)).cuda()
    first = first_seen(idx, 7)
    for name in ("gpt2", "llama"):
        model = tiny_model(name, block_size=300, n_embd=128).cuda()
        fast = on_gpu(model, idx.device, 2, blocks=True)
        machine = Machine(device=idx.device, dtype=torch.float32, why="for the test")
        options = {"dynamic": False, "fullgraph": True}
        compiled = device.try_compile(fast, idx, machine, first, **options)
        assert compiled is not fast, "it compiles"
        grads, values = [], []
        for way in (model, compiled):
            model.zero_grad()
            _, value = way(idx, idx.roll(-1, 1), first=first)
            value.backward()
            values.append(value.item())
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # pyright: ignore
        # equal but for the order of float32 sums
        assert values[0] == pytest.approx(values[1], abs=2e-5)
        assert (grads[0] - grads[1]).norm() < 1e-4 * grads[0].norm()


@pytest.mark.filterwarnings("ignore")  # that it is slow where it is not compiled
@torch.no_grad()
def test_documents_by_blocks_are_those_of_the_dense_mask(family: str) -> None:
    """Its forward pass alone: on a CPU, FlexAttention has no way back."""
    model = tiny_model(family, block_size=160).eval()
    idx = torch.randint(50, (2, 160), generator=torch.Generator().manual_seed(0))
    first = first_seen(idx, 7)
    fast = on_gpu(model, torch.device("cuda"), 2, blocks=True)
    assert isinstance(fast, GPUModel) and fast.blocks and not fast.chunked
    dense, plain, blocks = (
        model(idx, idx, first=first)[0],
        model(idx, idx)[0],
        fast(idx, idx, first)[0],
    )
    torch.testing.assert_close(blocks, dense, rtol=0, atol=2e-5)
    assert (plain - dense).abs().max() > 0.01, "without it they differ"
    dropping = tiny_model(family, dropout=0.1)
    blocks_fit = isinstance(on_gpu(dropping, torch.device("cuda"), 2, blocks=True), GPUModel)
    assert blocks_fit == (family == "llama"), "gpt2 drops attention out"
