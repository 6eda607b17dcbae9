"""One, two and four processes train the same model: losses, gradient norms and weights."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from support import as_ranks, events, metrics, some_text, tensors, tiny_config
from torch import Tensor

from bardlet import cli
from bardlet.config import TrainConfig
from bardlet.interop.pretrained_init import load_pretrained
from bardlet.model import GPT
from bardlet.system.distributed import here
from bardlet.train import train

PLAIN = GPT.forward
# documents kept apart, answers alone in the loss, accumulated, clipped, dropped out
ALL = {"doc_mask": True, "dropout": 0.1, "grad_clip": 0.3, "gradient_accumulation_steps": 8}
CASES = {
    "muon": ("llama", {**ALL, "batch_size": 2, "tie_embeddings": True}),
    "adamw": ("gpt2", {**ALL, "batch_size": 1}),
    # as many micro-batches as 7 sequences make, which no number of processes shares evenly
    "uneven": ("llama", {"batch_size": 2, "tokens_per_step": 7 * 16, "grad_clip": 0.3}),
    "memory": ("gpt2", {"batch_size": 2, "tokens_per_step": 8 * 16}),  # runs out on process 1
    "lora": ("gpt2", {**ALL, "batch_size": 1, "lora_rank": 2, "init_from": "adamw"}),
}


def configs(folder: Path, processes: int) -> dict[str, TrainConfig]:
    """The runs of so many processes."""
    shared = {"max_iters": 4, "eval_interval": 4, "learning_rate": 1e-3, "muon_lr": 5e-3}
    runs = {
        name: tiny_config(folder / "data", folder / str(processes) / name, family,
                          **{**shared, **options})
        for name, (family, options) in CASES.items()
    }  # fmt: skip
    base = str(folder / "1" / "adamw")
    runs["lora"] = dataclasses.replace(runs["lora"], init_from=base)
    return runs


def without_room(model: GPT, idx: Tensor, *args: Tensor, **more: Tensor) -> object:
    """A forward pass that has memory for one sequence."""
    if len(idx) > 1:
        raise RuntimeError("CUDA out of memory")
    return PLAIN(model, idx, *args, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of prompts and answers."""
    folder = tmp_path_factory.mktemp("equal")
    rows = [{"q": some_text(9, seed), "a": some_text(30, seed + 99)} for seed in range(80)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    keys = ["--prompt_key=q", "--response_key=a", "--tokenizer=byte"]
    assert cli.main(["prepare", str(folder / "a.jsonl"), *keys, f"--out={folder / 'data'}"]) == 0
    return folder


@functools.cache
def trained(folder: Path, case: str, processes: int) -> TrainConfig:
    """The run of a case on so many processes."""
    config = configs(folder, processes)[case]
    if case == "lora":
        trained(folder, "adamw", 1)

    def work() -> None:
        if short := case == "memory" and here().rank == 1:
            GPT.forward = without_room  # pyright: ignore
        with warnings.catch_warnings():
            if short:  # and it is said
                warnings.filterwarnings("ignore", message="out of memory")
            train(config, load_pretrained)

    work() if processes == 1 else as_ranks(processes, work, kill_after_s=600)
    return config


def slow(case: str, processes: int) -> object:
    """The case and number of processes as a parameter of a slow test."""
    return pytest.param(case, processes, marks=pytest.mark.slow)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(
    ("case", "processes"),
    [
        ("muon", 2), ("muon", 4), ("memory", 2),
        *(slow(case, 2) for case in ("adamw", "uneven", "lora")),
        *(slow(case, 4) for case in ("adamw", "uneven", "memory", "lora")),
    ],
)  # fmt: skip
def test_processes_train_as_one(folder: Path, case: str, processes: int) -> None:
    one, many = (trained(folder, case, number) for number in (1, processes))
    for kind, name in (("iter", "loss"), ("iter", "grad_norm"), ("eval", "val_loss")):
        expected = [entry[name] for entry in metrics(one, kind)]
        # Float32 sums in another order, of 6e-8 each.
        tolerance = 1e-5 if name == "grad_norm" else 1e-6
        assert [entry[name] for entry in metrics(many, kind)] == pytest.approx(
            expected, rel=tolerance
        )
    ours, theirs = tensors(many), tensors(one)
    assert ours.keys() == theirs.keys()
    for name in ours:
        # Adam divides a gradient near zero by itself: its sign may be decided by rounding.
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=2e-5, msg=name)
    halved = [(e["iter"], e["batch_size"]) for e in events(many) if e["event"] == "memory"]
    assert halved == ([(0, 1)] if case == "memory" else [])
