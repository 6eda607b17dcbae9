"""A plan says what the run then takes: exactly where that can be, and nearly for memory."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import FAMILIES, some_text, tiny_config, trials_are_forked

from bardlet import cli
from bardlet.config import TrainConfig, to_toml
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import TrainingError, UsageError
from bardlet.planning import estimate
from bardlet.planning.description import describe
from bardlet.planning.estimate import measure, plan, time_of
from bardlet.run import run_folder
from bardlet.system import memory
from bardlet.train import train
from bardlet.training import trial_process
from bardlet.training.expected import duration

# the peak of a process that trains, as Linux counts it from its start
PEAK = """
import sys
from bardlet.cli import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""
LARGE = {
    "n_embd": 128, "n_head": 2, "block_size": 128, "batch_size": 64, "mlp_dim": 384, "max_iters": 2,
    "eval_interval": 2, "eval_iters": 1, "vocab_size": 2048,
}  # fmt: skip


def planned(config: TrainConfig) -> dict[str, Any]:
    return json.loads(json.dumps(plan(config, 0.1), allow_nan=False))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run, and what was planned of it before."""

    config: TrainConfig
    found: dict[str, Any]

    @property
    def run(self) -> Path:
        return Path(self.config.out_dir)


@pytest.fixture(scope="module", params=list(FAMILIES))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A plan and its run, of each family in turn."""
    folder = tmp_path_factory.mktemp("planned")
    prepare(Corpus(name="words", text=some_text(6000), sources=()), folder / "words")
    config = tiny_config(
        folder / "words", folder / "run", request.param, batch_size=2,
        gradient_accumulation_steps=4,
    )  # fmt: skip
    before = sorted(folder.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        trials_are_forked(patch)
        found = planned(config)
    assert sorted(folder.rglob("*")) == before, "nothing is left of the trials"
    train(config)
    return Planned(config=config, found=found)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of trials are forks of this one."""
    trials_are_forked(monkeypatch)


def test_sizes_are_those_of_the_run(both: Planned) -> None:
    config, found = both.config, both.found
    folder = run_folder.find(both.run, "last")
    weights = load_file(folder / "model.safetensors")
    positions = weights.get("transformer.wpe.weight", torch.empty(0))  # not counted, as nanoGPT
    assert found["parameters"] == sum(w.numel() for w in weights.values()) - positions.numel()
    assert found["memory"]["weights"] == sum(w.numel() * 4 for w in weights.values())
    moments = load_file(folder / "optimizer.safetensors")
    counted = sum(m.numel() * 4 for name, m in moments.items() if not name.endswith("/step"))
    assert found["memory"]["optimizer"] == counted
    lines = (both.run / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    start = next(e for e in entries if e["type"] == "start")
    for name in ("vocab_size", "train_tokens", "tokens_per_iter", "dtype", "threads", "core"):
        assert found[name] == start[name], name
    last = [e for e in entries if e["type"] == "iter"][-1]
    assert found["tokens"] == last["tokens"] == 8 * 2 * 4 * 16
    assert found["epochs"] == pytest.approx(last["tokens"] / 5400)
    # 6 FLOPs for each token and weight of a matrix, and attention's 12 x layers x width x context
    names = [n for n, w in weights.items() if w.dim() == 2 and "wte" not in n and "wpe" not in n]
    matrices = sum(weights[name].numel() for name in names)
    head = 32 * start["vocab_size"] if config.family == "gpt2" else 0  # tied: counted as wte
    assert found["flops"] == pytest.approx(
        (6 * (matrices + head) + 12 * 2 * 32 * 16) * found["tokens"], rel=0.05
    )


def test_disk_is_that_of_the_run(both: Planned) -> None:
    found = both.found["disk"]
    files = {f.name: f.stat().st_size for f in run_folder.find(both.run, "last").iterdir()}
    assert set(found["files"]) == set(files)
    for name in ("model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"):
        assert found["files"][name] == files[name]
    # state.json grows by the losses that spikes are judged by, and by names of folders
    assert found["checkpoint"] == pytest.approx(sum(files.values()), abs=2048)
    assert found["total"] == found["checkpoint"] * (both.config.keep_checkpoints + 2)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("core", ["0", "1"])
def test_memory_is_that_of_the_run(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, core: str
) -> None:
    """Within a fifth, in a run whose own part of the peak is the larger one without the core."""
    monkeypatch.setenv("BARDLET_CORE", core)
    config = tiny_config(dataset_folder, tmp_path / "run", "llama", **LARGE)
    sizes = planned(config)["memory"]
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    command = [sys.executable, "-c", PEAK, "train", str(tmp_path / "run.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(done.stdout.splitlines()[-1])
    assert sizes["total"] == pytest.approx(peak, rel=0.2)
    if core == "0":
        assert sizes["logits"] == 64 * 128 * 2048 * 4
        assert peak > 2 * sizes["process"], "or the test would tell nothing"
    parts = [sizes[n] for n in ("weights", "gradients", "optimizer", "logits", "process")]
    assert sum(parts) + sizes["activations"] == max(sizes["total"], sum(parts))
    assert sizes["fits"]


@pytest.mark.usefixtures("forked")
def test_teachers_are_counted(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", max_iters=1)
    train(config)
    alone = planned(config)
    taught = planned(dataclasses.replace(config, distill_from=config.out_dir, stages=2))
    assert alone["memory"]["teachers"] == 0 and alone["unknown"] == []
    assert taught["memory"]["teachers"] == taught["memory"]["weights"]
    assert taught["flops"] == pytest.approx(alone["flops"] * 4 / 3)
    assert len(taught["unknown"]) == 1 and "of the first of 2" in taught["unknown"][0]
    assert "teachers" in describe(config, taught)


@pytest.mark.usefixtures("forked")
def test_the_time_of_all_stages_is_known(dataset_folder: Path, tmp_path: Path) -> None:
    own = "4: distill_from=2,3 max_iters=9"
    config = tiny_config(
        dataset_folder, tmp_path / "run", max_iters=4, stages=4, stage_iters=6, stage_options=own
    )
    found = planned(config)
    time = found["time"]
    # a student's iteration with a teacher takes 4/3 of the first one's, with two 5/3
    expected = time["total_s"] * (4 + 2 * 6 * 4 / 3 + 9 * 5 / 3) / 4
    assert time["chain_s"] == pytest.approx(expected)
    assert f"4, {duration(expected)} in all" in describe(config, found)


def test_time_is_added_up(dataset_folder: Path, tmp_path: Path) -> None:
    from bardlet.data.dataset.folder import Dataset

    config = tiny_config(
        dataset_folder, tmp_path / "run", max_iters=1000, eval_interval=300, eval_iters=5,
        save_minutes=1.0,
    )  # fmt: skip
    found = {"start_s": 2.0, "iter_s": 0.5, "eval_batch_s": 0.1, "save_s": 3.0}
    time = time_of(config, Dataset(dataset_folder), found)
    assert time["iterations_s"] == 500
    # after 300, 600, 900 and 1000 iterations: 5 batches of train, 38 windows of val in fours
    assert time["evaluations"] == 4
    assert math.ceil(599 / 16) == 38
    assert time["evaluations_s"] == pytest.approx(4 * (5 + 10) * 0.1)
    assert time["saves"] == 8  # every minute of 500 s
    assert time["total_s"] == pytest.approx(2 + 500 + 6 + 24)
    sampled = time_of(config, None, found)
    assert sampled["evaluations_s"] == pytest.approx(4 * (5 + 5) * 0.1)


@pytest.mark.parametrize("accumulated", [1, 2, 3, 10])
def test_many_micro_batches_are_inferred_from_three(accumulated: int) -> None:
    """Trials take 0.2 s for each micro-batch and 0.1 s for the step, and are short."""
    asked: list[int] = []

    def iterations(batch_size: int, steps: int, seconds: float) -> dict[str, float]:
        asked.append(steps)
        return {"iter_s": 0.1 + 0.2 * steps, "peak_bytes": 100 + steps, "start_s": 1.0}

    rest = {"peak_bytes": 50, "ready": 7.0, "launched": 5.0, "save_s": 0.5}
    trials: Any = SimpleNamespace(iterations=iterations, rest_of_run=lambda: dict(rest))
    config = tiny_config(Path("x"), Path("y"), gradient_accumulation_steps=accumulated)
    found = measure(trials, config, 0.1)
    assert found["iter_s"] == pytest.approx(0.1 + 0.2 * accumulated)
    assert max(asked) <= 3
    assert found["start_s"] == 3.0 and found["save_s"] == 0.5
    assert found["peak_bytes"] == 100 + min(accumulated, 3)


@pytest.mark.usefixtures("forked")
def test_without_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path / "absent", tmp_path / "run", vocab_size=300)
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["plan", str(tmp_path / "run.toml"), "--seconds=0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vocab_size"] == 300 and found["epochs"] is None
    assert len(found["unknown"]) == 1 and "no dataset at" in found["unknown"][0]
    assert found["time"]["total_s"] > 0
    assert cli.main(["plan", str(tmp_path / "run.toml"), "--seconds=0.1", "--vocab_size=0"]) == 0
    text = capsys.readouterr().out
    assert "256 tokens are assumed" in text and ", fits: weights" in text


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_what_does_not_fit(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("BARDLET_CORE", "0")
    monkeypatch.setattr(memory, "available", lambda: 600e6)
    config = tiny_config(dataset_folder, tmp_path / "run", **{**LARGE, "batch_size": 256})
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    assert cli.main(["plan", str(tmp_path / "run.toml"), "--seconds=0.1"]) == 1
    text = capsys.readouterr().out
    assert "more than fits of 600 MB, DOES NOT FIT" in text
    assert "the run does not fit into memory" in text and "checkpoints of" in text


@pytest.mark.usefixtures("forked")
def test_a_mistake_is_told(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", block_size=4096)
    with pytest.raises(TrainingError, match="block_size=4096 needs at least"):
        plan(config, 0.1)


def test_a_run_from_another_model_is_refused(dataset_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(dataset_folder, tmp_path / "run", init_from="gpt2")
    with pytest.raises(UsageError, match="init_from=gpt2: a run that begins from a model"):
        plan(config, 0.1)


@pytest.mark.usefixtures("forked")
def test_compiling_is_said_and_bounded(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A process that says that it compiles, and then nothing, ends with the time for it."""
    monkeypatch.setattr(estimate, "COMPILE_S", 0.5)
    launch, commands = subprocess.Popen, []

    def popen(command: list[str], **options: Any) -> Any:
        commands.append(command)
        if len(commands) == 1:
            code = "import sys, time; print('compiling the model', file=sys.stderr, flush=True)"
            command = [sys.executable, "-c", f"{code}; time.sleep(60)"]
        return launch(command, **options)

    monkeypatch.setattr(trial_process.subprocess, "Popen", popen)
    config = tiny_config(dataset_folder, tmp_path / "run", compile=True)
    planned = estimate.plan(config, 0.1)
    err = capsys.readouterr().err
    assert "compiling the model, for at most 0.5 s" in err
    assert "that takes longer: measuring without torch.compile" in err
    assert planned["time"]["total_s"] > 0 and planned["compiled"] is False
    assert any("torch.compile" in text for text in planned["unknown"])
