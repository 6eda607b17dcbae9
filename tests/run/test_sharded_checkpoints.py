"""What many processes save together is whole or absent after kills and on full disks."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

import pytest
from support import as_ranks, assert_same_end, metrics, tiny_config

from bardlet.config import TrainConfig
from bardlet.data.dataset.loader import Prefetcher
from bardlet.errors import CheckpointError, TrainingError
from bardlet.run import checkpoint, run_folder, shards
from bardlet.system import peers
from bardlet.system.distributed import here
from bardlet.train import train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
FULL = 20_000  # bytes of a file: more than documents have, and less than tensors


def a_run(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """A sharded run of four iterations that is saved after each."""
    importlib.import_module("torch.distributed.fsdp")  # a second, which forks need not take
    options = {"max_iters": 4, "eval_interval": 4, "save_interval": 1, "keep_checkpoints": 9}
    return tiny_config(data, out, "llama", shard="full", **{**options, **changes})


def kept(config: TrainConfig) -> list[int]:
    """The iterations of a run's checkpoints, each of which is as it was written."""
    folders = run_folder.checkpoints(Path(config.out_dir))
    for folder in folders:
        run_folder.verify(folder)
    return [run_folder.iter_of(folder) for folder in folders]


def dies(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Let a process end without a word while the checkpoint of iteration 2 is written."""
    module, name = {"worker": (shards, "fill"), "main": (shards, "fill"),
                    "sealed": (run_folder, "write_checksums")}[moment]  # fmt: skip
    whole = getattr(module, name)

    def last(folder: Path, *args: Any, **options: Any) -> None:
        if moment != "worker":  # all of it is written, and not under its name
            whole(folder, *args, **options)
        if ".iter-00000002" in str(folder) and here().main == (moment != "worker"):
            os._exit(0)
        if moment == "worker":
            whole(folder, *args, **options)

    monkeypatch.setattr(module, name, last)


@pytest.mark.parametrize(
    "moment", ["worker", *(pytest.param(m, marks=pytest.mark.slow) for m in ("main", "sealed"))]
)
def test_a_kill_while_it_is_written_costs_that_checkpoint(
    moment: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others end with an error; started again, all go on from the one before, bit for bit."""
    whole = a_run(dataset_folder, tmp_path / "whole")
    run = dataclasses.replace(whole, out_dir=str(tmp_path / "run"))

    monkeypatch.setattr(peers, "GRACE", 400)  # a busy machine ends no process before its error

    def work() -> None:
        train(whole)
        with monkeypatch.context() as during:
            dies(during, moment)
            with pytest.raises(TrainingError, match=r"process . of 2"):
                train(run)

    as_ranks(2, work)
    assert kept(run) == [1]
    as_ranks(2, lambda: train(run))
    assert kept(run) == [1, 2, 3, 4] and not list((tmp_path / "run/checkpoints").glob(".*"))
    assert_same_end(whole, run)


@pytest.mark.slow
def test_a_file_that_the_system_refuses_to_a_process(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the worker in iteration 2, to the main process in iteration 3; the run goes on."""
    resource = importlib.import_module("resource")
    fetch = Prefetcher.batch
    limits = {(1, 1): FULL, (1, 2): resource.RLIM_INFINITY, (0, 2): FULL,
              (0, 3): resource.RLIM_INFINITY}  # fmt: skip

    def batch(self: Prefetcher, it: int) -> Any:
        if size := limits.get((here().rank, it)):
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit))
        return fetch(self, it)

    monkeypatch.setattr(Prefetcher, "batch", batch)
    run = a_run(dataset_folder, tmp_path / "run", max_iters=5)
    as_ranks(2, lambda: train(run))
    assert kept(run) == [1, 4, 5]
    assert [e["iter"] for e in metrics(run, "event") if e["event"] == "disk"] == [2, 3]
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.OPTIMIZER])
def test_a_damaged_part_is_named_and_the_run_goes_on_from_the_one_before(
    name: str, dataset_folder: Path, tmp_path: Path
) -> None:
    """One bit of the last process's rows: in the second half of the file."""
    whole = a_run(dataset_folder, tmp_path / "whole")
    run = dataclasses.replace(whole, out_dir=str(tmp_path / "run"), max_iters=3)
    as_ranks(2, lambda: (train(whole), train(run)))
    newest = run_folder.newest(tmp_path / "run")
    content = bytearray((newest / name).read_bytes())
    content[-9] ^= 1
    (newest / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"iter-00000003/{name} is missing or damaged"):
        run_folder.verify(newest)
    on = dataclasses.replace(run, max_iters=4, init_from="resume")

    def go_on() -> None:
        with pytest.warns(UserWarning, match="damaged: its sha256 .*: going on from iter-00000002"):
            train(on)

    as_ranks(2, lambda: go_on() if here().main else train(on))
    assert_same_end(whole, on)
