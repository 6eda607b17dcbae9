"""Iterations that a GPU records and replays: on the CPU with a stand-in for the recorder.

The stand-in computes again what it was given, from the places that it was given: what is held to
the plain run is all but CUDA's own part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_end, tiny_config

from bardlet import native
from bardlet.config import TrainConfig
from bardlet.gpu import compiling, graphs
from bardlet.system import device
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.train import train, train_step
from bardlet.training import backend
from bardlet.training.log import Log
from bardlet.training.schedule import make_recordable
from bardlet.training.setup import Training, setup

Work = Callable[[], None]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """A CPU that records as a GPU does; what it has recorded."""
    recorded: list[Work] = []

    def record(work: Work, where: torch.device) -> Work:
        recorded.append(work)
        return work

    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(compiling, "records", lambda kind, flops: True)
    late = property(lambda self: not self.config.skip_spikes)
    monkeypatch.setattr(Training, "late", late)
    return recorded


def plain(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> TrainConfig:
    """Train without a recording, but with rates where a recorded step has them."""
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "WARM_UP", 10**9)
        train(config)
    return config


@pytest.mark.parametrize("options", [{}, {"dropout": 0.2, "grad_clip": 0.5}], ids=["", "clipped"])
def test_a_recorded_run_is_the_plain_one(
    options: dict[str, Any], family: str, dataset_folder: Path, tmp_path: Path,
    recorder: list[Work], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Bit for bit, through warm-up and schedule, evaluations between, and on resuming."""
    options = {**options, "lr_decay_iters": 8}
    whole = plain(monkeypatch, tiny_config(dataset_folder, tmp_path / "plain", family, **options))
    assert recorder == []
    parts = tiny_config(dataset_folder, tmp_path / "parts", family, **options)
    train(dataclasses.replace(parts, max_iters=4))
    assert "CUDA graphs" in capsys.readouterr().out
    train(dataclasses.replace(parts, init_from="resume"))
    assert len(recorder) == 2, "the fourth iteration of each"
    assert_same_end(whole, parts)


def test_what_cannot_be_recorded_goes_on_as_it_is(
    family: str, dataset_folder: Path, tmp_path: Path, recorder: list[Work],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where CUDA refuses, where a replay does nothing, and where the second is another."""
    options: dict[str, Any] = {"dropout": 0.2}
    expected = plain(monkeypatch, tiny_config(dataset_folder, tmp_path / "a", family, **options))

    def refuse(work: Work, where: torch.device) -> Work:
        work()  # in part
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def decay(work: Work, where: torch.device) -> Work:
        replays = iter([1, 2])  # the second time it moves twice as far

        def replay() -> None:
            for _ in range(next(replays)):
                work()

        return replay

    def without_memory(work: Work, where: torch.device) -> Work:
        try:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        finally:
            raise RuntimeError("CUDA error: the recording was not ended")

    for name, record, reason in (
        ("full", without_memory, "CUDA out of memory. Tried to allocate 2.00 GiB$"),
        ("refused", refuse, "operation not permitted when stream is capturing$"),
        ("idle", lambda work, where: lambda: None, "Tensor-likes are not close!$"),
        ("decaying", decay, "Tensor-likes are not close!$"),
    ):
        monkeypatch.setattr(graphs, "record", record)
        config = tiny_config(dataset_folder, tmp_path / name, family, **options)
        with pytest.warns(UserWarning, match=f"going on without them: {reason}") as said:
            train(config)
        assert len(said) == 1
        assert_same_end(expected, config)


class Full(torch.Tensor):
    """A tensor of which memory has no room for a second one."""

    def clone(self, **how: Any) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_step_that_cannot_be_tried_twice_is_taken_once() -> None:
    weight, replay = torch.zeros(3).as_subclass(Full), graphs.Replay()

    def step(x: torch.Tensor) -> torch.Tensor:
        return weight.add_(x).as_subclass(torch.Tensor).sum().view(1)

    for _ in range(graphs.WARM_UP):
        assert not replay.ready()
    with pytest.warns(UserWarning, match="without them: CUDA out of memory"):
        assert replay(step, lambda: [weight], 0, torch.ones(3)).tolist() == [3.0]
    assert weight.tolist() == [1.0] * 3 and not replay.ready()


@pytest.mark.parametrize(
    ("options", "records"),
    [({}, True), ({"gradient_accumulation_steps": 2}, False), ({"skip_spikes": True}, False),
     ({"recompute": "block"}, False)],
    ids=str,
)  # fmt: skip
def test_only_what_is_the_same_every_time_is_recorded(
    options: dict[str, Any], records: bool, dataset_folder: Path, tmp_path: Path,
    recorder: list[Work],
) -> None:  # fmt: skip
    train(tiny_config(dataset_folder, tmp_path / "run", **options, max_iters=5))
    assert bool(recorder) == records


def test_small_models_on_a_gpu_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """shakespeare-char and nanoGPT's recipe are, GPT-2 124M is not: its kernels take longer."""
    assert compiling.records("cuda", 5e10) and compiling.records("cuda", 1.2e12)
    assert not compiling.records("cuda", 1.05e13) and not compiling.records("cpu", 5e10)
    half = Machine(device=torch.device("cuda"), dtype=torch.float16, why="for the test")
    usual = dataclasses.replace(half, dtype=torch.bfloat16)
    config = tiny_config(Path(), Path())
    assert backend.recordable(config, usual) and not backend.recordable(config, half)
    assert not backend.recordable(dataclasses.replace(config, offload=True), usual)


def step_losses(config: TrainConfig, iterations: int, waits: bool = True) -> list[float]:
    """Losses and norms of a run's first iterations; where none `waits`, CUDA raises if one does."""
    device.tune_process(config.deterministic)
    machine = device.choose(config.device, config.dtype)
    t = setup(config, Group(), machine, None, Log, "", None)
    assert t.backend.replay
    make_recordable(t.optimizers)
    batches = [t.batches.batch(it) for it in range(iterations)]
    steps = []
    try:
        for it, batch in enumerate(batches):
            if it == graphs.WARM_UP + 1 and not waits:
                torch.cuda.set_sync_debug_mode("error")
            steps.append(train_step(t, it, *batch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
        t.log.close()
    return [loss for step in steps for loss in (step.loss, step.grad_norm)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default", "error:CUDA graphs failed")  # of the compiler itself
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_replays_what_it_computes(
    compiled: bool, family: str, dataset_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With dropout, clipping and a schedule, bit for bit; and a replay waits for nothing."""
    options: dict[str, Any] = {
        "device": "cuda", "dtype": "bfloat16", "dropout": 0.2, "grad_clip": 0.5,
        "compile": compiled, "deterministic": True,
    }  # fmt: skip
    recorded = step_losses(tiny_config(dataset_folder, tmp_path / "a", family, **options), 9, False)
    monkeypatch.setattr(graphs, "WARM_UP", 10**9)
    expected = step_losses(tiny_config(dataset_folder, tmp_path / "b", family, **options), 9)
    assert recorded == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_works_on_after_a_recording_that_failed() -> None:
    """It draws random numbers, gives memory back, and records something else."""
    x = torch.zeros(4, device="cuda")
    stream = torch.cuda.current_stream()

    def work() -> None:
        torch.nn.functional.dropout(x, 0.5)
        x.sum().item()  # which waits, and cannot be recorded

    with pytest.raises(RuntimeError) as failed:
        graphs.record(work, x.device)
    assert "captur" in graphs.reason(failed.value)
    assert torch.cuda.current_stream() == stream
    torch.manual_seed(0)
    assert torch.rand(1000, device="cuda").unique().numel() > 900
    large = torch.empty(1 << 26, device="cuda")
    held = torch.cuda.memory_reserved()
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held - (1 << 28)
    replay = graphs.record(lambda: x.add_(1), x.device)  # pyright: ignore
    for _ in range(3):
        replay()
    assert x.tolist() == [3.0] * 4
