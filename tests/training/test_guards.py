"""What stops a run, what it skips, and that a resumed run judges as the undisturbed one."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import assert_same_end, dying, events, judged, losses, stop_after, tiny_config

from bardlet.data.dataset.loader import Prefetcher, StreamBatches
from bardlet.errors import CheckpointError, TrainingError
from bardlet.model import GPT
from bardlet.run import run_folder
from bardlet.run.state import CollapseState, GuardState, read_json
from bardlet.train import train
from bardlet.training import guards
from bardlet.training.collapse import Collapse
from bardlet.training.log import Log


def spoiled(monkeypatch: pytest.MonkeyPatch, at: set[int], change: Any) -> None:
    """Let `change` act on the loss of these iterations, each a single micro-batch."""
    count = -1
    forward = GPT.forward

    def wrong(self: GPT, idx: Any, targets: Any = None, first: Any = None) -> Any:
        nonlocal count
        logits, loss = forward(self, idx, targets, first=first)
        if self.training:
            count += 1
            if count in at:
                loss = change(loss)
        return logits, loss

    monkeypatch.setattr(GPT, "forward", wrong)


def test_a_loss_that_is_none_stops_before_the_step(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=1)
    spoiled(monkeypatch, {5}, lambda loss: loss * math.nan)
    with pytest.raises(TrainingError, match="the loss is nan at iteration 5, before its step") as e:
        train(config)
    assert "learning_rate" in e.value.hint and "keeps its last checkpoint" in e.value.hint
    assert run_folder.iter_of(run_folder.newest(tmp_path / "run")) == 5
    assert events(config)[-1]["event"] == "nonfinite"
    assert len(losses(config)) == 5


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_none_stops_before_the_step(
    clip: float, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", grad_clip=clip, save_interval=1)
    with monkeypatch.context() as spoiling:
        # adds nothing to the loss, and an infinite slope
        spoiled(spoiling, {3}, lambda loss: loss + (loss - loss.detach()).abs().sqrt())
        with pytest.raises(TrainingError, match=r"the gradient is (nan|inf) at iteration 3"):
            train(config)
    assert run_folder.iter_of(run_folder.newest(tmp_path / "run")) == 3
    assert train(config).iter == 8  # which goes on from the checkpoint


@pytest.fixture
def easily(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge after 4 losses, so that tiny runs have spikes."""
    monkeypatch.setattr(guards, "MIN_HISTORY", 4)


@pytest.mark.usefixtures("easily")
@pytest.mark.parametrize("skip", [True, False])
def test_a_spike_is_logged_and_skipped_if_asked_for(
    skip: bool, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tiny_config(
        dataset_folder, tmp_path / "run", save_interval=1, keep_checkpoints=20, skip_spikes=skip
    )
    spoiled(monkeypatch, {6}, lambda loss: loss + 50)
    train(config)
    event = events(config)
    assert [(e["event"], e["iter"]) for e in event] == [("skipped" if skip else "spike", 6)]
    assert event[0]["loss"] > 50 and event[0]["z"] > 6
    assert "iter 6: the loss 5" in capsys.readouterr().out
    one, two = (
        read_json(tmp_path / "run/checkpoints" / run_folder.name_of(it) / "checksums.json")["files"]
        for it in (6, 7)
    )
    same = one["model.safetensors"] == two["model.safetensors"]
    assert same == skip, "a skipped iteration leaves the weights alone"
    assert one["optimizer.safetensors"] == two["optimizer.safetensors"] or not skip


@pytest.mark.usefixtures("easily")
def test_what_lasts_is_no_spike() -> None:
    config = dataclasses.replace(tiny_config(Path("x"), Path("y")), skip_spikes=True)
    guard = guards.Guards(config, Log(config, main=False), 65, GuardState())
    calm = [2.0 + 0.01 * (i % 3) for i in range(20)]
    assert all(guard.should_step(it, loss) for it, loss in enumerate(calm))
    taken = [guard.should_step(20 + i, 9.0) for i in range(guards.MAX_SKIPPED + 5)]
    assert taken == [False] * guards.MAX_SKIPPED + [True] * 5


def test_z_score_is_numpys() -> None:
    before = np.random.default_rng(0).normal(2, 0.3, size=64)
    expected = (5 - before.mean()) / before.std()
    assert guards.z_score(5.0, before.tolist()) == pytest.approx(expected, rel=1e-12)
    assert guards.z_score(5.0, before[:31].tolist()) == 0.0


@pytest.mark.usefixtures("easily")
def test_spikes_are_skipped_alike_after_a_resume(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "SPIKE", -1.0)  # what does not fall is one
    monkeypatch.setattr(guards, "MAX_SKIPPED", 2)
    options = {"skip_spikes": True, "max_iters": 24, "eval_interval": 100}
    whole = tiny_config(dataset_folder, tmp_path / "whole", **options)
    train(whole)
    assert [e["event"] for e in events(whole)].count("skipped") >= 2
    halves = tiny_config(dataset_folder, tmp_path / "halves", **options)
    with monkeypatch.context() as stopping:
        stop_after(12, stopping)
        assert train(halves).stopped
    train(halves)
    assert_same_end(whole, halves)
    assert events(whole) == events(halves)


def test_patience_ends_a_run_and_keeps_the_best(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tiny_config(
        dataset_folder, tmp_path / "run", eval_interval=2, max_iters=40, patience=2,
        always_save_checkpoint=False,
    )  # fmt: skip
    judged([2.5, 2.25, 2.75, 2.5], monkeypatch)  # after 2, 4, 6 and 8
    result = train(config)
    assert (result.iter, result.best_val_loss, result.stopped) == (8, 2.25, False)
    assert "stopping early: no progress in 2 evaluations" in capsys.readouterr().out
    best, last = (run_folder.read_pointer(tmp_path / "run", name) for name in ("best", "last"))
    assert (run_folder.iter_of(best), run_folder.iter_of(last)) == (4, 8)
    # it is done: neither overwritten nor trained on by mistake, but on purpose
    with pytest.raises(CheckpointError, match="finished after 8 iterations"):
        train(config)
    judged([2.0, 1.9], monkeypatch)
    longer = dataclasses.replace(config, init_from="resume", patience=5, max_iters=12)
    assert train(longer).iter == 12


def test_patience_counts_on_after_a_resume(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", eval_interval=2, max_iters=40, patience=3
    )  # fmt: skip
    judged([2.25, 2.5, 2.75, 2.5], monkeypatch)
    with monkeypatch.context() as stopping:
        stop_after(5, stopping)
        assert train(config).stopped  # between the second evaluation and the third
    assert train(config).iter == 8


DYING = {"max_iters": 80, "eval_interval": 80, "log_interval": 10}


def test_a_run_that_has_stopped_learning_is_stopped(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", **DYING)
    dying(monkeypatch, at=40)
    seen = r"at iteration 40 the loss returned to ln 15 = 2\.708 from \d\.\d\d, and the gradient's"
    with pytest.raises(TrainingError, match=rf"stopped learning: {seen} norm is 0 since") as e:
        train(config)
    assert "--fresh" in e.value.hint and "--guard_dead=false" in e.value.hint
    event = events(config)[-1]
    assert (event["event"], event["iter"]) == ("dead", 40 + guards.DEAD - 1)
    assert event["loss"] == pytest.approx(math.log(15), abs=1e-5) and event["grad_norm"] == 0


def test_without_the_guard_it_is_said_once(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tiny_config(dataset_folder, tmp_path / "run", guard_dead=False, **DYING)
    dying(monkeypatch, at=40)
    assert train(config).iter == 80
    assert [e["event"] for e in events(config)] == ["dead"]
    assert capsys.readouterr().out.count("warning: the run has stopped learning") == 1


def test_a_resumed_run_stops_where_the_undisturbed_one_does(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", **DYING)
    dying(monkeypatch, at=40)
    with monkeypatch.context() as stopping:
        stop_after(50, stopping)
        assert train(config).stopped
    with pytest.raises(TrainingError, match="at iteration 40 the loss returned"):
        train(config)
    assert events(config)[-1]["iter"] == 40 + guards.DEAD - 1


def collapse_of(losses_and_norms: list[tuple[float, float]]) -> int:
    """The longest stretch of iterations without learning, of a vocabulary of 65."""
    collapse = Collapse(65, CollapseState())
    return max(collapse.see(it, *seen) for it, seen in enumerate(losses_and_norms))


BLANK = math.log(65)


@pytest.mark.parametrize(
    "run",
    [
        [(BLANK, 0.6)] * 99,  # no weight has moved yet: a tiny rate, a warmup
        [(BLANK, math.inf)] * 30 + [(3.0, 0.5)] * 30,  # float16's scale settles
        [(2.0, 0.5), *[(0.0, 0.0)] * 99],  # no target of a batch counts
        [(2.0, 0.5), *[(1e-5, 1e-9)] * 99],  # all is learnt by heart
        [(2.0, 0.5), *[(BLANK + 0.01 * (-1) ** i, 0.5) for i in range(99)]],  # by chance
        [(2.0, 0.5), *[(5.0, 1e-3)] * 99],  # diverged, which is not the end of learning
    ],
    ids=["untrained", "scale", "masked", "learnt", "chance", "diverged"],
)
def test_what_is_no_end_of_learning(run: list[tuple[float, float]]) -> None:
    assert collapse_of(run) == 0


def test_the_end_of_learning_by_either_sign() -> None:
    assert collapse_of([(2.0, 0.5), *[(BLANK, 0.5)] * 30]) == 30
    assert collapse_of([(30.0, 0.0)] * 30) == 30
    pauses = [(BLANK, 0.0), (0.0, 0.0)] * 15  # a batch without targets changes nothing
    assert collapse_of([(2.0, 0.5), *pauses]) == 15
    assert collapse_of([(2.0, 0.5), *[(BLANK, 0.0), (3.0, 0.1)] * 15]) == 1


def test_a_masked_run_at_a_tiny_rate_goes_on(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Every other batch has no target, the others three; the loss stays at ln V."""
    plain = StreamBatches.batch

    def batch(self: StreamBatches, it: int) -> tuple[torch.Tensor, torch.Tensor]:
        idx, targets = plain(self, it)
        masked = torch.full_like(targets, -1)
        masked[0, :3] = targets[0, :3] if it % 2 else -1
        return idx, masked

    monkeypatch.setattr(StreamBatches, "batch", batch)
    config = tiny_config(
        dataset_folder, tmp_path / "run", family, learning_rate=1e-7, min_lr=0.0, muon_lr=1e-7,
        max_iters=60, eval_interval=60,
    )  # fmt: skip
    assert train(config).iter == 60
    assert events(config) == []


def test_patience_counts_the_evaluation_after_which_a_run_was_killed(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint was saved before it: the count stands with its losses."""
    config = tiny_config(
        dataset_folder, tmp_path / "run", eval_interval=2, max_iters=40, patience=3
    )  # fmt: skip
    judged([2.25, 2.5, 2.75, 2.5], monkeypatch)
    with monkeypatch.context() as killing:
        killing.setattr(Prefetcher, "batch", interrupted_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert run_folder.iter_of(run_folder.newest(tmp_path / "run")) == 4
    assert train(config).iter == 8


def interrupted_at(last: int) -> Any:
    """A loader that ends the run when iteration `last` asks for its batch."""
    fetch = Prefetcher.batch

    def batch(self: Any, it: int) -> Any:
        if it == last:
            raise KeyboardInterrupt
        return fetch(self, it)

    return batch


def test_deterministic_is_torchs(dataset_folder: Path, tmp_path: Path) -> None:
    try:
        train(tiny_config(dataset_folder, tmp_path / "run", deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
