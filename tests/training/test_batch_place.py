"""A resumed run takes the windows after those that were trained on, in batches of any size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support import a_state, as_ranks, losses, metrics, tiny_config

from bardlet.config import TrainConfig
from bardlet.data.dataset.loader import Prefetcher
from bardlet.errors import CheckpointError
from bardlet.io.atomic import write_json
from bardlet.run import run_folder
from bardlet.run.state import read_json
from bardlet.train import train

BLOCK = 16  # tokens of a window in tiny_config


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the windows that iterations of this process train on, in order."""
    numbers: list[int] = []
    fetch = Prefetcher.batch

    def batch(self: Prefetcher, it: int) -> Any:
        numbers.extend(self.batches.places(it))
        return fetch(self, it)

    monkeypatch.setattr(Prefetcher, "batch", batch)
    return numbers


def started(dataset_folder: Path, out: Path) -> TrainConfig:
    """A run that has trained 4 iterations of 8 sequences, and its options to go on with."""
    config = tiny_config(dataset_folder, out, batch_size=8, lr_decay_iters=8)
    train(dataclasses.replace(config, max_iters=4))
    return dataclasses.replace(config, init_from="resume")


@pytest.mark.parametrize(
    ("batch_size", "accumulation"), [(8, 1), (16, 1), (4, 1), (3, 1), (8, 3), (2, 2), (4, 2)]
)
def test_another_batch_skips_and_repeats_no_window(
    batch_size: int, accumulation: int, dataset_folder: Path, tmp_path: Path, taken: list[int]
) -> None:
    config = started(dataset_folder, tmp_path / "run")
    assert taken == list(range(32))
    options = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    train(dataclasses.replace(config, **options))
    count = 32 + 4 * batch_size * accumulation
    assert taken == list(range(count)), "each window once, in order"
    state = run_folder.read_state(run_folder.newest(tmp_path / "run"))
    assert (state.sequences, state.tokens) == (count, count * BLOCK)
    lines = metrics(config)
    assert [line["tokens"] for line in lines[3:5]] == [512, 512 + BLOCK * (count - 32) // 4]
    assert lines[-1]["tokens"] == count * BLOCK
    # and once more with the first size, from where that ended
    train(dataclasses.replace(config, max_iters=10))
    assert taken == list(range(count + 16))


def test_a_state_without_sequences_opens_as_it_did(
    dataset_folder: Path, tmp_path: Path, taken: list[int]
) -> None:
    config = started(dataset_folder, tmp_path / "run")
    newest = run_folder.newest(tmp_path / "run")
    state = read_json(newest / "state.json")
    del state["sequences"]
    write_json(newest / "state.json", state)
    names = [path.name for path in newest.iterdir() if path.name != run_folder.CHECKSUMS]
    run_folder.write_checksums(newest, names)
    train(dataclasses.replace(config, batch_size=16))
    assert taken == list(range(96))


@pytest.mark.parametrize(
    ("options", "consumed"),
    [
        ({"batch_size": 3, "gradient_accumulation_steps": 2}, 30),
        ({}, 35),
        ({"batch_size": 1e300, "gradient_accumulation_steps": 1e300}, 35),
        ({"batch_size": "3", "gradient_accumulation_steps": True}, 35),
    ],
)
def test_what_an_old_state_says_of_its_batches(options: dict[str, Any], consumed: int) -> None:
    assert a_state(5, config=options).consumed(per_iter=7) == consumed
    assert a_state(5, config=options, sequences=11).consumed(per_iter=7) == 11


def test_epochs_are_told_by_what_was_trained_on(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = started(dataset_folder, tmp_path / "run")
    capsys.readouterr()
    train(dataclasses.replace(config, batch_size=16))
    # 4 iterations of 8 windows and 4 of 16, of 5,400 tokens
    assert "tokens per iteration: 256; 8 iterations: 0.28 epochs" in capsys.readouterr().out


def test_another_context_is_another_model(dataset_folder: Path, tmp_path: Path) -> None:
    """Windows of another length have other places: a run goes on in its own or not at all."""
    config = started(dataset_folder, tmp_path / "run")
    with pytest.raises(CheckpointError, match="another model than asked for: block_size=8, not 16"):
        train(dataclasses.replace(config, block_size=8))


def test_another_number_of_processes_takes_the_same_windows(
    dataset_folder: Path, tmp_path: Path, taken: list[int]
) -> None:
    one = started(dataset_folder, tmp_path / "one")
    two = started(dataset_folder, tmp_path / "two")
    one, two = (dataclasses.replace(config, batch_size=12) for config in (one, two))
    train(one)
    as_ranks(2, lambda: train(two))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert [line["tokens"] for line in metrics(two)] == [line["tokens"] for line in metrics(one)]
    of_two, of_one = (run_folder.read_state(run_folder.newest(Path(c.out_dir))) for c in (two, one))
    assert of_two.sequences == of_one.sequences == 32 + 4 * 12


def test_another_number_of_processes_is_said(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With dropout it draws other masks, and without it sums come in another order."""
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=4)
    as_ranks(2, lambda: train(dataclasses.replace(config, max_iters=4)))
    train(dataclasses.replace(config, init_from="resume"))
    assert "and so the results: max_iters=8, was 4; processes=1, was 2\n" in capsys.readouterr().out
