"""Each illness, made to happen in a real tiny run, and healthy runs that get a clean bill.

Two facts are faked at the lowest level, since a test cannot have them happen: the clock that the
loop reads, for a machine that slows down or keeps an even pace, and the name of the device.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import dying, some_text, tiny_config

from bardlet import cli
from bardlet import train as training
from bardlet.analysis import doctor, history
from bardlet.analysis.doctor import Finding
from bardlet.commands import settings
from bardlet.config import resolve
from bardlet.data.dataset.loader import StreamBatches
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import TrainingError
from bardlet.system.device import Machine
from bardlet.train import train
from bardlet.training import steps

PLAIN = {"optimizer": "adamw", "min_lr": 0.0, "max_iters": 120, "eval_interval": 60}


class Clock:
    """A clock by which an iteration takes 2 ms, and `times` as long from iteration `slow` on.

    The loop reads it three times in each: at the beginning, with the batch there, and at the end.
    """

    def __init__(self, slow: float = math.inf, times: float = 1.0, waits: float = 1e-4) -> None:
        self.slow, self.times, self.waits, self.calls, self.now = slow, times, waits, 0, 0.0

    def perf_counter(self) -> float:
        self.now += (0.0, self.waits, 0.0019)[self.calls % 3] * (
            self.times if self.calls // 3 >= self.slow else 1.0
        )
        self.calls += 1
        return self.now


def run_by(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop, and what reads its iterations, have this clock."""
    for module in (training, steps):
        monkeypatch.setattr(module, "time", clock)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs at an even pace, whatever else this machine does."""
    run_by(Clock(), monkeypatch)


def dataset_of(text: str, folder: Path) -> Path:
    prepare(Corpus(name=folder.name, text=text, sources=()), folder)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60,000 characters: enough for tiny runs to read them once."""
    return dataset_of(some_text(60000), tmp_path_factory.mktemp("data") / "words60")


def findings_of(folder: Path, out: Path, family: str = "llama", **options: Any) -> list[Finding]:
    config = tiny_config(folder, out, family, **{**PLAIN, **options})
    train(config)
    return doctor.diagnose(history.read(out))


def the_only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.usefixtures("steady")
def test_a_healthy_run_has_nothing(family: str, words: Path, tmp_path: Path) -> None:
    assert findings_of(words, tmp_path / "run", family, optimizer="adamw") == []


@pytest.mark.usefixtures("steady")
def test_a_healthy_muon_run_has_nothing(words: Path, tmp_path: Path) -> None:
    assert findings_of(words, tmp_path / "run", optimizer="muon") == []


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    "preset", ["shakespeare-char-quick", "demo", "shakespeare-char-classic-cpu"]
)
def test_presets_are_healthy(preset: str, words: Path, tmp_path: Path) -> None:
    short = {
        "dataset": str(words), "out_dir": str(tmp_path / "run"), "device": "cpu", "max_iters": 30,
        "warmup_iters": 5, "eval_interval": 15, "eval_iters": 1, "log_interval": 1,
        "lr_decay_iters": 0,
    }  # fmt: skip
    config = resolve([*settings.load_layers(preset, lambda: "cpu"), ("test", short)])
    train(config)
    assert doctor.diagnose(history.read(tmp_path / "run")) == []


@pytest.mark.usefixtures("steady")
def test_a_loss_that_leaves_and_stays_away(words: Path, tmp_path: Path) -> None:
    findings = findings_of(
        words, tmp_path / "run", learning_rate=10.0, decay_lr=False, grad_clip=0.0
    )
    found = findings[0]
    assert found.illness == "diverged"
    assert found.iter is not None and found.iter < 30
    assert "began at 2.7" in found.evidence and "--learning_rate" in found.suggestion
    assert "learning rate too high" not in [f.illness for f in findings], "said once"


@pytest.mark.usefixtures("steady")
def test_a_loss_that_is_no_number(words: Path, tmp_path: Path) -> None:
    config = tiny_config(
        words, tmp_path / "run", "gpt2",
        **{**PLAIN, "max_iters": 400, "learning_rate": 1e6, "decay_lr": False, "grad_clip": 0.0},
    )  # fmt: skip
    with pytest.raises(TrainingError):
        train(config)
    past = history.read(tmp_path / "run")
    found = doctor.diagnose(past)[0]
    assert (found.illness, found.iter) == ("diverged", past.events[-1]["iter"])
    assert "no finite" in found.evidence


def test_a_loss_that_is_null_in_a_run_without_events(tmp_path: Path) -> None:
    """As 0.1.0 wrote it, which had no lines of events."""
    lines = [{"type": "iter", "iter": i, "loss": 3.0 if i < 7 else None} for i in range(9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = the_only(doctor.diagnose(history.read(tmp_path)))
    assert (found.illness, found.iter) == ("diverged", 7)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_run_that_has_stopped_learning(
    guarded: bool, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which only every tenth iteration has a line: 6 or 8, too few to judge a curve by."""
    dying(monkeypatch, at=38)
    options = {"max_iters": 80, "eval_interval": 80, "log_interval": 10, "guard_dead": guarded}
    with pytest.raises(TrainingError) if guarded else contextlib.nullcontext():
        findings_of(words, tmp_path / "run", **options)
    past = history.read(tmp_path / "run")
    found = the_only(doctor.diagnose(past))
    assert (found.illness, found.iter) == ("stopped learning", 40)
    assert found.evidence.startswith("at iteration 40 the loss returned to ln 15 = 2.708 from ")
    assert found.evidence.endswith(", and the gradient's norm is 0 since")
    assert "--learning_rate" in found.suggestion and "--dtype=float32" in found.suggestion


def test_a_spike_before_the_end_is_told(tmp_path: Path) -> None:
    losses = [4.17, 3.0, 2.0, 9.1, 4.1744, 4.1744, 4.1744]
    lines: list[dict[str, Any]] = [{"type": "start", "iter": 0, "vocab_size": 65}]
    lines += [
        {"type": "iter", "iter": 10 * i, "loss": loss, "grad_norm": 0.0 if i > 3 else 1.0}
        for i, loss in enumerate(losses)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = the_only(doctor.diagnose(history.read(tmp_path)))
    assert found.evidence == (
        "at iteration 40 the loss returned to ln 65 = 4.174 after a spike to 9.1, and the "
        "gradient's norm is 0 since"
    )


@pytest.mark.usefixtures("steady")
def test_a_rate_that_is_too_high(family: str, words: Path, tmp_path: Path) -> None:
    findings = findings_of(words, tmp_path / "run", family, learning_rate=1.0, max_iters=200)
    found = findings[0]
    assert found.illness == "learning rate too high"
    assert found.iter is not None and found.iter < 100
    assert "--learning_rate" in found.suggestion


@pytest.mark.usefixtures("steady")
def test_spikes_again_and_again(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some batches are noise to the model: their loss is what a rate too high brings about."""
    plain = StreamBatches.batch

    def batch(self: StreamBatches, it: int) -> tuple[torch.Tensor, torch.Tensor]:
        idx, targets = plain(self, it)
        return (idx, (targets + 5) % 10) if it % 30 == 29 else (idx, targets)

    monkeypatch.setattr(StreamBatches, "batch", batch)
    findings = findings_of(
        words, tmp_path / "run", optimizer="muon", max_iters=200, skip_spikes=True
    )
    events = history.read(tmp_path / "run").named("skipped")
    assert len(events) == 5, "the run itself noticed"
    assert findings[0].illness == "learning rate too high"
    assert f"{len(events)} spikes" in findings[0].evidence
    assert findings[0].iter == events[0]["iter"]


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("rate", [1e-6, 3e-5])
def test_a_rate_that_is_too_low(family: str, words: Path, tmp_path: Path, rate: float) -> None:
    found = the_only(findings_of(words, tmp_path / "run", family, learning_rate=rate))
    assert found.illness == "learning rate too low"
    assert f"{rate:.1e}" in found.evidence and "--learning_rate" in found.suggestion


@pytest.mark.usefixtures("steady")
def test_a_warmup_that_is_not_over_is_not_judged(words: Path, tmp_path: Path) -> None:
    options = {"warmup_iters": 2000, "lr_decay_iters": 3000, "max_iters": 60, "learning_rate": 1e-4}
    assert findings_of(words, tmp_path / "run", **options) == []


@pytest.mark.usefixtures("steady")
def test_a_gradient_that_explodes(words: Path, tmp_path: Path) -> None:
    options = {"learning_rate": 1.0, "grad_clip": 0.0, "warmup_iters": 60}
    findings = findings_of(words, tmp_path / "run", "gpt2", **options)
    found = next(f for f in findings if f.illness == "gradient norm exploding")
    # it explodes near the peak of the rate, at iteration 60: at 54 to 72 over six seeds
    assert found.iter is not None and 36 <= found.iter <= 90
    assert "--grad_clip" in found.suggestion


@pytest.mark.usefixtures("steady")
def test_overfitting(tmp_path: Path) -> None:
    small = dataset_of(some_text(1500), tmp_path / "data" / "small")
    # validation rises by 0.14 to 0.28 nats over seeds, with the core and without
    findings = findings_of(
        small, tmp_path / "run", n_embd=64, n_head=2, n_kv_head=1, block_size=32, batch_size=16,
        max_iters=200, eval_interval=20, eval_iters=2, optimizer="muon", decay_lr=False,
        min_lr=1e-2,
    )  # fmt: skip
    past = history.read(tmp_path / "run")
    best = min(past.evals, key=lambda line: line["val_loss"])["iter"]
    assert best <= 120, "it overfits in earnest"
    found = next(f for f in findings if f.illness == "overfitting")
    assert found.iter == best
    assert f"--max_iters={best}" in found.suggestion


@pytest.mark.usefixtures("steady")
def test_data_repeated(dataset_folder: Path, tmp_path: Path) -> None:
    findings = findings_of(dataset_folder, tmp_path / "run", batch_size=16, max_iters=300)
    found = next(f for f in findings if f.illness.startswith("data repeated"))
    assert found.illness == "data repeated 14 times"  # 300 * 16 * 16 / 5400
    assert "76,800 tokens were read from 5,400" in found.evidence
    assert "--max_iters" in found.suggestion and "232" in found.suggestion  # 11 of 14.2


@pytest.mark.usefixtures("steady")
def test_a_vocabulary_too_large(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + (i * i) % 997) for i in range(6000))
    folder = dataset_of(text, tmp_path / "data" / "signs")
    findings = findings_of(folder, tmp_path / "run", max_iters=30)
    found = next(f for f in findings if f.illness.startswith("vocabulary"))
    assert "5,400 training tokens for a vocabulary of 499" in found.evidence
    assert "--dataset" in found.suggestion


def test_throughput_that_drops(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is faked: from iteration 60 on, everything takes three times as long."""
    run_by(Clock(slow=60, times=3.0), monkeypatch)
    found = the_only(findings_of(words, tmp_path / "run"))
    assert (found.illness, found.iter) == ("throughput dropped", 60)
    assert found.evidence == "2.0 ms an iteration, then 6.0 ms"


def test_a_device_that_waits(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is faked, by which a batch takes ten times as long as the rest; and the GPU."""
    facts = Machine.facts
    run_by(Clock(waits=0.02), monkeypatch)
    monkeypatch.setattr(Machine, "facts", lambda self: {**facts(self), "device": "cuda"})
    findings = findings_of(words, tmp_path / "run", max_iters=40)
    found = next(f for f in findings if f.illness == "GPU idle")
    assert "waiting for its batch, MFU" in found.evidence and "--dataset" in found.suggestion


@pytest.mark.usefixtures("steady")
def test_older_runs_are_read(words: Path, tmp_path: Path) -> None:
    """Without the lines and keys of later versions, and with a line that a kill cut short."""
    findings_of(words, tmp_path / "run", learning_rate=1e-6)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    old = [
        json.dumps({k: v for k, v in line.items() if k != "data_ms"})
        for line in lines if line["type"] in ("iter", "eval")
    ]  # fmt: skip
    path.write_text("\n".join(old) + '\n{"type": "iter", "it')
    found = the_only(doctor.diagnose(history.read(path)))
    assert found.illness == "learning rate too low"


@pytest.mark.usefixtures("steady")
def test_the_command(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sick, well = tmp_path / "sick", tmp_path / "well"
    findings_of(words, sick, learning_rate=1e-6)
    findings_of(words, well)
    capsys.readouterr()
    assert cli.main(["doctor", str(well)]) == 0
    assert (
        capsys.readouterr().out == f"{well} is healthy: nothing found in 120 lines of iterations\n"
    )
    assert cli.main(["doctor", str(sick)]) == 1
    text = capsys.readouterr().out
    assert text.startswith("learning rate too low: the loss fell from 2.7")
    assert cli.main(["doctor", str(sick), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is False
    assert found["findings"][0]["illness"] == "learning rate too low"
    assert cli.main(["doctor", str(well), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    shutil.rmtree(well)
    assert cli.main(["doctor", str(well)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "cannot read" in captured.err
