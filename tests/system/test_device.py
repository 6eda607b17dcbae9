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
     ({"neon": True, "bf16": True}, torch.bfloat16), ({"neon": True}, torch.float32),
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


HALF, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("name", "dtype", "tf32", "peak"),
    [("NVIDIA A100-SXM4-80GB", HALF, True, 312e12), ("NVIDIA A100 80GB PCIe", HALF, True, 312e12),
     ("NVIDIA H100 80GB HBM3", HALF, True, 989e12), ("NVIDIA H100 PCIe", HALF, True, 756e12),
     ("NVIDIA H100 NVL", HALF, True, 835e12), ("NVIDIA H200", HALF, True, 989e12),
     ("NVIDIA L4", HALF, True, 121e12), ("NVIDIA L40", HALF, True, 181e12),
     ("NVIDIA L40S", HALF, True, 362e12), ("NVIDIA A10", HALF, True, 125e12),
     ("NVIDIA A10G", HALF, True, 70e12), ("NVIDIA A40", HALF, True, 150e12),
     ("Tesla T4", torch.float16, False, 65e12), ("Tesla T4", SINGLE, False, 8.1e12),
     ("Tesla V100-SXM2-16GB", torch.float16, False, 125e12),
     ("Tesla V100-PCIE-16GB", torch.float16, False, 112e12),
     ("NVIDIA GeForce RTX 4090", HALF, True, 165e12),
     ("NVIDIA A100-SXM4-40GB", SINGLE, True, 156e12),
     ("NVIDIA A100-SXM4-40GB", SINGLE, False, 19.5e12),
     ("NVIDIA H100 80GB HBM3", SINGLE, False, 67e12),
     # other chips than the table's, or parts of one: measured
     ("NVIDIA GeForce RTX 4090 Laptop GPU", HALF, True, 1.0), ("NVIDIA A4000", HALF, True, 1.0),
     ("NVIDIA GeForce RTX 3090 Ti", HALF, True, 1.0), ("NVIDIA GH200 480GB", HALF, True, 1.0),
     ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", HALF, True, 1.0), ("NVIDIA T400", HALF, False, 1.0)],
)  # fmt: skip
def test_peak_of_a_known_gpu_is_its_makers(
    name: str, dtype: torch.dtype, tf32: bool, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(device, "measure_flops", lambda *_: 1.0)
    gpu = SimpleNamespace(type="cuda")
    options = {"tf32": tf32} if dtype == SINGLE else {}
    machine = device.Machine(device=gpu, dtype=dtype, why="", **options)  # pyright: ignore
    assert machine.peak_flops() == peak


@pytest.mark.parametrize(
    ("dtype", "asked", "capability", "expected"),
    [("float32", "auto", (9, 0), False), ("bfloat16", "auto", (9, 0), True),
     ("float16", "auto", (8, 0), False), ("auto", "auto", (8, 0), True),
     ("float32", True, (8, 0), True), ("bfloat16", False, (8, 0), False),
     ("float32", True, (7, 5), False)],
)  # fmt: skip
def test_tf32_is_an_option(
    dtype: str, asked: str | bool, capability: tuple[int, int], expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-40GB")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    device.tune_process()
    machine = device.choose("cuda", dtype, 1, tf32=asked)
    assert current == [torch.device("cuda:1")], "memory counters and NCCL's barrier ask for none"
    assert torch.backends.cuda.matmul.allow_tf32 == expected
    assert (machine.tf32, machine.facts()["tf32"]) == (expected, expected)


def test_a_cpu_has_no_tf32() -> None:
    assert "tf32" not in device.choose("cpu", "float32", tf32=True).facts()


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
