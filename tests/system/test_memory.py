"""When memory runs out: less at once, the same result, and a clear line where one is too much."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, events, losses, metrics, tensors, tiny_config

from bardlet import cli
from bardlet.errors import TrainingError, is_out_of_memory
from bardlet.model import GPT
from bardlet.system import device, memory
from bardlet.system.memory import MicroBatcher
from bardlet.train import train


def scarce(monkeypatch: pytest.MonkeyPatch, most: int, training: bool) -> None:
    """Let memory hold no more than `most` sequences, in training or in evaluation."""
    forward = GPT.forward

    def limited(self: GPT, idx: Any, targets: Any = None, **more: Any) -> Any:
        if len(idx) > most and self.training == training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(self, idx, targets, **more)

    monkeypatch.setattr(GPT, "forward", limited)


def test_training_goes_on_with_half_as_many_at_once(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tiny_config(
        dataset_folder, tmp_path / "small", batch_size=2, gradient_accumulation_steps=4
    )
    train(small)
    large = tiny_config(dataset_folder, tmp_path / "large", batch_size=8)
    scarce(monkeypatch, 3, training=True)
    with pytest.warns(UserWarning, match=r"out of memory: going on with [42] at once"):
        train(large)
    assert losses(large) == losses(small)
    assert all(torch.equal(t, tensors(small)[n]) for n, t in tensors(large).items())
    halvings = [(e["event"], e["iter"], e["batch_size"]) for e in events(large)]
    assert halvings == [("memory", 0, 4), ("memory", 0, 2)]


def test_evaluation_goes_on_with_half_as_many_at_once(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_config(dataset_folder, tmp_path / "plain", batch_size=8)
    train(plain)
    starved = tiny_config(dataset_folder, tmp_path / "starved", batch_size=8)
    scarce(monkeypatch, 3, training=False)
    with pytest.warns(UserWarning, match="out of memory"):
        train(starved)
    assert losses(starved) == losses(plain)
    for kind in ("train_loss", "val_loss", "bits_per_byte"):  # equal but for the order of sums
        ours, theirs = ([e[kind] for e in metrics(c, "eval")] for c in (starved, plain))
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_one_sequence_too_many_is_said(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarce(monkeypatch, 0, training=True)
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(TrainingError, match=r"out of memory with 1 sequences at once\. Lower"),
    ):
        train(tiny_config(dataset_folder, tmp_path / "run"))


def test_micro_batches_that_others_wait_for_are_not_halved() -> None:
    def fail(size: int) -> None:
        raise MemoryError

    with pytest.raises(TrainingError, match="out of memory with 8 sequences"):
        MicroBatcher(8, can_retry=False).run(fail)


def test_a_size_is_proven_by_two_batches() -> None:
    """The second one has the optimizer's state beside it; gradients are then exchanged at once."""
    batcher = MicroBatcher(8, overlap=True)
    for size, settled in ((8, False), (4, False), (4, True)):
        batcher.settle(size)
        assert (batcher.size, batcher.settled) == (size, settled)
    alone = MicroBatcher(8)
    for _ in range(3):
        alone.settle(8)
    assert not alone.settled


def test_other_errors_are_their_own() -> None:
    def fail(size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatcher(8).run(fail)
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60)
    assert is_out_of_memory(real.value) and not is_out_of_memory(RuntimeError("shapes"))


def test_sampling_goes_on_with_half_as_many_at_once(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train(tiny_config(dataset_folder, tmp_path / "run"))
    command = ["sample", str(tmp_path / "run"), "--num_samples=7", "--max_new_tokens=40"]
    capsys.readouterr()
    assert cli.main(command) == 0
    plain = capsys.readouterr().out
    scarce(monkeypatch, 3, training=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # which are errors in tests otherwise
        assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == plain and plain.count("---------------\n") == 7
    assert "warning: out of memory: going on with 3 at once\n" in printed.err


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support import tiny_config
from bardlet.train import train
config = tiny_config(Path({data!r}), Path({out!r}), batch_size={batch}, max_iters=2, eval_iters=1,
    n_embd=64, n_head=2, block_size=256, gradient_accumulation_steps=1, mlp_dim=2048)
size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + {room}, resource.RLIM_INFINITY))
train(config)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_real_memory_running_out(dataset_folder: Path, tmp_path: Path) -> None:
    """32 sequences at once do not fit into 500 MiB more than torch itself takes. The compiled core,
    which works on one sequence in each thread, needs no more for many."""
    code = LIMITED.format(
        tests=str(ROOT / "tests"), data=str(dataset_folder), out=str(tmp_path / "run"),
        batch=32, room=500 << 20,
    )  # fmt: skip
    environment = {**os.environ, "BARDLET_CORE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "out of memory: going on with" in done.stderr
    assert "iter 1: loss" in done.stdout


def available_in(root: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> float:
    """What `available` says on a machine whose /proc and /sys hold these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(memory, "Path", lambda path: root / path.removeprefix("/"))
    return memory.available()


MEMINFO = "MemTotal: 64000000 kB\nMemFree: 1000 kB\nMemAvailable: 32000000 kB\n"
GROUP = "sys/fs/cgroup"
STAT = "anon 1000\nfile 7000\nshmem 500\nactive_file 2000\ninactive_file 4500\nslab_reclaimable 300"
USED = {"memory.current": "9000", "memory.stat": STAT}  # of which 6,800 can be reclaimed


@pytest.mark.parametrize(
    ("process", "groups", "expected"),
    [
        ("0::/\n", {}, 32_768_000_000),
        ("0::/\n", {"": {"memory.max": "max", **USED}}, 32_768_000_000),
        ("0::/\n", {"": {"memory.max": "10000", **USED}}, 7800),
        ("0::/\n", {"": {"memory.max": "10000", "memory.current": "9000"}}, 1000),
        ("0::/\n", {"": {"memory.max": "2000", **USED}}, 0),
        (
            "0::/user/job\n",
            {"user/job": {"memory.max": "max", **USED}, "user": {"memory.max": "12000", **USED}},
            9800,
        ),
        (
            "0::/user/job\n",
            {"user/job": {"memory.max": "9500", **USED}, "user": {"memory.max": "12000", **USED}},
            7300,
        ),
        ("0::/not/mounted/here\n", {"": {"memory.max": "10000", **USED}}, 7800),
        (
            "3:cpu,cpuacct:/a\n2:memory:/docker/one\n0::/\n",
            {
                "memory/docker/one": {
                    "memory.limit_in_bytes": "10000", "memory.usage_in_bytes": "9000",
                    "memory.stat": "inactive_file 1\ntotal_inactive_file 4500\n"
                    "total_active_file 2000\n",
                },
                "memory": {
                    "memory.limit_in_bytes": "9223372036854771712",
                    "memory.usage_in_bytes": "9000", "memory.stat": "",
                },
            },
            7500,
        ),
    ],
    ids=["no limit", "max", "page cache", "no stat", "exceeded", "above", "nested", "root", "v1"],
)  # fmt: skip
def test_memory_that_the_page_cache_holds_is_available(
    process: str, groups: dict[str, dict[str, str]], expected: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": process}
    for group, values in groups.items():
        files |= {f"{GROUP}/{group}/{name}": text for name, text in values.items()}
    assert available_in(tmp_path, files, monkeypatch) == expected


def test_available_without_proc_is_infinite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available_in(tmp_path, {}, monkeypatch) == math.inf


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators")
def test_what_was_freed_between_other_things_is_returned() -> None:
    device.tune_process()  # keeps what is freed
    blocks = [torch.ones(1 << 18) for _ in range(128)]  # 1 MiB each
    kept = torch.ones(1)  # behind them
    before = resident()
    blocks.clear()
    memory.return_freed()
    assert before - resident() > 100 << 20
    assert kept.item() == 1


def resident() -> int:
    """The bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
