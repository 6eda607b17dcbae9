"""What processes of a run have to have in common, and how a difference is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support import CPU, tiny_config

from bardlet.data.dataset import mixture
from bardlet.errors import UsageError
from bardlet.training.agreement import difference, facts, shares


def test_a_difference_is_named_with_its_process(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "a")
    dataset = mixture.opened(config.dataset)
    first = {**facts(config, CPU, dataset), "host": "a"}
    same = dataclasses.replace(config, out_dir="elsewhere")  # a disk may have another name there
    assert difference([first, {**facts(same, CPU, dataset), "host": "b"}]) == ""
    other = facts(dataclasses.replace(config, learning_rate=0.5), CPU, dataset)
    assert difference([first, first, {**other, "host": "b"}]) == (
        "process 2 on b differs from process 0 on a: learning_rate=0.5, not 0.01"
    )
    wrong = {"dataset": "f" * 64, "code": "0" * 64, "torch": "1", "dtype": "bfloat16", "host": "b"}
    said = difference([first, {**first, **wrong}])
    assert f"dataset=ffffffffffff, not {dataset.hash[:12]}" in said and said.endswith(
        ", and 1 more"
    )
    assert json.loads(json.dumps(first)) == first


def test_how_a_batch_is_shared_out(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, batch_size=3, tokens_per_step=7 * 16)
    assert config.gradient_accumulation_steps == 3
    assert shares(config, 1) == [
        "batch: 112 tokens an iteration, 7 sequences, on one process, 3 at once, 3 times"
    ]
    assert shares(config, 4) == [
        "batch: 112 tokens an iteration, 7 sequences, 1 or 2 on each of 4 processes, 2 at once"
    ]
    assert shares(dataclasses.replace(config, tokens_per_step=0), 1) == []
    with pytest.raises(UsageError, match=r"7 .* too few for 8 processes.*--tokens_per_step=128"):
        shares(config, 8)
