"""A validation split of another kind: the gap, what differs, and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import some_text, tiny_config

from bardlet import cli
from bardlet.analysis import doctor
from bardlet.analysis.history import History
from bardlet.analysis.splits import difference, gap
from bardlet.config import to_toml
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus


def table(length: int) -> str:
    rows = np.random.default_rng(1).integers(0, 10**9, size=length // 10 + 1)
    return "".join(f"{row:9d}\n" for row in rows)[:length]


def dataset(text: str, folder: Path, **options: Any) -> Dataset:
    return prepare(Corpus(name=folder.name, text=text, sources=()), folder, **options)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """A text whose last tenth is a table."""
    return some_text(27_000) + table(3000)


def past(*losses: tuple[float, float], sampled: int = 0) -> History:
    evals = [
        {"iter": 10 * i, "train_loss": train, "val_loss": val, "val_batches": sampled}
        for i, (train, val) in enumerate(losses)
    ]
    return History(iters=[], evals=evals, events=[], start={})


def test_a_text_whose_end_is_of_another_kind(mixed: str, tmp_path: Path) -> None:
    finding = gap(past((3.5, 3.8), (2.04, 3.94)), dataset(mixed, tmp_path / "a"))
    assert finding is None, "3.80 at 3.50 is no gap"
    finding = gap(past((2.04, 3.94)), dataset(mixed, tmp_path / "a"))
    assert finding is not None and finding.illness == "the splits are of different kinds"
    assert finding.evidence.startswith("val loss 3.94 at a train loss of 2.04, 1.90 nats between")
    assert "of the characters differ (in train and in val: " in finding.evidence
    assert "--split blocks" in finding.suggestion
    assert "~3.94" in gap(past((2.04, 3.94), sampled=5), None).evidence  # pyright: ignore


def test_what_split_blocks_gives_is_of_one_kind(mixed: str, tmp_path: Path) -> None:
    assert "differ" in difference(dataset(mixed, tmp_path / "a"))
    assert difference(dataset(mixed, tmp_path / "b", split="blocks")) == ""


@pytest.mark.parametrize("length", [300, 3000, 100_000])
@pytest.mark.parametrize("alphabet", [20, 3000])
def test_chance_is_no_difference(length: int, alphabet: int, tmp_path: Path) -> None:
    ids = np.random.default_rng(length).integers(0, alphabet, size=length)
    text = "".join(chr(0x4E00 + i) for i in ids)
    assert difference(dataset(text, tmp_path / "a")) == ""


def test_a_gap_without_a_difference_is_another_finding(tmp_path: Path) -> None:
    alike = dataset(some_text(20_000), tmp_path / "a")
    finding = gap(past((2.0, 2.2), (0.5, 2.1)), alike)
    assert finding is not None and finding.illness == "validation far above train"
    assert "--dropout" in finding.suggestion
    overfit = past((0.8, 2.1), (0.3, 3.0))
    assert [f.illness for f in doctor.diagnose(overfit, alike)] == ["overfitting"]
    assert gap(past((1.10, 1.47)), alike) is None  # a preset's


def test_the_command_looks_at_the_runs_dataset(
    mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset(mixed, Path("data/mixed"))
    config = tiny_config(Path("data/mixed"), Path("out/m"), max_iters=40, eval_interval=40)
    Path("m.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["train", "m.toml"]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", "out/m", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["healthy"] is False
    finding = next(f for f in result["findings"] if "different kinds" in f["illness"])
    assert "nats between them" in finding["evidence"]
    Path("data/mixed/manifest.json").unlink()  # without the dataset, the gap is still said
    assert cli.main(["doctor", "out/m"]) == 1
    assert "validation far above train" in capsys.readouterr().out
