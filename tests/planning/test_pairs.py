"""A plan of a run on pairs says what that then takes."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from support import a_run, metrics, tiny_config, tiny_model, trials_are_forked

from bardlet import cli
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import UsageError
from bardlet.interop.pretrained_init import shape_of
from bardlet.planning.description import describe
from bardlet.planning.estimate import plan, time_of
from bardlet.planning.from_model import new_model
from bardlet.planning.pairs import of_longest, pair_sizes
from bardlet.train import train

WORDS = ["yes", "no", "it", "is", "not", "where", "Ann", "lives"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of many lengths, and a model to begin from."""
    path = tmp_path_factory.mktemp("paired")
    draw = random.Random(0)

    def said(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    records = [
        {"prompt": f"{i} {said(3)}?", "chosen": said(9), "rejected": f"{said(9)}."}
        for i in range(60)
    ]
    (path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    found = sources.find([str(path / "pairs.jsonl")])
    prepare(
        found, path / "pairs", tokenizer="byte", reading=Reading(messages_key="chosen,rejected")
    )
    return path


def a_config(folder: Path, out: Path, **changes: object) -> TrainConfig:
    options = {
        "init_from": "elsewhere", "objective": "dpo", "block_size": 128, "optimizer": "adamw",
        "batch_size": 4, "max_iters": 2, "eval_interval": 2, "eval_iters": 3,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    return tiny_config(folder / "pairs", out, **{**options, **changes})


@pytest.mark.parametrize("rank", [0, 2])
def test_a_plan_has_the_sizes_of_the_run(
    rank: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials_are_forked(monkeypatch)
    config = a_config(folder, tmp_path / "run", lora_rank=rank)
    dataset = Dataset(folder / "pairs")
    model = tiny_model("llama", vocab_size=dataset.vocab_size, block_size=128)
    planned = json.loads(json.dumps(plan(config, 0.05, model.config), allow_nan=False))

    def begun(config: TrainConfig, dataset: Dataset) -> Any:
        return new_model(dataclasses.replace(config, vocab_size=dataset.vocab_size), 0)

    train(config, begun)
    start, *_ = metrics(config, "start")
    for name in ("vocab_size", "train_tokens", "tokens_per_iter", "dtype", "threads", "core"):
        assert planned[name] == start[name], name
    memory = planned["memory"]
    whole = 4 * sum(p.numel() for p in model.parameters())
    assert memory["reference"] == (0 if rank else whole)
    assert (memory["gradients"] == memory["weights"]) == (not rank)
    assert memory["weights"] - whole == memory["gradients"] * bool(rank)
    assert memory["optimizer"] == 2 * memory["gradients"]
    assert memory["fits"] and planned["time"]["total_s"] > 0
    assert planned["time"]["evaluations"] == len(metrics(config, "eval")) == 2
    assert planned["flops"] == pytest.approx(
        model.flops_per_token() * 4 / 3 * planned["tokens"], rel=0.01 if not rank else 0.3
    )
    text = describe(config, planned)
    assert ("reference" in text) == (not rank) and "4 x 2 pairs: " in text
    assert planned["unknown"] == ["how long elsewhere takes to read"]


def test_evaluations_and_the_longest_pairs(folder: Path, tmp_path: Path) -> None:
    config = a_config(folder, tmp_path / "run")
    dataset = Dataset(folder / "pairs")
    sizes = pair_sizes(config, dataset, tiny_model("llama", block_size=128))
    assert (
        sizes is not None
        and pair_sizes(dataclasses.replace(config, objective="lm"), dataset, tiny_model("llama"))
        is None
    )
    on_val = math.ceil(len(sizes.validation) / 4)
    assert sizes.eval_batches(config) == 3 + on_val
    measured = {"start_s": 1.0, "iter_s": 0.5, "eval_batch_s": 0.1, "save_s": 0.0}
    time = time_of(config, dataset, measured, sizes)
    assert time["evaluations_s"] == pytest.approx(2 * (3 + on_val) * 0.1)
    longest = int(sizes.train.sizes.max()) - 1
    assert longest <= sizes.positions < longest + 16
    seen = sizes.seen(config, 8, 1)
    assert seen <= sizes.positions
    carried = of_longest({"peak_bytes": 1000, "iters": 1}, sizes, config, 8, 400)
    assert carried["peak_bytes"] == 400 + round(600 * sizes.positions / seen)


def test_a_command_plans_a_run_from_a_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trials_are_forked(monkeypatch)
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "base", tiny_model("llama", vocab_size=100, block_size=64), "abc")
    assert shape_of("base").block_size == 64
    command = ["plan", "chat-dpo", "--init_from=base", f"--dataset={folder / 'pairs'}"]
    assert cli.main([*command, "--device=cpu", "--seconds=0.05", "--max_iters=2"]) == 0
    assert "pairs: " in capsys.readouterr().out
    assert cli.main([*command, "--device=cpu", "--block_size=65"]) == 2
    assert "block_size=65 is above the 64 of base" in capsys.readouterr().err
    command = ["plan", "shakespeare-char", f"--dataset={folder / 'pairs'}", "--device=cpu"]
    assert cli.main(command) == 2
    assert "Train on them with --objective=dpo" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no trials"):
        plan(a_config(folder, tmp_path / "x"), 0.1)
