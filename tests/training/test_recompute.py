"""`--recompute=block`: the same losses bit for bit, with the activations of one block at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_end, tiny_config, tiny_model

from bardlet import native
from bardlet.system import memory
from bardlet.train import train
from bardlet.training.backend import core_trains


def saved_bytes(recompute: bool) -> int:
    """The bytes of storages that autograd keeps of a forward pass, weights aside, each once."""
    model = tiny_model("llama", n_layer=6, block_size=64, n_kv_head=0)
    if recompute:
        memory.recompute(model.transformer["h"])  # pyright: ignore
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    weights.add(model.rotary.untyped_storage().data_ptr())
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    idx = torch.zeros(4, 64, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _, loss = model(idx, idx)
    assert loss is not None  # holds all of it until here
    return sum(kept.values())


def test_it_keeps_less_than_half_of_the_activations() -> None:
    """What lies between a block's input and its output is many times as much as the input."""
    assert saved_bytes(True) <= 0.5 * saved_bytes(False)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", "float32"),
        pytest.param("gpt2", "float32", marks=pytest.mark.slow),
        pytest.param("llama", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_losses_and_weights_are_the_same_bit_for_bit(
    family: str, dtype: str, dataset_folder: Path, tmp_path: Path
) -> None:
    """Dropout included, whose masks are drawn twice."""
    plain = tiny_config(
        dataset_folder, tmp_path / "plain", family, dropout=0.2, dtype=dtype,
        gradient_accumulation_steps=2, max_iters=4,
    )  # fmt: skip
    train(plain)
    less = dataclasses.replace(plain, out_dir=str(tmp_path / "less"), recompute="block")
    train(less)
    assert_same_end(plain, less)


def test_the_core_which_keeps_all_leaves_it_to_torch(dataset_folder: Path, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"block_size": 32, "n_embd": 64, "n_head": 2, "n_kv_head": 0}
    config = tiny_config(dataset_folder, tmp_path / "run", recompute="block", **shape)
    model = tiny_model("llama", **shape)
    assert not core_trains(config, model)
    assert core_trains(dataclasses.replace(config, recompute="none"), model) == native.runs(model)
