"""The machine: what is chosen and why, and torch.compile that may fail."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support import tiny_model

from bardlet.errors import UsageError
from bardlet.system import device


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16),
     ({"avx512_f": True, "avx2": True}, torch.float32), ({}, torch.float32)],
)  # fmt: skip
def test_a_cpu_gets_bfloat16_only_where_it_has_it(
    capabilities: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert device.choose("cpu").dtype == dtype
    assert device.choose("cpu", "float32").dtype == torch.float32


def test_the_choice_is_one_line_with_its_reason() -> None:
    line = device.choose("cpu", "float32").describe()
    assert line.startswith("device cpu, float32 (") and "threads; as asked)" in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["cuda:7", "nonsense", "mps:9"])
def test_a_device_that_is_not_there_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"device={name} cannot be used"):
        device.choose(name)


def test_float16_needs_cuda() -> None:
    with pytest.raises(UsageError, match="float16 needs a CUDA device"):
        device.choose("cpu", "float16")


@pytest.mark.parametrize(
    ("asked", "found", "kind"),
    [
        ("auto", None, "cpu"),
        ("auto", "cuda", "gpu"),
        ("cpu", "cuda", "cpu"),
        ("cuda:1", None, "gpu"),
    ],
)
def test_machine_kind(
    asked: str, found: str | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "accelerator", lambda: found)
    assert device.machine_kind(asked) == kind


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA L4", 121e12),
     ("NVIDIA H100 PCIe", 756e12), ("NVIDIA L40S", 362e12), ("Tesla T4", 65e12)],
)  # fmt: skip
def test_peak_of_a_known_gpu_is_its_makers(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    gpu = SimpleNamespace(type="cuda")
    machine = device.Machine(device=gpu, dtype=torch.bfloat16, why="")  # pyright: ignore
    assert machine.peak_flops() == peak


def test_peak_of_a_cpu_is_measured() -> None:
    # between a hundredth and a hundred times of what cores of this decade do
    assert 1e9 < device.choose("cpu", "float32").peak_flops() < 1e14


def test_compile_pays_in_long_runs_only() -> None:
    assert not device.compile_pays("cpu", 1e13)
    assert not device.compile_pays("cuda", 1e13)
    assert device.compile_pays("cuda", 1e18)
    assert not device.compile_pays("mps", 1e18)


def test_a_failing_compiler_is_one_warning_and_no_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(model: torch.nn.Module) -> torch.nn.Module:
        def forward(*args: object, **options: object) -> None:
            raise RuntimeError("no C++ compiler\nand much more")

        return forward  # pyright: ignore

    monkeypatch.setattr(torch, "compile", broken)
    model = tiny_model("llama")
    idx = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.warns(UserWarning, match="going on without it: no C\\+\\+ compiler$"):
        assert device.try_compile(model, idx, device.choose("cpu", "float32")) is model


def test_trying_to_compile_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: torch.nn.Sequential(model)[0])
    model = tiny_model("llama")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    device.try_compile(
        model, torch.zeros(1, 4, dtype=torch.int64), device.choose("cpu", "float32")
    )  # fmt: skip
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in model.named_parameters())
