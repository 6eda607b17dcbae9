"""Going on from an earlier checkpoint: exactly, and with what came after it kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support import assert_same_end, judged, metrics, tensors, tiny_config

from bardlet import cli
from bardlet.config import TrainConfig
from bardlet.run import run_folder
from bardlet.train import train


@pytest.fixture
def run(dataset_folder: Path, tmp_path: Path) -> TrainConfig:
    """A finished run of 8 iterations with checkpoints after 2, 4, 6 and 8."""
    options = {"save_interval": 2, "keep_checkpoints": 9, "eval_interval": 4}
    config = tiny_config(dataset_folder, tmp_path / "run", **options)
    train(config)
    assert names(tmp_path / "run") == ["iter-00000002", "iter-00000004", "iter-00000006",
                                       "iter-00000008"]  # fmt: skip
    return config


def names(run: Path) -> list[str]:
    return [folder.name for folder in run_folder.checkpoints(run)]


def resumed(config: TrainConfig, *args: str) -> int:
    return cli.main(["train", "--resume", f"--out_dir={config.out_dir}", *args])


@pytest.mark.parametrize("name", ["iter-00000002", "iter-4", "iter-00000006"])
def test_going_back_ends_as_the_run_did(
    name: str, run: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    capsys.readouterr()
    assert resumed(run, f"--checkpoint={name}") == 0
    it, kept = int(name[5:]), tmp_path / "run-until-8"
    said = capsys.readouterr()
    assert f"what came after iteration {it} is kept as the run {kept}" in said.err
    assert f"at iteration {it}\n" in said.out + said.err
    assert_same_end(run, dataclasses.replace(run, out_dir=str(tmp_path / "copy")))
    # and what came after it is a run that can be used
    later = [f"iter-{i:08d}" for i in (2, 4, 6, 8) if i > it]
    assert names(kept) == later
    assert run_folder.find(kept, "last").name == later[-1]
    assert len(metrics(dataclasses.replace(run, out_dir=str(kept)))) == 8
    shown = capsys.readouterr()
    assert cli.main(["inspect", str(kept), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["last"]["iter"] == 8
    # a second time it has another name
    assert resumed(run, f"--checkpoint={name}") == 0
    assert names(tmp_path / "run-until-8-2") == later


def test_best_is_the_best_of_those_that_stay(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"save_interval": 2, "keep_checkpoints": 9, "eval_interval": 2}
    config = tiny_config(dataset_folder, tmp_path / "run", **options)
    with monkeypatch.context() as made:
        judged([2.0, 2.2, 2.1, 1.9], made)
        train(config)
    with monkeypatch.context() as made:
        judged([2.3, 2.05], made)
        assert resumed(config, "--checkpoint=iter-4") == 0
    assert run_folder.find(tmp_path / "run", "best").name == "iter-00000002"
    assert run_folder.find(tmp_path / "run-until-8", "best").name == "iter-00000008"
    assert run_folder.read_state(run_folder.newest(tmp_path / "run")).best_val_loss == 2.0
    assert resumed(config, "--checkpoint=best") == 0
    assert names(tmp_path / "run-until-8-2") == ["iter-00000004", "iter-00000006", "iter-00000008"]


def test_it_has_the_options_of_that_checkpoint(
    run: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(run, "--max_iters=12", "--learning_rate=0.5") == 0
    capsys.readouterr()
    assert resumed(run, "--checkpoint=iter-6") == 0
    said = capsys.readouterr()
    assert "changed since" not in said.out + said.err
    newest = run_folder.read_state(run_folder.newest(Path(run.out_dir)))
    assert newest.iter == 8 and newest.config["learning_rate"] == 0.01


def test_what_cannot_be_gone_back_to(run: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(Path(run.out_dir))

    def refused(*args: str, code: int = 1) -> str:
        capsys.readouterr()
        assert cli.main(["train", f"--out_dir={run.out_dir}", *args]) == code
        assert names(Path(run.out_dir)) == before
        return capsys.readouterr().err.splitlines()[-1]

    line = refused("--resume", "--checkpoint=iter-5")
    assert "no checkpoint 'iter-5'. It has iter-00000002, iter-00000004" in line
    assert "no checkpoint '../x'" in refused("--resume", "--checkpoint=../x")
    assert "Add --resume" in refused("--checkpoint=iter-4", code=2)
    damaged = Path(run.out_dir) / "checkpoints" / "iter-00000004" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "iter-00000004/model.safetensors is missing or damaged" in refused(
        "--resume", "--checkpoint=iter-4"
    )


def test_the_newest_leaves_all_as_it_is(run: TrainConfig, tmp_path: Path) -> None:
    before = tensors(run)
    assert resumed(run, "--checkpoint=last") == 0
    assert not (tmp_path / "run-until-8").exists()
    assert tensors(run).keys() == before.keys() and len(names(tmp_path / "run")) == 4
