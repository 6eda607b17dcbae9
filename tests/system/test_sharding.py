"""A model shared out among processes computes, saves and goes on as it does in one."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from support import as_ranks, assert_same_end, losses, metrics, some_text, tensors, tiny_model
from support import tiny_config as config_of

from bardlet import cli, lora, optim
from bardlet.config import TrainConfig
from bardlet.errors import UsageError
from bardlet.run import run_folder, shards
from bardlet.system import offload, sharding, sharing
from bardlet.system.fastest import Fastest
from bardlet.system.sharding import local, per_node
from bardlet.train import train
from bardlet.training.backend import check_shard

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")

# The micro-batches are whole ones of one process, so that sums are cut alike. Weights that AdamW
# moves by a tiny gradient's sign move by all of the rate where rounding turns it.
LOSS, NORM, WEIGHTS = 1e-6, 1e-5, 1e-4

CASES: dict[str, dict[str, Any]] = {
    "gpt2-adamw": {"family": "gpt2"},  # tied
    "llama-muon": {"family": "llama"},
    "llama-tied": {"family": "llama", "optimizer": "adamw", "tie_embeddings": True},
    "gpt2-muon": {"family": "gpt2", "optimizer": "muon", "recompute": "block"},
    "masked": {"family": "llama", "dataset": "pairs", "doc_mask": True, "grad_clip": 0.1},
    "lora": {"family": "gpt2", "init_from": "a model", "lora_rank": 3},
    "taught": {"family": "gpt2", "distill_from": "teacher"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of words and one of prompts with responses, whose prompts do not count."""
    folder = tmp_path_factory.mktemp("sharding")
    (folder / "words.txt").write_text(some_text(6000), encoding="utf-8")
    assert cli.main(["prepare", str(folder / "words.txt"), "--out", str(folder / "words")]) == 0
    rows = [{"q": some_text(9, i), "a": some_text(30, i + 999)} for i in range(150)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8")
    keys = ["--prompt_key=q", "--response_key=a", "--tokenizer=byte"]
    assert cli.main(
        ["prepare", str(folder / "pairs.jsonl"), *keys, "--out", str(folder / "pairs")]
    ) == 0  # fmt: skip
    importlib.import_module("torch.distributed.fsdp")  # a second, which forks need not take
    importlib.import_module("torch.distributed.tensor")
    return folder


def tiny_config(folder: Path, name: str, **changes: Any) -> TrainConfig:
    """A run of four iterations of 8 sequences, in micro-batches of one."""
    dataset = changes.pop("dataset", "words")
    if "distill_from" in changes:
        changes["distill_from"] = str(folder / changes["distill_from"])
    options = {
        "batch_size": 1, "gradient_accumulation_steps": 8, "max_iters": 4, "eval_interval": 2,
        "learning_rate": 2e-3, "muon_lr": 2e-3,
    }  # fmt: skip
    return config_of(folder / dataset, folder / name, **{**options, **changes})


def started(config: TrainConfig) -> None:
    """Train; where a run is to begin from a model, from one of random weights."""

    def init_model(*_: object) -> Any:
        model = tiny_model(config.family, vocab_size=len(set(some_text(6000))), dropout=0.0)
        torch.manual_seed(5)
        lora.adapt(model, config.lora_rank)
        return model

    train(config, init_model)


def sharded(config: TrainConfig, how: str, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, out_dir=f"{config.out_dir}-{how}", shard=how, **changes)


def in_ranks(processes: int, configs: list[TrainConfig]) -> None:
    """Train all of them, one after another, in one group of processes; two are a node."""

    def work() -> None:
        os.environ["LOCAL_WORLD_SIZE"] = str(min(2, processes))
        for config in configs:
            started(config)

    as_ranks(processes, work, kill_after_s=600)


def assert_equal_runs(a: TrainConfig, b: TrainConfig) -> None:
    """Losses, gradient norms and everything that is saved are equal but for rounding."""
    for kind in ("iter", "eval"):
        assert losses(b, kind) == pytest.approx(losses(a, kind), rel=LOSS)
    norms = [[line["grad_norm"] for line in metrics(run)] for run in (a, b)]
    assert norms[1] == pytest.approx(norms[0], rel=NORM)
    for file in ("model", "optimizer"):
        ours, theirs = tensors(a, file), tensors(b, file)
        assert set(ours) == set(theirs)
        for name, tensor in ours.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=WEIGHTS)
    run_folder.verify(run_folder.newest(Path(b.out_dir)))


def test_shared_out_among_two_it_is_what_one_computes(folder: Path) -> None:
    one = tiny_config(folder, "daily", max_iters=2, **CASES["llama-muon"])
    started(one)
    in_ranks(2, [sharded(one, "full")])
    assert_equal_runs(one, sharded(one, "full"))


@pytest.mark.slow
def test_saved_by_two_it_goes_on_by_two_and_alone(folder: Path) -> None:
    """Saved by two, a run goes on in one, and by two again as if nothing had been."""
    one = tiny_config(folder, "one", decay_lr=False, **CASES["llama-muon"])
    started(one)
    two, again = sharded(one, "full"), sharded(one, "full", max_iters=2)
    again = dataclasses.replace(again, out_dir=f"{again.out_dir}-again")
    on = dataclasses.replace(again, init_from="resume", max_iters=4)
    in_ranks(2, [two, again, on])
    assert_equal_runs(one, two)
    assert_same_end(two, on)
    alone = dataclasses.replace(two, init_from="resume", max_iters=6, shard="none")
    longer = dataclasses.replace(one, init_from="resume", max_iters=6)
    started(alone)
    started(longer)
    assert_equal_runs(longer, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "how"), [(2, "full"), (4, "node")])
def test_ways_to_share_matrices_out_differ_by_rounding(
    processes: int, how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes and of two nodes of two: rows exchanged by parts, at once, or by all."""
    monkeypatch.setattr(sharing, "ROUND", 700)
    ways = (sharing.ROUNDS, sharing.ONCE, sharing.EVERYWHERE)
    options = {"max_iters": 2, **CASES["llama-muon"]}
    runs = [
        sharded(tiny_config(folder, f"way{i}-{processes}", **options), how)
        for i in range(len(ways))
    ]

    def work() -> None:
        os.environ["LOCAL_WORLD_SIZE"] = "2"
        for run, way in zip(runs, ways, strict=True):
            monkeypatch.setattr(Fastest, "trials", lambda *_, way=way: [way])
            started(run)

    as_ranks(processes, work, kill_after_s=600)
    for run in runs[1:]:  # of products in batches of other sizes
        assert_equal_runs(runs[0], run)
        for name, tensor in tensors(runs[0]).items():
            torch.testing.assert_close(tensors(run)[name], tensor, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2-adamw", "llama-muon"])
@pytest.mark.parametrize("how", ["none", "full"])
def test_state_that_rests_elsewhere_changes_no_bit(
    how: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several processes, sharded or not; saved with it a run goes on without, and back."""
    monkeypatch.setattr(optim, "offloads", lambda device_type, wanted: wanted)
    monkeypatch.setattr(optim.muon, "fits", lambda *_: False)
    monkeypatch.setattr(offload, "PART", 9000)
    flat = {"decay_lr": False, "eval_interval": 1, **CASES[name]}
    plain = sharded(tiny_config(folder, f"{name}-here", **flat), how)
    away = dataclasses.replace(plain, out_dir=f"{plain.out_dir}-away", max_iters=2, offload=True)
    back = dataclasses.replace(away, init_from="resume", max_iters=3, offload=False)
    in_ranks(2, [plain, away, back, dataclasses.replace(back, max_iters=4, offload=True)])
    assert_same_end(plain, away)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_run_is_what_one_process_computes(folder: Path, name: str) -> None:
    """DDP, full and hybrid sharding, by two and four processes."""
    if name == "taught":
        started(tiny_config(folder, "teacher", family="gpt2", seed=3, max_iters=1))
    one = tiny_config(folder, name, **CASES[name])
    started(one)
    for processes, ways in ((2, ("none", "full")), (4, ("none", "full", "node"))):
        named = dataclasses.replace(one, out_dir=f"{one.out_dir}-{processes}")
        many = [sharded(named, how) for how in ways]
        in_ranks(processes, many)
        for run in many:
            assert_equal_runs(one, run)


@pytest.mark.slow
def test_dropout_draws_the_masks_that_it_draws_unsharded(folder: Path) -> None:
    """Masks are of a process: those of four are others than those of one."""
    plain = tiny_config(folder, "dropout", family="gpt2", dropout=0.3, recompute="block")
    runs = [sharded(plain, how) for how in ("none", "full", "node")]
    in_ranks(4, runs)
    for run in runs[1:]:
        assert_equal_runs(runs[0], run)


@pytest.mark.slow
def test_a_run_goes_on_with_any_number_of_processes(folder: Path) -> None:
    """Two, one, four, and four that share the model out: as the undisturbed run."""
    flat = {"decay_lr": False, **CASES["llama-muon"]}
    whole = tiny_config(folder, "undisturbed", max_iters=8, **flat)
    started(whole)
    run = tiny_config(folder, "moved", max_iters=2, **flat)
    in_ranks(2, [run])
    run = dataclasses.replace(run, init_from="resume", max_iters=4)
    started(run)
    in_ranks(4, [dataclasses.replace(run, max_iters=6)])
    run = dataclasses.replace(run, max_iters=8, shard="full")
    in_ranks(4, [run])
    assert losses(run) == pytest.approx(losses(whole), rel=LOSS)
    for name, tensor in tensors(whole).items():
        torch.testing.assert_close(tensors(run)[name], tensor, rtol=0, atol=WEIGHTS)


def id_of(tensor: torch.Tensor) -> int:
    """Where a tensor's storage is; gradients of a block are parts of one."""
    return tensor.untyped_storage().data_ptr()


def held_bytes(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    """Let each process write down the bytes of weights, gradients and moments before a step."""
    module = importlib.import_module("bardlet.train")
    step = module.step_optimizers

    def counted(t: Any, *args: Any) -> Any:
        held = [*t.model.parameters()]
        held += [p.grad for p in t.model.parameters() if p.grad is not None]
        held += [v for o in t.optimizers for state in o.state.values() for v in state.values()]
        storages = {id_of(local(tensor)): local(tensor).untyped_storage() for tensor in held}
        size = sum(storage.nbytes() for storage in storages.values())
        (out / f"{t.config.shard}-{t.group.rank}").write_text(str(size), encoding="utf-8")
        return step(t, *args)

    monkeypatch.setattr(module, "step_optimizers", counted)


@pytest.mark.slow
def test_four_processes_hold_little_more_than_a_quarter_each(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_bytes(monkeypatch, tmp_path)
    plain = tiny_config(folder, "held", family="llama", max_iters=2)
    in_ranks(4, [sharded(plain, "none"), sharded(plain, "full")])
    for rank in range(4):
        whole, part = (int((tmp_path / f"{how}-{rank}").read_text()) for how in ("none", "full"))
        assert 0.2 * whole < part <= 0.4 * whole


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_is_named_and_the_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = shards.fill

    def full(path: Path, tensors: Any, *, main: bool, elsewhere: bool) -> None:
        if not main and "iter-00000002" in str(path):
            raise OSError(28, "No space left on device")
        fill(path, tensors, main=main, elsewhere=elsewhere)

    monkeypatch.setattr(shards, "fill", full)
    run = sharded(tiny_config(folder, "no-room", family="gpt2"), "full")
    in_ranks(2, [run])
    assert [run_folder.iter_of(p) for p in run_folder.checkpoints(Path(run.out_dir))] == [4]
    assert {line["iter"] for line in metrics(run, "event") if line["event"] == "disk"} == {2}
    assert not list(Path(run.out_dir, "checkpoints").glob(".*"))
    run_folder.verify(run_folder.newest(Path(run.out_dir)))


def test_a_file_that_processes_fill_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6.0).view(3, 2), "a/é": torch.tensor(1.5), "empty": torch.zeros(0, 4),
        "half": torch.ones(5, dtype=torch.bfloat16),
    }  # fmt: skip
    shards.create(tmp_path / "file", tensors)
    shards.fill(tmp_path / "file", tensors, main=True, elsewhere=True)
    assert (tmp_path / "file").read_bytes() == save(tensors)


class Mesh:
    """The part of a device mesh that says who has which rows."""

    def __init__(self, rank: int, size: int, node: int = 0) -> None:
        self.rank, self.count, self.node = rank, size, node

    def get_coordinate(self) -> tuple[int, int]:
        return self.node, self.rank

    def size(self, dim: int) -> int:
        return self.count


def test_rows_are_those_that_chunks_have() -> None:
    """torch.chunk's: the last process has fewer, or none; of two nodes the first saves."""
    tensor: Any = None
    for rows in range(10):
        for size in (1, 2, 3, 4, 8):
            tensor = torch.arange(2.0 * rows).view(rows, 2)
            chunks = [*tensor.chunk(size), *[tensor[:0]] * size] if rows else [tensor] * size
            for rank in range(size):
                tensor.device_mesh = Mesh(rank, size)
                assert torch.equal(tensor[sharding.span(tensor)], chunks[rank])
            assert sharding.span(tensor, 0).start == 0
    tensor.device_mesh = Mesh(1, 4, node=1)
    assert sharding.own_part(tensor, main=False) is None


def test_what_a_sharded_run_cannot_do_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, "refused", shard="full", batch_size=2)
    check_shard(config, 4)
    with pytest.raises(UsageError, match="2 x 8 are not a multiple of 6") as refused:
        check_shard(config, 6)
    assert refused.value.hint == "Give --gradient_accumulation_steps=6 or 9"
    with pytest.raises(UsageError, match="sample_interval=2 needs the whole model"):
        check_shard(dataclasses.replace(config, sample_interval=2), 2)
    with pytest.raises(UsageError, match="compile=true"):
        check_shard(dataclasses.replace(config, compile=True), 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="8 are not a multiple of the 3 of this one"):
        per_node(8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="must be a number"):
        per_node(8)
