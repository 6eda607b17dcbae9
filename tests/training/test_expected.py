"""How long a run will take is said before its first step, and what suits a CPU better."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tensors, tiny_config, tiny_model

from bardlet.config import TrainConfig
from bardlet.system.device import choose
from bardlet.train import train
from bardlet.training import expected


@pytest.mark.parametrize(
    ("dataset", "seconds", "device", "words"),
    [
        ("tinyshakespeare", 9 * 3600, "cpu", "bardlet train shakespeare-char learns more"),
        ("data/mine", 9 * 3600, "cpu", "bardlet train --dataset=data/mine --budget=10m"),
        ("tinyshakespeare", 600, "cpu", ""),
        ("tinyshakespeare", 9 * 3600, "cuda", ""),
    ],
)
def test_what_suits_a_cpu_better_is_said(
    dataset: str, seconds: float, device: str, words: str
) -> None:
    first, *rest = expected.describe(TrainConfig(dataset=dataset), seconds, device)
    duration = "9.0 hours" if seconds > 3600 else "10.0 minutes"
    assert first.startswith(f"about {duration} on this machine")
    assert [words in line for line in rest] == [True] * bool(words)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}
    machine = choose("cpu", "float32")
    small = expected.iteration_s(model, machine, block_size=16, sequences=4)
    large = expected.iteration_s(model, machine, block_size=16, sequences=4000)
    assert 0 < 50 * small < large < 60
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_large_run_says_its_time_before_the_first_step(
    family: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plain = tiny_config(dataset_folder, tmp_path / "plain", family, dropout=0.1)
    train(plain)
    assert "on this machine, by" not in capsys.readouterr().out
    monkeypatch.setattr(expected, "LARGE", 0)
    said = tiny_config(dataset_folder, tmp_path / "said", family, dropout=0.1)
    train(said)
    out = capsys.readouterr().out
    assert out.index("on this machine, by 4 sequences measured") < out.index("iter 0: ")
    ours, theirs = tensors(plain), tensors(said)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
