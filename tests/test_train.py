"""The training loop: golden losses, exact resume, and what must not change a result."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    assert_same_end,
    judged,
    losses,
    metrics,
    some_text,
    stop_after,
    tensors,
    tiny_config,
)

from bardlet import native
from bardlet.config import TrainConfig, to_toml
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import CheckpointError, DataError, TrainingError, UsageError
from bardlet.run import checkpoint, run_folder
from bardlet.train import train

# The first ten training losses of tiny_config's models on 6,000 characters. If a change to the
# numerics moves them on purpose, say so in CHANGELOG.md under Numerics and pin the new ones.
GOLDEN = {
    "gpt2": [2.7452, 2.6210, 2.5665, 2.4052, 2.1949, 2.2424, 2.1639, 2.1132, 1.9962, 1.9263],
    "llama": [2.7081, 2.6624, 2.5472, 2.3743, 2.1901, 2.0664, 2.1378, 1.8978, 1.7998, 1.6968],
}


@pytest.fixture
def config(family: str, dataset_folder: Path, tmp_path: Path) -> TrainConfig:
    return tiny_config(dataset_folder, tmp_path / "run", family)


def test_golden_losses(family: str, dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", family, max_iters=10)
    train(config)
    # float32 rounding differs between processors; a wrong line shows in the second digit
    assert losses(config) == pytest.approx(GOLDEN[family], abs=2e-4)


CORE = {"n_embd": 64, "n_head": 2, "block_size": 32, "mlp_dim": 96}  # sizes the core can train


def test_the_core_trains_as_torch_does(
    family: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with_core = tiny_config(dataset_folder, tmp_path / "core", family, **CORE)
    train(with_core)
    assert ", compiled core" in capfd.readouterr().out or native.library() is None
    monkeypatch.setattr(native, "library", lambda: None)
    without = tiny_config(dataset_folder, tmp_path / "torch", family, **CORE)
    train(without)
    assert ", compiled core" not in capfd.readouterr().out
    assert losses(with_core) == pytest.approx(losses(without), abs=2e-4)
    assert losses(with_core, "eval") == pytest.approx(losses(without, "eval"), abs=2e-4)


def test_the_core_resumes_bit_for_bit(family: str, dataset_folder: Path, tmp_path: Path) -> None:
    options = {**CORE, "lr_decay_iters": 8}
    whole = tiny_config(dataset_folder, tmp_path / "whole", family, **options)
    train(whole)
    parts = tiny_config(dataset_folder, tmp_path / "parts", family, **options)
    train(dataclasses.replace(parts, max_iters=4))
    train(dataclasses.replace(parts, init_from="resume"))
    assert_same_end(whole, parts)


def test_one_batch_is_overfitted(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "short"
    prepare(Corpus(name="short", text=some_text(37), sources=()), folder)  # 33 train on: one window
    config = tiny_config(
        folder, tmp_path / "run", family, max_iters=150, learning_rate=0.02, eval_interval=150,
        block_size=32, batch_size=1, weight_decay=0,
    )  # fmt: skip
    train(config)
    assert losses(config)[0] > 2 and losses(config)[-1] < 0.05


@pytest.mark.parametrize("first", [4, 5])  # with and without an evaluation at the stop
def test_stopped_and_resumed_equals_undisturbed(
    config: TrainConfig, dataset_folder: Path, tmp_path: Path, family: str, first: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = {"dropout": 0.2, "gradient_accumulation_steps": 2, "grad_clip": 0.5}
    whole = tiny_config(dataset_folder, tmp_path / "whole", family, **options)
    train(whole)
    halves = tiny_config(dataset_folder, tmp_path / "halves", family, **options)
    stop_after(first, monkeypatch)
    result = train(halves)
    assert result.stopped and result.iter == first
    monkeypatch.undo()
    torch.manual_seed(99)  # the global generator's state must not matter
    result = train(
        tiny_config(dataset_folder, tmp_path / "halves", family, init_from="resume", **options)
    )
    assert not result.stopped and result.iter == 8
    assert_same_end(whole, halves)


def test_killed_process_resumes_exactly(dataset_folder: Path, tmp_path: Path) -> None:
    """Killed on its way to an end that is far away, and then resumed to one that is near."""
    endless = tiny_config(dataset_folder, tmp_path / "killed", max_iters=10**6, lr_decay_iters=60)
    (tmp_path / "killed.toml").write_text(to_toml(endless), encoding="utf-8")
    command = [sys.executable, "-m", "bardlet", "train", str(tmp_path / "killed.toml")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed/checkpoints/last").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.005)
    assert process.poll() is None, "it ran until it was killed"
    process.kill()
    process.wait()
    reached = run_folder.iter_of(run_folder.newest(tmp_path / "killed"))
    assert 0 < reached < endless.max_iters
    resumed = dataclasses.replace(endless, max_iters=reached + 6, init_from="resume")
    train(resumed)
    whole = dataclasses.replace(endless, max_iters=reached + 6, out_dir=str(tmp_path / "whole"))
    train(whole)
    assert_same_end(whole, resumed)


@pytest.mark.parametrize(
    "change",
    [{"eval_interval": 3}, {"log_interval": 1, "eval_iters": 5}, {"always_save_checkpoint": False},
     {"eval_full": False}],
)  # fmt: skip
def test_watching_changes_nothing(
    config: TrainConfig, dataset_folder: Path, tmp_path: Path, family: str, change: dict[str, Any]
) -> None:
    plain = tiny_config(dataset_folder, tmp_path / "plain", family, dropout=0.1)
    watched = tiny_config(dataset_folder, tmp_path / "watched", family, dropout=0.1, **change)
    train(plain)
    train(watched)
    assert losses(plain) == losses(watched)
    assert all(torch.equal(p, tensors(watched)[n]) for n, p in tensors(plain).items())


def test_log_interval_changes_no_loss(dataset_folder: Path, tmp_path: Path) -> None:
    plain = tiny_config(dataset_folder, tmp_path / "plain", grad_clip=0.0)
    rarely = tiny_config(dataset_folder, tmp_path / "rarely", grad_clip=0.0, log_interval=3)
    train(plain)
    train(rarely)
    assert losses(plain)[::3] == losses(rarely)
    assert all(torch.equal(p, tensors(rarely)[n]) for n, p in tensors(plain).items())


@pytest.mark.parametrize("shard_tokens", [100, 1711])
def test_shards_change_nothing(tmp_path: Path, shard_tokens: int) -> None:
    corpus = Corpus(name="words", text=some_text(6000), sources=())
    runs = []
    for name, size in (("one", 10**8), ("many", shard_tokens)):
        prepare(corpus, tmp_path / name, shard_tokens=size)
        runs.append(tiny_config(tmp_path / name, tmp_path / f"run-{name}"))
        train(runs[-1])
    assert len(list((tmp_path / "many").glob("train-*.bin"))) == -(-5400 // shard_tokens)
    assert_same_end(*runs)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_accumulated_micro_batches_equal_one_large_batch(
    family: str, dataset_folder: Path, tmp_path: Path, batch_size: int
) -> None:
    large = tiny_config(dataset_folder, tmp_path / "large", family, batch_size=12)
    small = tiny_config(
        dataset_folder, tmp_path / "small", family, batch_size=batch_size,
        gradient_accumulation_steps=12 // batch_size,
    )  # fmt: skip
    train(large)
    train(small)
    # equal but for the order of float32 sums, over eight steps
    assert losses(small) == pytest.approx(losses(large), abs=2e-5)


def test_best_and_last_are_kept(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", eval_interval=2)
    judged([2.5, 2.25, 3.0, 2.75], monkeypatch)  # after 2, 4, 6 and 8 iterations
    result = train(config)
    out = Path(config.out_dir)
    assert run_folder.find(out, "best").name == run_folder.name_of(4)
    assert run_folder.find(out, "last").name == run_folder.name_of(8)
    assert [run_folder.iter_of(p) for p in run_folder.checkpoints(out)] == [
        4,
        6,
        8,
    ]  # 6 is the second newest
    assert (result.best_val_loss, result.val_loss) == (2.25, 2.75)
    # each was saved before it was judged, and has its own losses
    scores = run_folder.read_scores(run_folder.find(out, "best"))
    assert scores is not None and scores.val_loss == 2.25
    scores = run_folder.read_scores(run_folder.find(out, "last"))
    assert scores is not None and scores.val_loss == 2.75


def test_best_goes_on_after_a_resume(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"eval_interval": 2, "max_iters": 4}
    judged([2.5, 3.0], monkeypatch)
    train(tiny_config(dataset_folder, tmp_path / "run", **options))
    judged([2.75, 2.25], monkeypatch)
    options |= {"max_iters": 8, "init_from": "resume"}
    assert train(tiny_config(dataset_folder, tmp_path / "run", **options)).best_val_loss == 2.25
    assert run_folder.find(tmp_path / "run", "best").name == run_folder.name_of(8)


def test_without_always_save_only_improvements_and_the_end(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", max_iters=10, eval_interval=2,
        always_save_checkpoint=False,
    )  # fmt: skip
    judged([2.5, 3.0, 2.25, 2.25, 2.75], monkeypatch)
    written = []
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *a: written.append(a[4].iter) or write(*a))
    train(config)
    assert written == [2, 6, 10]
    assert run_folder.find(Path(config.out_dir), "best").name == run_folder.name_of(6)


def test_eval_only_trains_and_writes_nothing(config: TrainConfig, family: str) -> None:
    train(config)
    out = Path(config.out_dir)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    folder, end = Path(config.dataset), losses(config, "eval")[-1]
    result = train(tiny_config(folder, out, family, init_from="resume", eval_only=True))
    assert result.val_loss == end and result.iter == 8
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_non_finite_loss_stops_before_the_step(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(
        dataset_folder, tmp_path / "run", "gpt2", learning_rate=1e30, warmup_iters=0, grad_clip=0,
        always_save_checkpoint=True, eval_interval=100, max_iters=50,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at iteration"):
        train(config)


def test_an_earlier_run_is_not_overwritten(config: TrainConfig, family: str) -> None:
    train(config)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train(config)
    out = Path(config.out_dir)
    again = tiny_config(Path(config.dataset), out, family, fresh=True, max_iters=4)
    assert train(again).iter == 4
    assert run_folder.find(out, "last").name == run_folder.name_of(4)


def test_resume_refuses_another_model_and_other_data(config: TrainConfig, family: str) -> None:
    train(config)
    out, folder = Path(config.out_dir), Path(config.dataset)
    with pytest.raises(CheckpointError, match="n_layer=3, not 2"):
        train(tiny_config(folder, out, family, init_from="resume", n_layer=3))
    other = folder.with_name("other")
    prepare(Corpus(name="other", text=some_text(6000, seed=1), sources=()), other)
    with pytest.raises(CheckpointError, match="other tokens"):
        train(tiny_config(other, out, family, init_from="resume"))


def test_resume_may_go_on_for_longer(config: TrainConfig, family: str) -> None:
    train(config)
    longer = tiny_config(
        Path(config.dataset), Path(config.out_dir), family, init_from="resume", max_iters=12
    )
    assert train(longer).iter == 12
    assert [entry["iter"] for entry in metrics(longer)] == list(range(12))


def test_metrics_have_what_the_loop_knows(config: TrainConfig) -> None:
    train(config)
    entry = metrics(config)[3]
    assert entry["tokens"] == 4 * 4 * 16 and entry["iter"] == 3
    assert entry["lr"] > 0 and entry["grad_norm"] > 0 and entry["tokens_per_s"] > 0
    assert 0 < entry["mfu"] < 1
    assert [e["iter"] for e in metrics(config, "eval")] == [4, 8]


def test_the_data_must_be_longer_than_a_block(tmp_path: Path) -> None:
    prepare(Corpus(name="short", text=some_text(18), sources=()), tmp_path / "short")
    with pytest.raises(DataError, match="block_size=16 needs at least 17"):
        train(tiny_config(tmp_path / "short", tmp_path / "run"))


def test_a_vocabulary_smaller_than_the_datasets_is_refused(
    config: TrainConfig, family: str
) -> None:
    small = tiny_config(Path(config.dataset), Path(config.out_dir), family, vocab_size=3)
    with pytest.raises(UsageError, match="vocab_size=3 is below"):
        train(small)


def test_console_has_nanogpts_lines(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert re.search(r"^step 4: train loss \d\.\d{4}, val loss \d\.\d{4}$", printed.out, re.M)
    assert re.search(
        r"^iter 3: loss \d\.\d{4}, time \d+\.\d\dms, mfu \d+\.\d\d%, lr \d\.\d{3}e-\d\d, "
        r"grad norm \d+\.\d{3}, [\d,]+ tok/s$",
        printed.out, re.M,
    )  # fmt: skip
    assert f"saving checkpoint to {config.out_dir}\n" in printed.out
    assert "device cpu, float32" in printed.out
