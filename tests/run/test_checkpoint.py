"""Checkpoint folders: whole or absent, complete in themselves, and refused where damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import a_state, damage, tiny_config, tiny_model

from bardlet import lora
from bardlet.data.tokenizers.base import CharTokenizer
from bardlet.errors import CheckpointError
from bardlet.model import GPT
from bardlet.optim import build_optimizers
from bardlet.run import checkpoint, lock, run_folder
from bardlet.run.state import Scores

CHARS = "".join(map(chr, range(97, 97 + 50)))


def saved(run: Path, it: int = 3, family: str = "llama", **state: object) -> tuple[Path, GPT, list]:
    """A checkpoint after one step of an optimizer."""
    model = tiny_model(family, seed=it)
    config = tiny_config(run, run, family)
    optimizers = build_optimizers(model, config, "cpu", torch.float32)
    idx = torch.arange(16)[None]
    model(idx, idx)[1].backward()
    for optimizer in optimizers:
        optimizer.step()
    facts = a_state(it, tokens=1, **state)
    folder = checkpoint.save(run, model, optimizers, CharTokenizer(CHARS), facts)
    return folder, model, optimizers


def test_a_checkpoint_holds_all_of_it(family: str, tmp_path: Path) -> None:
    folder, model, optimizers = saved(tmp_path, family=family, best_val_loss=1.5)
    assert folder == tmp_path / "checkpoints" / "iter-00000003"
    names = {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "optimizer.safetensors",
        "state.json",
        "checksums.json",
    }
    assert {file.name for file in folder.iterdir()} == names
    loaded, tokenizer, state = checkpoint.load(folder)
    assert loaded.config == model.config
    for (name, p), (other, q) in zip(
        model.named_parameters(), loaded.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(p, q)
    assert tokenizer.chars == CHARS
    assert state.iter == 3 and state.best_val_loss == 1.5
    fresh = build_optimizers(loaded, tiny_config(tmp_path, tmp_path, family), "cpu", torch.float32)
    checkpoint.load_optimizers(folder, loaded, fresh)
    ours, theirs = (
        checkpoint.optimizer_tensors(m, o) for m, o in ((model, optimizers), (loaded, fresh))
    )
    assert set(ours) == set(theirs) and len(ours) >= len(list(model.parameters()))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("rank", [0, 2])
def test_reading_a_checkpoint_draws_no_weights(rank: int, family: str, tmp_path: Path) -> None:
    """They would be overwritten, and drawing those of GPT-2 takes a second."""
    model = tiny_model(family)
    if rank:
        lora.adapt(model, rank)
    folder = checkpoint.save(tmp_path, model, [], CharTokenizer(CHARS), a_state(3))
    before = torch.random.get_rng_state()
    loaded, _, _ = checkpoint.load(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    named = dict(loaded.named_parameters())
    assert all(torch.equal(named[name], p) for name, p in model.named_parameters())


def test_a_loaded_model_computes_the_same(family: str, tmp_path: Path) -> None:
    folder, model, _ = saved(tmp_path, family=family)
    idx = torch.arange(10)[None]
    assert torch.equal(model.eval()(idx)[0], checkpoint.load(folder)[0].eval()(idx)[0])


def test_find_takes_best_then_last_then_names(tmp_path: Path) -> None:
    one, two = saved(tmp_path, 1)[0], saved(tmp_path, 2)[0]
    run_folder.set_pointer(tmp_path, "last", two)
    assert run_folder.find(tmp_path) == two
    run_folder.set_pointer(tmp_path, "best", one)
    assert run_folder.find(tmp_path) == one
    assert run_folder.find(tmp_path, "last") == two
    assert run_folder.find(tmp_path, "iter-00000002") == two
    assert run_folder.find(two) == two


def test_find_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run at"):
        run_folder.find(tmp_path / "nothing")
    run_folder.set_pointer(tmp_path, "last", saved(tmp_path, 1)[0])
    with pytest.raises(CheckpointError, match="iter-00000001"):
        run_folder.find(tmp_path, "iter-00000009")


def test_prune_keeps_best_and_last(tmp_path: Path) -> None:
    folders = [saved(tmp_path, it)[0] for it in (1, 2, 3)]
    (tmp_path / "checkpoints" / ".iter-00000004.99.tmp").mkdir()  # what a kill leaves behind
    run_folder.set_pointer(tmp_path, "best", folders[0])
    run_folder.set_pointer(tmp_path, "last", folders[2])
    run_folder.prune(tmp_path, keep=1)
    lock.remove_partial(tmp_path)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"best", "last", "iter-00000001", "iter-00000003"}


def test_prune_keeps_the_newest_up_to_last(tmp_path: Path) -> None:
    folders = [saved(tmp_path, it)[0] for it in (1, 2, 3, 4, 5)]
    run_folder.set_pointer(tmp_path, "best", folders[0])
    run_folder.set_pointer(
        tmp_path, "last", folders[3]
    )  # 5 was found damaged, and the run went on from 4
    run_folder.prune(tmp_path, keep=2)
    assert [run_folder.iter_of(folder) for folder in run_folder.checkpoints(tmp_path)] == [1, 3, 4]


def test_conclude_records_the_losses(tmp_path: Path) -> None:
    folder = saved(tmp_path, 2)[0]
    run_folder.set_pointer(tmp_path, "last", folder)
    scores = Scores(train_loss=1.0, val_loss=1.25, bits_per_byte=2.0, since_best=1)
    run_folder.write_scores(folder, scores)
    assert checkpoint.load(folder)[2].scores == scores


@pytest.mark.parametrize("name", [*checkpoint.FILES, "checksums.json"])
@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
def test_damaged_files_are_named(tmp_path: Path, name: str, how: str) -> None:
    folder, model, optimizers = saved(tmp_path)
    damage(folder / name, how)
    named = "" if (name, how) == ("checksums.json", "flipped") else name  # which may accuse another
    with pytest.raises(CheckpointError, match=f"{named} is missing or damaged"):
        checkpoint.load(folder)
        checkpoint.load_optimizers(folder, model, optimizers)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)[0]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 64}), encoding="utf-8")
    run_folder.write_checksums(folder, checkpoint.FILES)
    with pytest.raises(CheckpointError, match="do not fit"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["config.json", "state.json"])
def test_a_newer_format_is_refused(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path)[0]
    document = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**document, "format_version": 99}), encoding="utf-8")
    run_folder.write_checksums(folder, checkpoint.FILES)
    with pytest.raises(CheckpointError, match="format 99, this bardlet reads up to 2"):
        checkpoint.load(folder)


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, 1)[0]
    run_folder.set_pointer(tmp_path, "last", folder)

    def no_space(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(CheckpointError, match="No space left on device"):
        saved(tmp_path, 2)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"last", "iter-00000001"}
    checkpoint.load(run_folder.find(tmp_path))


def test_reading_a_checkpoint_imports_no_compiler() -> None:
    """Filling weights on the meta device would bring torch's, a second and 65 MB for nothing."""
    code = (
        "import sys\nfrom bardlet.run import weights\nfrom bardlet.model import GPT, GPTConfig\n"
        "for family in ('gpt2', 'llama'):\n"
        "    config = GPTConfig(family=family, n_layer=2, n_embd=32, n_head=2, vocab_size=9)\n"
        "    shapes = {name: tuple(p.shape) for name, p in GPT(config).named_parameters()}\n"
        "    assert weights.shapes_for(config, max_layers=99) == shapes\n"
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_format_1_tells_whether_it_was_compiled(tmp_path: Path) -> None:
    """A resumed run computes as before; the format had it beside the other entries."""
    folder = saved(tmp_path)[0]
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    del state["computes"], state["format_version"]
    (folder / "state.json").write_text(json.dumps({**state, "compiled": True}), encoding="utf-8")
    assert run_folder.read_state(folder).numerics == {"compiled": True}
