"""Chains of runs: equal to the runs by hand, and stopped anywhere."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from support import PLAY, as_ranks, assert_same_end, losses, stop_after, tiny_config

from bardlet.config import TrainConfig, resolve, to_toml
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import CheckpointError, UsageError
from bardlet.planning import chain
from bardlet.train import Result, train

SHAPE = {"n_embd": 64, "n_head": 2, "n_kv_head": 0, "block_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "data"
    prepare(Corpus(name="play", text=PLAY, sources=()), folder)
    return folder


def in_stages(data: Path, out: Path, **changes: object) -> TrainConfig:
    options = {**SHAPE, "max_iters": 6, "eval_interval": 6, "stages": 3, "stage_iters": 8}
    return tiny_config(data, out, **{**options, "distill_weight": 0.6, **changes})


def trained(config: TrainConfig) -> Result:
    return chain.train_chain(config, train)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A chain of three that nothing disturbed."""
    config = in_stages(data, tmp_path_factory.mktemp("whole") / "run")
    assert trained(config).iter == 8
    return config


def last_of(whole: TrainConfig, out: Path) -> TrainConfig:
    return dataclasses.replace(whole, out_dir=str(out))


def test_a_chain_is_the_runs_by_hand(data: Path, whole: TrainConfig, tmp_path: Path) -> None:
    first = tiny_config(data, tmp_path / "1", **SHAPE, max_iters=6, eval_interval=6)
    train(first)
    shared = {**SHAPE, "max_iters": 8, "eval_interval": 6, "distill_weight": 0.6}
    second = tiny_config(data, tmp_path / "2", **shared, seed=1338, distill_from=first.out_dir)
    train(second)
    third = tiny_config(data, tmp_path / "3", **shared, seed=1339, distill_from=second.out_dir)
    train(third)
    assert_same_end(third, whole)
    stage = dataclasses.replace(whole, out_dir=f"{whole.out_dir}/stages/1")
    assert_same_end(first, stage)


def test_a_stage_of_its_own_options_is_the_run_by_hand(
    data: Path, whole: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (f"{whole.out_dir}/stages/{number}" for number in (1, 2))
    by_hand = tiny_config(
        data, tmp_path / "3", **SHAPE, max_iters=9, eval_interval=6, seed=1339,
        distill_from=f"{one},{two}", distill_weight=0.8, dropout=0.1,
    )  # fmt: skip
    train(by_hand)
    own = "3: distill_from=1,2 distill_weight=0.8; 1: ; 3: max_iters=9 dropout=0.1"
    config = dataclasses.replace(last_of(whole, tmp_path / "run"), stage_options=own)
    shutil.copytree(f"{whole.out_dir}/stages", f"{config.out_dir}/stages")
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        assert trained(config).stopped
    stopped = resolve([("run", tomllib.loads(Path(config.out_dir, "config.toml").read_text()))])
    assert (stopped.seed, stopped.max_iters, stopped.dropout) == (1339, 9, 0.1)
    assert not trained(dataclasses.replace(stopped, init_from="resume")).stopped
    assert_same_end(by_hand, config)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("max_iters=9", "does not begin with a stage, from 1 to 3, and a colon"),
        ("4: max_iters=9", "does not begin with a stage, from 1 to 3"),
        ("2: max_iter=9", "stage 2: unknown option max_iter, did you mean max_iters?"),
        ("2: max_iters=0.5", "stage 2: max_iters=0.5 is not an integer"),
        ("2: dropout", "stage 2: dropout= is not a number"),
        ("3: out_dir=elsewhere", "out_dir is that of the whole chain"),
        ("2: n_head=3", "stage 2: n_embd=64 is not divisible by n_head=3"),
    ],
)
def test_options_that_fit_no_stage_are_refused_before_the_first(
    data: Path, tmp_path: Path, own: str, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        trained(in_stages(data, tmp_path / "run", stage_options=own))
    assert not (tmp_path / "run").exists()


def test_teachers_of_a_stage_may_be_other_runs(data: Path, tmp_path: Path) -> None:
    config = in_stages(data, tmp_path / "run", stage_options="2: distill_from=1,2,../run")
    assert chain.stage_of(config, 2).distill_from == f"{config.out_dir}/stages/1,2,../run"


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("stops", [(3,), (7, 2)], ids=["in the first", "in the second, twice"])
def test_a_chain_that_is_stopped_goes_on(
    whole: TrainConfig, tmp_path: Path, stops: tuple[int, ...], resumed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = last_of(whole, tmp_path / "run")
    for iterations in stops:
        with monkeypatch.context() as patched:
            stop_after(iterations, patched)
            assert trained(config).stopped
        if resumed:
            text = Path(config.out_dir, "config.toml")
            assert text.read_text() == to_toml(config)
            config = dataclasses.replace(config, init_from="resume")
            break
    assert not trained(config).stopped
    assert_same_end(whole, config)


def test_a_last_stage_that_is_stopped_goes_on(
    whole: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = last_of(whole, tmp_path / "run")
    patched = pytest.MonkeyPatch()

    def train_one(stage: TrainConfig) -> Result:
        if stage.out_dir == config.out_dir:
            stop_after(3, patched)
        return train(stage)

    assert chain.train_chain(config, train_one).stopped
    patched.undo()
    own = {"seed": 1339, "max_iters": 8, "distill_from": f"{config.out_dir}/stages/2"}
    assert trained(dataclasses.replace(config, init_from="resume", **own)).iter == 8
    assert_same_end(whole, config)


def test_a_chain_that_was_moved_goes_on(whole: TrainConfig, tmp_path: Path) -> None:
    config = last_of(whole, tmp_path / "run")
    shutil.copytree(whole.out_dir, config.out_dir)
    more = {"init_from": "resume", "seed": 1339, "max_iters": 9, "distill_from": "out/elsewhere"}
    assert trained(dataclasses.replace(config, **more)).iter == 9


def test_an_unfinished_chain_has_no_model_to_evaluate(
    whole: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = last_of(whole, tmp_path / "run")
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        trained(config)
    with pytest.raises(CheckpointError, match="no checkpoint 'last'"):
        trained(dataclasses.replace(config, init_from="resume", eval_only=True))


def test_every_stage_of_a_chain_that_goes_on_begins_from_the_same_model(
    data: Path, tmp_path: Path
) -> None:
    config = in_stages(data, tmp_path / "run", init_from="some/model")
    stages: list[TrainConfig] = []

    def train_one(stage: TrainConfig) -> Result:
        stages.append(stage)
        return Result(
            out_dir="", iter=0, val_loss=1.0, best_val_loss=1.0, train_s=0.0,
            stopped=len(stages) == 1,
        )  # fmt: skip

    for init_from in ("some/model", "resume", "resume"):
        chain.train_chain(dataclasses.replace(config, init_from=init_from), train_one)
    assert {stage.init_from for stage in stages} == {"some/model"} and len(stages) == 7


def test_a_finished_chain_is_kept(whole: TrainConfig, tmp_path: Path) -> None:
    before = losses(whole)
    with pytest.raises(CheckpointError, match="already holds a run"):
        trained(whole)
    assert losses(whole) == before


def test_fresh_trains_every_stage_again(data: Path, tmp_path: Path) -> None:
    config = in_stages(data, tmp_path / "run", stages=2, max_iters=2, stage_iters=2)
    trained(config)
    other = dataclasses.replace(config, fresh=True, learning_rate=1e-3, min_lr=1e-4)
    trained(other)
    stage = dataclasses.replace(config, out_dir=f"{config.out_dir}/stages/1")
    assert len(losses(stage)) == 2 and len(losses(config)) == 2


def test_two_processes_train_a_chain(data: Path, tmp_path: Path) -> None:
    one = in_stages(data, tmp_path / "one", stages=2, max_iters=3, stage_iters=3)
    trained(one)
    two = last_of(one, tmp_path / "two")
    as_ranks(2, lambda: trained(two))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"stage_iters": 5}, {"stage_options": "1: "}, {"distill_weight": 0.2}, {"stages": 0}],
)
def test_options_without_a_chain_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        resolve([("test", options)])
