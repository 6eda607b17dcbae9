"""Going on with a run: by the same command, with other options, from a moved folder, elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, assert_same_end, losses, metrics, some_text, stop_after, tiny_config

from bardlet import cli
from bardlet.config import FIELDS, TrainConfig, to_toml
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import CheckpointError
from bardlet.io.atomic import write_json
from bardlet.run import run_folder
from bardlet.run.state import read_json
from bardlet.train import train
from bardlet.training import scoring
from bardlet.training.resume import MAY_CHANGE, MUST_MATCH, changed_numerics

WHOLE, TWIN = (tiny_config(Path("data/words"), Path(out)) for out in ("whole", "twin"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run and its twin, which was stopped half way."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(Corpus(name="words", text=some_text(6000), sources=()), Path(WHOLE.dataset))
        train(WHOLE)
        stop_after(5, patch)
        assert train(TWIN).stopped
    (folder / "twin.toml").write_text(to_toml(TWIN), encoding="utf-8")
    return folder


@pytest.fixture
def stopped(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TrainConfig, TrainConfig]:
    """The configurations of the two, in a copy of that folder."""
    shutil.copytree(both, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return WHOLE, TWIN


@pytest.mark.parametrize(
    "args",
    [["twin.toml"], ["--out_dir=twin"], ["--resume", "--out_dir", "twin"],
     ["twin.toml", "--init_from=resume"]],
    ids=" ".join,
)  # fmt: skip
def test_an_unfinished_run_is_continued(
    args: list[str], stopped: tuple[TrainConfig, TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["train", *args]) == 0
    said = capsys.readouterr().out
    assert "twin at iteration 5\n" in said and "changed since" not in said
    assert_same_end(*stopped)


def test_a_finished_run_is_neither_overwritten_nor_continued(
    stopped: tuple[TrainConfig, TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    for args in (["--out_dir=whole"], ["twin.toml", "--out_dir=whole"]):
        assert cli.main(["train", *args]) == 1
        assert "whole already holds a run, finished after 8 iterations" in capsys.readouterr().err
    assert cli.main(["train", "--out_dir=whole", "--resume", "--max_iters=10"]) == 0
    assert "max_iters=10, was 8" in capsys.readouterr().out
    assert len(losses(stopped[0])) == 10
    assert cli.main(["train", "--out_dir=whole", "--fresh", "--max_iters=3"]) == 0
    assert len(losses(stopped[0])) == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(
    stopped: tuple[TrainConfig, TrainConfig],
) -> None:
    for folder in run_folder.checkpoints(Path("twin")):
        run_folder.remove(folder)
    assert cli.main(["train", "--out_dir=twin"]) == 0
    assert_same_end(*stopped)


def test_what_changes_the_results_is_said(
    stopped: tuple[TrainConfig, TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    options = ["--learning_rate=0.005", "--log_interval=2", "--eval_interval=3", "--beta1=0.8"]
    assert cli.main(["train", "--out_dir=twin", *options]) == 0
    said = capsys.readouterr().out
    changed = "learning_rate=0.005, was 0.01; beta1=0.8, was 0.9"
    assert f"changed since the checkpoint, and so the results: {changed}\n" in said


@pytest.mark.parametrize(
    "option",
    ["n_layer=3", "n_embd=64", "n_kv_head=1", "qk_norm=false", "optimizer=adamw", "block_size=8",
     "dropout=0.5", "vocab_size=99", "rope_theta=500.0"],
)  # fmt: skip
def test_what_contradicts_the_checkpoint_is_refused(
    option: str, stopped: tuple[TrainConfig, TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in Path("twin/checkpoints").rglob("*") if p.is_file()}
    assert cli.main(["train", "--out_dir=twin", f"--{option}"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    name = option.split("=")[0]
    assert f"twin holds another model than asked for: {name}=" in said and "--fresh" in said
    assert before == {p: p.read_bytes() for p in Path("twin/checkpoints").rglob("*") if p.is_file()}


def test_every_option_is_of_one_kind() -> None:
    assert not MAY_CHANGE & MUST_MATCH
    assert FIELDS.keys() >= MAY_CHANGE | MUST_MATCH


def test_another_number_of_threads_is_said(
    stopped: tuple[TrainConfig, TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run_folder.newest(Path("twin"))
    state = read_json(newest / "state.json")
    state["computes"]["threads"] = 7
    write_json(newest / "state.json", state)
    run_folder.write_checksums(
        newest, [p.name for p in newest.iterdir() if p.name != "checksums.json"]
    )
    assert cli.main(["train", "--out_dir=twin"]) == 0
    assert f"the results: threads={torch.get_num_threads()}, was 7" in capsys.readouterr().out


def test_changed_data_are_refused(stopped: tuple[TrainConfig, TrainConfig]) -> None:
    folder = Path(stopped[1].dataset)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    write_json(folder / "manifest.json", {**manifest, "hash": "0" * 64})
    with pytest.raises(CheckpointError, match="was trained on other tokens"):
        train(stopped[1])


def test_a_stop_while_evaluating_is_heeded_at_once(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_config(dataset_folder, tmp_path / "whole")
    train(whole)
    twin = tiny_config(dataset_folder, tmp_path / "twin")
    batches: list[int] = []
    evaluate = scoring.evaluate

    def signalled(*args: Any, stop: Callable[[], bool], **options: Any) -> Any:
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        batches.append(1)
        return evaluate(*args, stop=stop, **options)

    with monkeypatch.context() as evaluating:
        evaluating.setattr(scoring, "evaluate", signalled)
        result = train(twin)
    assert result.stopped and result.iter == 8, "the evaluation after 8 was not made"
    assert [e["iter"] for e in metrics(twin, "eval")] == [4]
    train(twin)
    assert_same_end(whole, twin)


# A child's ru_maxrss begins with what its parent had, VmHWM with its own first page. To tell shapes
# torch loads modules of 65 MB, which have nothing to do with the size of a model: so for all alike.
PEAK = """
import re, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support import tiny_config, tiny_model
from bardlet.run import weights
from bardlet.train import train
weights.shapes_for(tiny_model("llama").config, max_layers=99)
config = tiny_config(Path({data!r}), Path({out!r}), n_embd=512, n_head=8, n_layer=6, max_iters={to},
    init_from={init_from!r}, eval_interval=100, batch_size=2, lr_decay_iters=9)
train(config)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_resuming_takes_no_more_memory(dataset_folder: Path, tmp_path: Path) -> None:
    def peak(to: int, init_from: str) -> int:
        code = PEAK.format(
            tests=str(ROOT / "tests"), data=str(dataset_folder), out=str(tmp_path / "run"),
            to=to, init_from=init_from,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
        )
        return int(done.stdout.splitlines()[-1])

    fresh, resumed = peak(1, "scratch"), peak(2, "resume")
    weights = 4 * 19e6 / 1024  # KiB: room for noise is a fraction of the weights
    assert resumed <= fresh + 0.25 * weights, (fresh, resumed)


def test_a_change_of_tf32_is_said() -> None:
    """Runs on a GPU that say nothing of TF32 had it."""
    before = {"device": "cuda", "dtype": "float32"}
    assert changed_numerics(before, {**before, "tf32": False}) == ["tf32=False, was True"]
    assert changed_numerics(before, {**before, "tf32": True}) == []
    assert changed_numerics({**before, "tf32": False}, {**before, "tf32": True}) == [
        "tf32=True, was False"
    ]
