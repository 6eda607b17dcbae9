"""Validation is one number: whatever the batch, the shards and the number of processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pytest import MonkeyPatch
from support import tiny_model

from bardlet import evaluate as evaluation
from bardlet import native
from bardlet.data.dataset.folder import Dataset
from bardlet.evaluate import Score, evaluate
from bardlet.model import GPT
from bardlet.native.training import NativeGPT
from bardlet.system import device
from bardlet.system.distributed import Group


def score(model: GPT, dataset: Dataset, batch_size: int = 3, **options: object) -> Score:
    machine = device.choose("cpu", "float32")
    return evaluate(
        model, dataset, "val", batch_size=batch_size, machine=machine, group=Group(), **options
    )


@pytest.fixture
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset(dataset_folder)


def by_hand(model: GPT, dataset: Dataset) -> float:
    """The mean loss with every token but the first predicted once, a window at a time."""
    tokens = torch.from_numpy(dataset.splits["val"].read(0, 10**6))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            window = tokens[start : start + 17][None]
            logits, _ = model(window[:, :-1], window[:, 1:])
            losses = torch.nn.functional.cross_entropy(
                logits[0].double(), window[0, 1:], reduction="sum"
            )
            total += losses.item()
    return total / (len(tokens) - 1)


def test_whole_split_each_token_once(family: str, dataset: Dataset) -> None:
    model = tiny_model(family, vocab_size=dataset.vocab_size).eval()
    found = score(model, dataset)
    assert found.tokens == len(dataset.splits["val"]) - 1 == 599  # not a multiple of 16
    assert found.loss == pytest.approx(by_hand(model, dataset), abs=1e-6)


def test_no_batch_size_changes_it(dataset: Dataset) -> None:
    model = tiny_model("llama", vocab_size=dataset.vocab_size)
    losses = [score(model, dataset, batch_size=b).loss for b in (1, 7, 64)]
    assert max(losses) - min(losses) < 1e-6


@pytest.mark.skipif(native.library() is None, reason="the core was not compiled")
def test_the_core_scores_short_windows_many_at_a_time(
    dataset: Dataset, monkeypatch: MonkeyPatch
) -> None:
    calls: list[int] = []
    compute = NativeGPT.compute
    monkeypatch.setattr(evaluation, "CORE_TOKENS", 256)
    monkeypatch.setattr(
        NativeGPT, "compute", lambda model, idx, *rest: calls.append(len(idx))
        or compute(model, idx, *rest),
    )  # fmt: skip
    shape = {"block_size": 32, "n_embd": 64, "n_head": 2, "n_kv_head": 0, "mlp_dim": 64}
    model = tiny_model("llama", vocab_size=dataset.vocab_size, **shape)
    few, many = (score(model, dataset, batch_size=size) for size in (3, 16))
    assert calls == [8, 8, 3, 16, 3]  # 599 tokens in windows of 32
    monkeypatch.setattr(evaluation, "fits", lambda *_, **__: False)
    torchs = score(model, dataset)
    assert few.tokens == many.tokens == torchs.tokens == 599
    assert [few.loss, many.loss] == pytest.approx([torchs.loss] * 2, abs=1e-6)


def test_each_process_scores_its_share(dataset: Dataset) -> None:
    """599 tokens in windows of 16, of which three make a batch: 13 batches."""

    class Share(Group):
        """A process that is told its own sums where it asks for those of all."""

        def sum(self, values: list[float], device: torch.device) -> list[float]:
            return values

    model = tiny_model("llama", vocab_size=dataset.vocab_size)
    machine = device.choose("cpu", "float32")
    scores = [
        evaluate(
            model, dataset, "val", batch_size=3, machine=machine,
            group=Share(rank=rank, world_size=2),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [score.tokens for score in scores] == [7 * 48 - 25, 6 * 48]
    nats = sum(score.loss * score.tokens for score in scores)
    assert nats / 599 == pytest.approx(score(model, dataset).loss, abs=1e-6)


def test_no_dropout_and_the_mode_is_kept(dataset: Dataset) -> None:
    model = tiny_model("llama", vocab_size=dataset.vocab_size, dropout=0.5)
    model.train()
    plain = tiny_model("llama", vocab_size=dataset.vocab_size)
    assert score(model, dataset).loss == score(plain, dataset).loss
    assert model.training


def test_the_global_generator_is_left_alone(dataset: Dataset) -> None:
    model = tiny_model("llama", vocab_size=dataset.vocab_size)
    before = torch.get_rng_state()
    score(model, dataset)
    score(model, dataset, sampled=2, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_knows_nothing_scores_ln_of_the_vocabulary(dataset: Dataset) -> None:
    model = tiny_model("llama", vocab_size=dataset.vocab_size)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = score(model, dataset)
    uniform = math.log(dataset.vocab_size)
    assert found.loss == pytest.approx(uniform, abs=1e-5)
    assert found.perplexity == pytest.approx(dataset.vocab_size, rel=1e-4)
    assert found.bits_per_byte == pytest.approx(uniform / math.log(2), abs=1e-5)  # ASCII


def test_sampled_estimate_is_repeatable_and_near_the_whole(dataset: Dataset) -> None:
    model = tiny_model("llama", vocab_size=dataset.vocab_size)
    sampled = score(model, dataset, batch_size=16, sampled=40, seed=1)
    assert sampled == score(model, dataset, batch_size=16, sampled=40, seed=1)
    assert sampled.loss != score(model, dataset, batch_size=16, sampled=40, seed=2).loss
    assert sampled.tokens == 40 * 16 * 16
    assert sampled.loss == pytest.approx(score(model, dataset).loss, rel=0.05)
