"""Runs that learn from other runs: whole runs by the core and torch, resumed, and refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from support import (
    as_ranks,
    assert_same_end,
    losses,
    some_text,
    stop_after,
    tensors,
    tiny_config,
)  # fmt: skip
from torch.nn import functional as F

from bardlet import native
from bardlet.config import TrainConfig
from bardlet.data.dataset import mixture
from bardlet.data.dataset.loader import batches_of
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.errors import BardletError
from bardlet.run import checkpoint, run_folder
from bardlet.train import train

# shapes that the core computes, and that torch does
CORE = {"n_embd": 64, "n_head": 2, "n_kv_head": 0, "block_size": 32}
ROOM = 0.02  # nats between the core and torch after twelve iterations in float32: 0.004 seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in documents, and two runs on it that can teach."""
    path = tmp_path_factory.mktemp("taught")
    documents = [{"text": some_text(200, seed)} for seed in range(60)]
    (path / "text.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    found = sources.find([str(path / "text.jsonl")])
    prepare(found, path / "data", tokenizer="char", say=lambda line: None)
    for seed, family in enumerate(("llama", "gpt2")):
        train(tiny_config(path / "data", path / family, family, **CORE, seed=seed, max_iters=20))
    return path


def student(folder: Path, out: Path, **changes: object) -> TrainConfig:
    options = {
        **CORE, "max_iters": 12, "eval_interval": 12, "save_interval": 4, "distill_weight": 0.6,
        "distill_from": f"{folder / 'llama'},{folder / 'gpt2'}", "distill_temperature": 1.5,
    }  # fmt: skip
    return tiny_config(folder / "data", out, **{**options, **changes})


@pytest.mark.parametrize("doc_mask", [False, True])
@pytest.mark.parametrize("core", [True, False])
def test_the_first_loss_is_the_definitions(
    folder: Path, tmp_path: Path, core: bool, doc_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an untrained llama, whose logits are zero: CE is ln V and so is the taught part."""
    if not core:
        monkeypatch.setattr(native, "library", lambda: None)
    config = student(folder, tmp_path / "run", doc_mask=doc_mask)
    train(config)
    V = mixture.opened(config.dataset).vocab_size
    first = torch.tensor(float(V)).log().item() * (0.4 + 0.6 * 1.5**2)
    assert losses(config)[0] == pytest.approx(first, rel=1e-5)


def test_a_later_loss_is_the_definitions(folder: Path, tmp_path: Path) -> None:
    """From a checkpoint's weights and the teachers', computed by torch alone."""
    config = student(folder, tmp_path / "run")
    train(config)
    models = [
        checkpoint.load(run_folder.find(path, name))[0]
        for path, name in (
            (tmp_path / "run", "iter-8"), (folder / "llama", "best"), (folder / "gpt2", "best"),
        )
    ]  # fmt: skip
    parts = mixture.opened(config.dataset).parts
    batches = batches_of(
        parts, block_size=32, batch_size=4, seed=config.seed, rank=0, world_size=1,
    )  # fmt: skip
    idx, targets = batches.batch(8)
    with torch.no_grad():
        student_, *teachers = (model(idx, targets)[0].double() for model in models)
    q = torch.stack([F.softmax(each / 1.5, -1) for each in teachers]).mean(0)
    hard = F.cross_entropy(student_.flatten(0, 1), targets.flatten())
    soft = -(q * F.log_softmax(student_ / 1.5, -1)).sum(-1).mean()
    assert losses(config)[8] == pytest.approx(float(0.4 * hard + 0.6 * 1.5**2 * soft), abs=1e-4)


@pytest.mark.skipif(native.library() is None, reason="the core was not compiled")
@pytest.mark.parametrize("doc_mask", [False, True])
def test_core_and_torch_learn_the_same(
    folder: Path, tmp_path: Path, doc_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = student(folder, tmp_path / "core", doc_mask=doc_mask)
    train(core)
    monkeypatch.setattr(native, "library", lambda: None)
    train(through_torch := dataclasses.replace(core, out_dir=str(tmp_path / "torch")))
    assert losses(core) == pytest.approx(losses(through_torch), abs=ROOM)
    assert losses(core)[-1] < losses(core)[0] - 1


@pytest.mark.parametrize("core", [True, False])
def test_a_stopped_run_goes_on_exactly(
    folder: Path, tmp_path: Path, core: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not core:
        monkeypatch.setattr(native, "library", lambda: None)
    whole = student(folder, tmp_path / "whole")
    train(whole)
    part = dataclasses.replace(whole, out_dir=str(tmp_path / "part"))
    with monkeypatch.context() as patched:
        stop_after(6, patched)
        assert train(part).stopped
    train(dataclasses.replace(part, init_from="resume"))
    assert_same_end(whole, part)


def test_two_processes_learn_the_same(folder: Path, tmp_path: Path) -> None:
    one = student(folder, tmp_path / "one")
    train(one)
    two = dataclasses.replace(one, out_dir=str(tmp_path / "two"))
    as_ranks(2, lambda: train(two))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_a_name_with_a_comma_can_teach(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "llama", tmp_path / "one,two")
    config = student(folder, tmp_path / "run", max_iters=1, distill_from=str(tmp_path / "one,two"))
    assert train(config).iter == 1


def test_teachers_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    before = (run_folder.find(folder / "llama", "best") / "model.safetensors").read_bytes()
    config = student(folder, tmp_path / "run", dropout=0.1)
    train(config)
    assert (run_folder.find(folder / "llama", "best") / "model.safetensors").read_bytes() == before
    assert not [name for name in tensors(config) if "teacher" in name]


def refusal(config: TrainConfig) -> str:
    with pytest.raises(BardletError) as error:
        train(config)
    return str(error.value)


def test_what_cannot_teach_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "no run at" in refusal(student(folder, out, distill_from="nowhere"))
    too_short = student(folder, out, block_size=64)
    assert "its own is 32" in refusal(too_short)
    wider = student(folder, out, vocab_size=100)
    assert "cannot teach a run with vocab_size=100" in refusal(wider)
    (tmp_path / "other.txt").write_text(some_text(3000) + " XYZ")
    other = sources.find([str(tmp_path / "other.txt")])
    prepare(other, tmp_path / "other", tokenizer="char", say=lambda line: None)
    config = dataclasses.replace(student(folder, out), dataset=str(tmp_path / "other"))
    assert "its tokenizer is another" in refusal(config)
    assert not run_folder.is_run(out)


def test_a_run_goes_on_with_its_own_teachers_only(folder: Path, tmp_path: Path) -> None:
    config = student(folder, tmp_path / "run", max_iters=4)
    train(config)
    more = dataclasses.replace(config, init_from="resume", max_iters=8)
    assert "learnt from other weights" in refusal(dataclasses.replace(more, distill_from=""))
    swapped = f"{folder / 'gpt2'},{folder / 'llama'}"
    assert "learnt from other weights" in refusal(dataclasses.replace(more, distill_from=swapped))
    shutil.copytree(folder / "llama", tmp_path / "moved")  # the same weights elsewhere
    moved = f"{tmp_path / 'moved'},{folder / 'gpt2'}"
    assert train(dataclasses.replace(more, distill_from=moved)).iter == 8
