"""Samples over time: written beside the run, which computes the same with and without them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_end, stop_after, tiny_config, tiny_model

from bardlet.config import TrainConfig
from bardlet.serve import snapshots
from bardlet.serve.model import load
from bardlet.serve.snapshots import write_samples
from bardlet.train import train
from bardlet.training.log import Log
from bardlet.training.samples import Samples


def records(config: TrainConfig) -> list[dict[str, Any]]:
    lines = (Path(config.out_dir) / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "NEW_TOKENS", 20)


@pytest.mark.parametrize("core", ["1", "0"])
def test_losses_are_the_same_with_and_without(
    core: str, family: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, through the compiled core and through torch with its global generator."""
    monkeypatch.setenv("BARDLET_CORE", core)
    shape = {"n_embd": 64, "n_head": 2, "n_kv_head": 1} if family == "llama" else {"n_embd": 64}
    config = tiny_config(
        dataset_folder, tmp_path / "with", family, sample_interval=3, dropout=0.1, **shape
    )
    train(config, write_samples=write_samples)
    plain = dataclasses.replace(config, sample_interval=0, out_dir=str(tmp_path / "without"))
    torch.rand(3)
    train(plain, write_samples=write_samples)
    assert_same_end(config, plain)
    assert not (tmp_path / "without" / "samples.jsonl").exists()
    assert [record["iter"] for record in records(config)] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 8, 8, 8]


def test_they_are_what_the_checkpoint_writes(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", sample_interval=8, sample_start="to")
    train(config, write_samples=write_samples)
    model = load(tmp_path / "run", checkpoint="last", dtype="float32")
    texts = model.generate_many(["to"] * 3, max_new_tokens=20, seed=config.seed)
    last = [record for record in records(config) if record["iter"] == 8]
    assert last == [{"iter": 8, "prompt": "to", "text": text.text} for text in texts]
    assert len({text.text for text in texts}) == 3


def test_a_resumed_runs_file_goes_on_exactly(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "whole", sample_interval=2)
    train(config, write_samples=write_samples)
    parts = dataclasses.replace(config, out_dir=str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert train(parts, write_samples=write_samples).stopped
    path = tmp_path / "parts" / "samples.jsonl"
    with path.open("a", encoding="utf-8") as file:  # of a process that came further and was killed
        file.write(json.dumps({"iter": 6, "prompt": "", "text": "lost"}) + "\n" + '{"iter": 8, "te')
    train(dataclasses.replace(parts, init_from="resume"), write_samples=write_samples)
    assert path.read_bytes() == (tmp_path / "whole" / "samples.jsonl").read_bytes()
    again = dataclasses.replace(parts, init_from="resume", sample_interval=5, max_iters=10)
    train(again, write_samples=write_samples)  # of a run that was at its end
    assert [record["iter"] for record in records(parts)][::3] == [0, 2, 4, 6, 8, 10]
    train(dataclasses.replace(parts, fresh=True, sample_interval=0), write_samples=write_samples)
    assert not path.exists()


def test_what_goes_wrong_is_said_once_and_ends_no_run(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", sample_interval=2, sample_start="\u4e2d")
    train(config, write_samples=write_samples)
    plain = dataclasses.replace(config, sample_interval=0, out_dir=str(tmp_path / "plain"))
    train(plain)
    assert_same_end(config, plain)
    said = capsys.readouterr().out
    assert said.count("warning: no samples: ") == 1 and "\u4e2d" in said


def test_a_deterministic_run_samples_by_any_algorithm(tmp_path: Path) -> None:
    """torch refuses a GPU's cumulative sum otherwise, and samples would be missing."""
    config, seen = tiny_config(tmp_path, tmp_path, sample_interval=1), []

    def write(*_: Any) -> list[tuple[str, str]]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return []

    samples = Samples(config, Log(config, main=False), write, main=True)
    torch.use_deterministic_algorithms(True)
    try:
        samples.take(1, tiny_model("gpt2"), *[None] * 2)  # pyright: ignore
        assert seen == [False] and not samples.failed
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
