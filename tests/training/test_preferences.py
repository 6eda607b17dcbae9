"""Direct preference optimisation: its loss, what it learns, and runs that go on with it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    as_ranks,
    assert_same_end,
    losses,
    metrics,
    stop_after,
    tiny_config,
    tiny_model,
)  # fmt: skip
from torch import Tensor, nn

from bardlet import lora
from bardlet.config import TrainConfig, resolve
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.pairs import Pairs
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import BardletError, UsageError
from bardlet.model import GPT
from bardlet.run import run_folder
from bardlet.run.state import RunState
from bardlet.system import device
from bardlet.system.distributed import Group
from bardlet.train import train
from bardlet.training.pair_scores import by_likelihood
from bardlet.training.preferences import Preferences, Reference

CPU = device.choose("cpu", "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose chosen answer says yes, a text beside them."""
    path = tmp_path_factory.mktemp("preferred")
    pairs = [
        {"prompt": f"Is it {i}?", "chosen": f"Yes, {i}.", "rejected": f"No, {i % 7}."}
        for i in range(60)
    ]
    for name, records in (
        ("pairs", pairs),
        ("texts", [{"text": f"It is {i}."} for i in range(60)]),
    ):
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        found = sources.find([str(path / f"{name}.jsonl")])
        key = {"pairs": "chosen,rejected", "texts": ""}[name]
        reading = Reading(messages_key=key)
        prepare(found, path / name, tokenizer="byte", reading=reading)
    return path


def begun(config: TrainConfig, dataset: Dataset) -> GPT:
    """The model that runs here begin from."""
    model = tiny_model("llama", vocab_size=dataset.vocab_size, block_size=config.block_size, seed=3)
    if config.lora_rank:
        torch.manual_seed(config.seed)
        lora.adapt(model, config.lora_rank)
    return model


def a_run(folder: Path, out: Path, **changes: object) -> TrainConfig:
    options = {
        "init_from": "elsewhere", "objective": "dpo", "block_size": 64, "optimizer": "adamw",
        "max_iters": 6, "eval_interval": 6, "learning_rate": 3e-3, "min_lr": 3e-4,
    }  # fmt: skip
    return tiny_config(folder / "pairs", out, **{**options, **changes})


class Fixed(nn.Module):
    """Predicts the same of two tokens everywhere."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1 - chance, chance]).log())

    def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        return self.logits.expand(*idx.shape, 2), None


def test_a_loss_by_hand() -> None:
    """Token 1 has 3/4 of the policy and 1/2 of the reference: of two against one 0, the margin is
    b (2 ln 3/2 + ln 2).
    """
    policy, reference = Fixed(0.75), Fixed(0.5)
    config = dataclasses.replace(TrainConfig(), objective="dpo", dpo_beta=0.5)
    judge = Preferences(policy, policy, Reference(model=reference), config, CPU)  # pyright: ignore
    idx = torch.zeros(1, 2, 4, dtype=torch.int64)
    targets = torch.tensor([[[-1, 1, 1, -1], [-1, 0, -1, -1]]])
    sums, loss = judge(idx, targets)
    margin = 0.5 * math.log(4.5)
    assert sums.tolist() == pytest.approx([margin, 1.0])
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)))
    loss.backward()
    # with x = logits, d margin = b (2 (1 - p) + p) for token 1, and the loss's own slope
    slope = -(1 - 1 / (1 + math.exp(-margin))) * 0.5 * (2 * 0.25 + 0.75)
    assert policy.logits.grad is not None
    assert policy.logits.grad[1].item() == pytest.approx(slope)
    assert reference.logits.grad is None
    swapped, loss = judge(idx.flip(1), targets.flip(1))
    assert swapped.tolist() == pytest.approx([-margin, 0.0])
    assert loss.item() == pytest.approx(math.log1p(math.exp(margin)))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_loss_is_the_definitions_in_float64(folder: Path, tmp_path: Path, rank: int) -> None:
    dataset = Dataset(folder / "pairs")
    config = a_run(folder, tmp_path, lora_rank=rank, dpo_beta=0.3)
    reference, policy = (
        begun(dataclasses.replace(config, lora_rank=0), dataset),
        begun(config, dataset),
    )
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn_like(p) * p.requires_grad)
    frozen = Reference() if rank else Reference(model=reference.eval())
    idx, targets = Pairs(dataset, "train", 64).read([0, 3, 5])
    own = torch.arange(idx.size(2)).expand_as(idx)  # as doc_mask says it of turns that end a text
    sums, loss = Preferences(policy, policy, frozen, config, CPU)(idx, targets, first=own)
    margins = []
    for row in range(3):
        rewards = []
        for side in range(2):
            total = 0.0
            for model, sign in ((policy, 1), (reference, -1)):
                # without what a sequence is filled up with
                logits = model.double()(idx[row : row + 1, side], targets[row : row + 1, side])[0]
                model.float()
                p = torch.log_softmax(logits[0], -1)
                counted = [t for t in range(idx.size(2)) if targets[row, side, t] >= 0]
                total += sign * sum(p[t, targets[row, side, t]].item() for t in counted)
            rewards.append(0.3 * total)
        margins.append(rewards[0] - rewards[1])
    assert sums[0].item() == pytest.approx(sum(margins), abs=1e-3)
    wanted = sum(math.log1p(math.exp(-margin)) for margin in margins) / 3
    assert loss.item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_margins_grow_and_held_out_pairs_come_into_order(
    folder: Path, tmp_path: Path, rank: int
) -> None:
    config = a_run(folder, tmp_path / "run", max_iters=20, eval_interval=10, lora_rank=rank)
    train(config, begun)
    evals, steps = metrics(config, "eval"), metrics(config)
    assert evals[0]["val_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert evals[0]["reward_margin"] == pytest.approx(0, abs=1e-5)
    margins = [entry["reward_margin"] for entry in evals]
    assert margins == sorted(margins) and margins[-1] > 0.2
    assert evals[-1]["accuracy"] > 0.9 and evals[-1]["val_loss"] < 0.6
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[-1]["reward_margin"] > 0.1 and steps[-1]["accuracy"] > 0.7
    state = run_folder.read_state(run_folder.find(tmp_path / "run", "last"))
    assert state.scores and state.scores.accuracy == evals[-1]["accuracy"]
    assert len(state.reference) == (0 if rank else 64) and state.dataset.chat_template


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_goes_on_bit_for_bit_and_from_its_reference_only(
    folder: Path, tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = a_run(folder, tmp_path / "whole", lora_rank=rank)
    train(whole, begun)
    parts = dataclasses.replace(whole, out_dir=str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        assert train(parts, begun).stopped
    resumed = dataclasses.replace(parts, init_from="resume")

    def another(config: TrainConfig, dataset: Dataset) -> GPT:
        return tiny_model("llama", vocab_size=dataset.vocab_size, block_size=64, seed=4)

    def gone(config: TrainConfig, dataset: Dataset) -> GPT:
        raise UsageError("no run at elsewhere")

    if not rank:
        with pytest.raises(BardletError, match=r"elsewhere is another model than .* began from"):
            train(resumed, another)
        with pytest.raises(BardletError, match="which cannot be read: no run at elsewhere"):
            train(resumed, gone)
    train(resumed, gone if rank else begun)
    assert_same_end(whole, parts)


def test_parts_of_a_batch_and_processes_learn_the_same(folder: Path, tmp_path: Path) -> None:
    """Within rounding of float32 after six steps."""
    one = a_run(folder, tmp_path / "one")
    train(one, begun)
    changes: list[dict[str, Any]] = [{"batch_size": 2, "gradient_accumulation_steps": 2}, {}]
    for number, change in enumerate(changes):
        other = dataclasses.replace(one, out_dir=str(tmp_path / f"{number}"), **change)
        if change:
            train(other, begun)
        else:
            as_ranks(2, lambda: train(other, begun))  # noqa: B023
        assert losses(other) == pytest.approx(losses(one), abs=1e-5)
        assert losses(other, "eval") == pytest.approx(losses(one, "eval"), abs=1e-5)


def test_a_model_is_judged_by_likelihood_without_a_reference(folder: Path, tmp_path: Path) -> None:
    dataset = Dataset(folder / "pairs")
    config = a_run(folder, tmp_path)
    score = by_likelihood(
        begun(config, dataset), dataset, "val", batch_size=3, machine=CPU, group=Group()
    )
    one = by_likelihood(
        begun(config, dataset), dataset, "val", batch_size=100, machine=CPU, group=Group()
    )
    assert score.loss == pytest.approx(one.loss) and score.accuracy == one.accuracy
    pairs = Pairs(dataset, "val", 64)
    idx, targets = pairs.read(list(range(len(pairs))))
    _, loss = begun(config, dataset)(idx[:, 0], targets[:, 0])
    assert score.loss == pytest.approx(loss.item(), rel=1e-5) and score.pairs == len(pairs)


def refusal(config: TrainConfig) -> str:
    with pytest.raises(BardletError) as error:
        train(config, begun)
    return str(error.value)


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    config = a_run(folder, tmp_path / "run")
    texts = dataclasses.replace(config, dataset=str(folder / "texts"))
    assert "objective=dpo trains on pairs" in refusal(texts)
    assert "--objective=dpo" in refusal(dataclasses.replace(config, objective="lm"))
    assert "no pair" in refusal(dataclasses.replace(config, block_size=8))
    two = f"{folder / 'pairs'}:1,{folder / 'pairs'}:1"
    assert "trains on one dataset" in refusal(dataclasses.replace(config, dataset=two))
    for options, message in (
        ({"objective": "dpo"}, "goes on from a model"),
        ({"dpo_beta": 0.5}, "dpo_beta=0.5 does not go with objective=lm"),
        (
            {"objective": "dpo", "init_from": "x", "distill_from": "y"},
            "does not go with objective=dpo",
        ),
        ({"objective": "dpo", "init_from": "x", "dpo_beta": 0}, "out of range"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve([("test", options)])
    train(dataclasses.replace(config, max_iters=1), begun)
    other = dataclasses.replace(config, init_from="resume", objective="lm")
    assert "--objective=dpo" in refusal(other)


def test_states_of_before_have_no_reference() -> None:
    assert {f.name: f.default for f in dataclasses.fields(RunState)}["reference"] == ""
