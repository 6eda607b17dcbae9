"""Training in float16, bfloat16 and float32 by torch: on the CPU daily, on a GPU by `-m gpu`.

A run on a CPU is refused float16, which GPUs without bfloat16 need. Its arithmetic is the same here
as there: autocast, and a GradScaler around the backward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_end, losses, tensors, tiny_config

from bardlet import native
from bardlet.config import TrainConfig
from bardlet.run import run_folder
from bardlet.run.state import read_json
from bardlet.system import device
from bardlet.train import train

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
# Between losses of the first eight iterations. Measured on a CPU: 2.2e-4 in float16, whose products
# are rounded to 11 bits, and 1.5e-3 in bfloat16, to 8. float32 has room for another order of sums.
TOLERANCE = {"float32": 2e-4, "float16": 2e-3, "bfloat16": 1e-2}


@pytest.fixture(params=["cpu", CUDA])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each device, by torch alone, in any dtype."""
    choose = device.choose

    def choose_any(name: str, dtype: str, *rest: Any, **more: Any) -> device.Machine:
        if (name, dtype) != ("cpu", "float16"):
            return choose(name, dtype, *rest, **more)
        machine = choose(name, "float32", *rest, **more)
        return dataclasses.replace(machine, dtype=torch.float16)

    monkeypatch.setattr(device, "choose", choose_any)
    monkeypatch.setattr(device, "measure_flops", lambda *_: 1e9)
    monkeypatch.setattr(native, "library", lambda: None)
    yield request.param
    torch.use_deterministic_algorithms(False)


def scaler_of(config: TrainConfig) -> dict[str, Any]:
    folder = run_folder.find(Path(config.out_dir), "last")
    return read_json(folder / "state.json")["scaler"]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_losses_are_those_of_float32_on_a_cpu(
    where: str, dtype: str, family: str, dataset_folder: Path, tmp_path: Path
) -> None:
    exact = tiny_config(dataset_folder, tmp_path / "exact", family)
    rounded = tiny_config(dataset_folder, tmp_path / "run", family, device=where, dtype=dtype)
    train(exact)
    train(rounded)
    tolerance = TOLERANCE[dtype]
    assert losses(rounded) == pytest.approx(losses(exact), abs=tolerance)
    assert losses(rounded, "eval") == pytest.approx(losses(exact, "eval"), abs=tolerance)
    if dtype != "float32":
        assert losses(rounded) != losses(exact), "it was computed in another dtype"


def test_a_scale_that_is_too_large_is_halved_and_its_steps_are_not_taken(
    where: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW counts the steps that it takes; each overflow of the gradients in float16 skips one."""
    options: dict[str, Any] = {"device": where, "dtype": "float16", "max_iters": 30}
    config = tiny_config(dataset_folder, tmp_path / "run", "gpt2", **options)
    large = functools.partial(torch.amp.GradScaler, init_scale=2.0**26)
    monkeypatch.setattr(torch.amp, "GradScaler", large)
    train(config)
    skipped = 26 - math.log2(scaler_of(config)["scale"])
    assert 3 <= skipped <= 20
    steps = {t.item() for n, t in tensors(config, "optimizer").items() if n.endswith("/step")}
    assert steps == {30 - skipped}
    seen = losses(config)
    assert all(map(math.isfinite, seen))
    assert seen[-1] < seen[0] - 0.2, "what was not skipped did train"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(
    where: str, dtype: str, family: str, dataset_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "device": where, "dtype": dtype, "deterministic": True, "dropout": 0.1, "lr_decay_iters": 8,
    }  # fmt: skip
    whole = tiny_config(dataset_folder, tmp_path / "whole", family, **options)
    parts = tiny_config(dataset_folder, tmp_path / "parts", family, **options)
    train(whole)
    train(dataclasses.replace(parts, max_iters=4))
    train(dataclasses.replace(parts, init_from="resume"))
    assert_same_end(whole, parts)
    assert scaler_of(whole) == scaler_of(parts)
    assert bool(scaler_of(whole)) == (dtype == "float16")
