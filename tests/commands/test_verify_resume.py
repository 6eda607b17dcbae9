"""`bardlet verify-resume`: it says equal where it is so, and sees where it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import tiny_config

from bardlet import cli
from bardlet.commands import verify_resume
from bardlet.config import to_toml
from bardlet.run import run_folder
from bardlet.train import train


def test_a_run_is_killed_resumed_and_equal(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"dropout": 0.2, "gradient_accumulation_steps": 2, "stages": 2}
    config = tiny_config(dataset_folder, tmp_path / "run", max_iters=100_000, **options)
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    code = cli.main(["verify-resume", str(tmp_path / "run.toml"), "--seconds=1", "--json"])
    printed = capsys.readouterr()
    assert "of the 2 stages, the first is tried" in printed.err
    found = json.loads(printed.out)
    assert (code, found["equal"], found["differ"], found["losses_equal"]) == (0, True, [], True)
    assert 0 < found["killed_at"] < found["iters"]
    assert found["bytes"] > 100_000
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_equal(dataset_folder: Path, tmp_path: Path) -> None:
    one = tiny_config(dataset_folder, tmp_path / "one")
    other = tiny_config(dataset_folder, tmp_path / "other", seed=1)
    train(one)
    train(other)
    found = verify_resume.compare(tmp_path / "one", tmp_path / "other")
    assert not found["equal"] and not found["losses_equal"]
    assert "lm_head.weight" in found["differ"]
    assert verify_resume.compare(tmp_path / "one", tmp_path / "one")["equal"]


def test_a_difference_is_said_and_exits_with_1(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A checkpoint that is not what training left shows: here in one bit."""
    config = tiny_config(dataset_folder, tmp_path / "run")
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    train(config)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    weights = run_folder.newest(tmp_path / "other") / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    found = verify_resume.compare(tmp_path / "run", tmp_path / "other")
    assert not found["equal"] and found["losses_equal"] and len(found["differ"]) == 1
    ended = {**found, "iters": 8, "killed_at": 4}
    monkeypatch.setattr(verify_resume, "verify_resume", lambda *_: ended)
    capsys.readouterr()
    assert cli.main(["verify-resume", str(tmp_path / "run.toml"), "--seconds=1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("NOT equal after 8") and "1 of " in out and "losses equal" in out


def test_what_training_cannot_do_is_said(
    tmp_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", block_size=100_000)
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["verify-resume", str(tmp_path / "run.toml"), "--seconds=1"]) == 1
    assert "block_size=100000 needs at least 100001" in capsys.readouterr().err
    assert cli.main(["verify-resume", "demo", "--dataset=nothing"]) == 1
    assert "no dataset at data/nothing" in capsys.readouterr().err
