"""Where the parameters are, against the model's own and what the optimizers keep."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from support import a_run, tiny_model

from bardlet import cli
from bardlet.analysis import parameters
from bardlet.config import resolve
from bardlet.model import GPT, GPTConfig
from bardlet.optim import build_optimizers
from bardlet.run import run_folder


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_counts_and_moments_are_those_of_the_optimizers(family: str, optimizer: str) -> None:
    model = tiny_model(family)
    info = parameters.table(model, optimizer)
    assert info["total"] == sum(p.numel() for p in model.parameters())
    assert sum(row["count"] for row in info["weights"]) == info["total"]
    assert sum(part["count"] for part in info["parts"].values()) == info["total"]
    assert math.isclose(sum(row["share"] for row in info["weights"]), 1)
    for row in info["weights"]:
        assert tuple(row["shape"]) == model.get_parameter(row["name"]).shape
        assert row["what"] or row["name"].endswith(".bias")
    config = resolve([("test", {"optimizer": optimizer, "learning_rate": 1e-3})])
    optimizers = build_optimizers(model, config, "cpu", torch.float32)
    model(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))[1].backward()
    for one in optimizers:
        one.step()
    kept = sum(
        value.numel() * value.element_size()
        for one in optimizers for state in one.state.values() for value in state.values()
        if torch.is_tensor(value) and value.numel() > 1
    )  # fmt: skip
    single = sum(p.numel() == 1 for p in model.parameters())
    assert (info["memory"]["moments_bytes"], single) == (kept, 0)


def test_the_notes_figures_come_out() -> None:
    """nanoGPT's baby GPT: 10.65M, and 129 MB of weights and moments in its checkpoint."""
    baby = GPTConfig(n_layer=6, n_head=6, n_embd=384, block_size=256, vocab_size=65)
    with torch.device("meta"):
        info = parameters.table(GPT(baby), "adamw")
    assert info["parameters"] == 10_646_784
    kept = info["memory"]["weights_bytes"] + info["memory"]["moments_bytes"]
    assert round(kept / 1e6) == 129
    text = parameters.describe(info)
    assert "10,646,784 without positions" in text
    assert "blocks 1 to 5, alike" in text


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    a_run(run, tiny_model("llama", vocab_size=3), "abc", config={"optimizer": "muon"})
    run_folder.set_pointer(run, "best", run_folder.find(run, "last"))
    assert cli.main(["inspect", str(run), "--params", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["optimizer"], info["weights"][0]["shape"]) == ("muon", [3, 32])
    assert cli.main(["inspect", str(run), "--params"]) == 0
    assert f"{info['total']:,}  100.0%" in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path), "--params"]) == 1
    assert "has no checkpoint" in capsys.readouterr().err
