"""Several processes train as one does: under torchrun, and forked, which needs no new torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import as_ranks, in_child, rank_environments, tensors, tiny_config

from bardlet import cli
from bardlet.config import TrainConfig, to_toml
from bardlet.data.dataset.loader import Prefetcher
from bardlet.errors import UsageError
from bardlet.run import run_folder
from bardlet.system import distributed
from bardlet.system.distributed import Group, here, is_peer_lost
from bardlet.train import train


def entries(out: Path, kind: str, key: str) -> list[float]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[key] for line in lines if (entry := json.loads(line))["type"] == kind]


def launched(config: TrainConfig, processes: int) -> None:
    """Train in processes that torchrun starts."""
    file = Path(config.out_dir).with_suffix(".toml")
    file.write_text(to_toml(config), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc_per_node={processes}", "-m", "bardlet", "train", str(file)],
        capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 8: ") == 1, "the main process alone logs"


@pytest.mark.parametrize(("processes", "micro", "steps"), [(2, 4, 2), (2, 2, 3), (3, 8, 1)])
def test_processes_equal_one(
    family: str, dataset_folder: Path, tmp_path: Path, processes: int, micro: int, steps: int
) -> None:
    options = {"batch_size": micro, "gradient_accumulation_steps": steps}
    single = tiny_config(dataset_folder, tmp_path / "single", family, **options)
    train(single)
    many = dataclasses.replace(single, out_dir=str(tmp_path / "many"))
    by_torchrun = (family, processes, micro) == ("llama", 2, 2) or not hasattr(os, "fork")
    if by_torchrun:
        launched(many, processes)
    else:
        as_ranks(processes, lambda: train(many))
    # equal but for the order of float32 sums, which Muon magnifies
    for kind, key in (("iter", "loss"), ("eval", "val_loss"), ("eval", "train_loss")):
        expected = entries(tmp_path / "single", kind, key)
        assert entries(tmp_path / "many", kind, key) == pytest.approx(expected, abs=1e-4)
    assert (tmp_path / "many/config.toml").is_file()


LEFT = """
import contextlib, sys, time, torch
from pathlib import Path
from bardlet.system.distributed import here, joined, wrap
group = here()
with joined(group, "auto", torch.device("cpu")):
    model = wrap(torch.nn.Linear(3, 1), group, torch.device("cpu"))
    model(torch.ones(2, 3)).sum().backward()
    del model
def threads():
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append(path.read_text().strip())
    return sorted(names)
names = threads()
for _ in range(1200):  # the system lists one for a moment longer than it runs
    if not any("gloo" in name for name in names):
        break
    time.sleep(0.05)
    names = threads()
Path(sys.argv[1], str(group.rank)).write_text(" ".join(names))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux")
def test_no_thread_outlives_the_process_group(tmp_path: Path) -> None:
    """One that did let go of a tensor while the interpreter ended, and the process aborted."""
    (tmp_path / "left.py").write_text(LEFT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "left.py"), str(tmp_path)]
    ranks = [
        subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
        for environment in rank_environments(2)
    ]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    left = [(tmp_path / str(rank)).read_text(encoding="utf-8").split() for rank in (0, 1)]
    assert [name for names in left for name in names if "gloo" in name] == []


def test_a_reducer_ends_before_the_process_group() -> None:
    """Else it ends the group with Python's lock, and gloo's thread waits for that: a deadlock, in
    one of twenty runs of two processes."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ddp = distributed.wrap(torch.nn.Linear(2, 2), Group(world_size=2), torch.device("cpu"))
        reducer = weakref.ref(ddp.reducer)
        assert reducer()
        distributed.release_wrapped()
        assert reducer() is None
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_process_that_dies_is_named_by_the_others(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they end, with an error of their own, in some seconds."""
    fetch = Prefetcher.batch

    def dying(self: Prefetcher, it: int) -> Any:
        if it == 3 and here().rank == 1:
            os._exit(9)
        return fetch(self, it)

    monkeypatch.setattr(Prefetcher, "batch", dying)
    config = tiny_config(dataset_folder, tmp_path / "run", save_interval=1)

    def rank(environment: dict[str, str]) -> int:
        def work() -> None:
            os.environ |= environment
            (tmp_path / "a.toml").write_text(to_toml(config), encoding="utf-8")
            code = cli.main(["train", str(tmp_path / "a.toml")])
            Path(tmp_path, f"code{here().rank}").write_text(str(code), encoding="utf-8")

        return in_child(work, kill_after_s=240)

    monkeypatch.setattr(cli, "say", lambda line: (tmp_path / "said").write_text(line, "utf-8"))
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(rank, rank_environments(2))) == [0, 9]
    assert (tmp_path / "code0").read_text(encoding="utf-8") == "1"
    assert (tmp_path / "said").read_text(encoding="utf-8") == (
        f"bardlet: process 1 of 2 on {socket.gethostname()} has ended without a word: it was "
        "killed, by the system perhaps when memory ran out. Started again, all go on from the last "
        "checkpoint"
    )
    assert run_folder.iter_of(run_folder.newest(tmp_path / "run")) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end on Linux")
@pytest.mark.parametrize(
    "ends", [signal.SIGUSR1, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_workers_save_and_end_with_their_launcher(
    dataset_folder: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    """SIGUSR1 ends torchrun itself, and its workers trained on."""
    config = tiny_config(dataset_folder, tmp_path / "run", max_iters=20_000, eval_interval=20_000)
    (tmp_path / "a.toml").write_text(to_toml(config), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "-m", "bardlet", "train", str(tmp_path / "a.toml")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as launcher:  # fmt: skip
        try:
            assert launcher.stdout is not None
            lines = iter(launcher.stdout.readline, "")
            next(line for line in lines if line.startswith("iter 3:"))
            launcher.send_signal(ends)
            assert launcher.wait(120) == -ends
            with ThreadPoolExecutor(1) as reader:  # which ends when no worker holds the pipe
                assert "stopped after" in reader.submit("".join, lines).result(120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
    newest = run_folder.newest(tmp_path / "run")
    run_folder.verify(newest)
    assert 4 <= run_folder.iter_of(newest) < 20_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="children are listed on Linux")
def test_kills_and_restarts_by_torchrun_change_no_weight(
    dataset_folder: Path, tmp_path: Path
) -> None:
    """Twenty workers killed at random moments, each after another stretch of the run."""
    options = {"max_iters": 400, "eval_interval": 400, "save_interval": 7}
    undisturbed = tiny_config(dataset_folder, tmp_path / "undisturbed", **options)
    as_ranks(2, lambda: train(undisturbed), kill_after_s=900)
    config = dataclasses.replace(undisturbed, out_dir=str(tmp_path / "run"), fresh=True)
    (tmp_path / "a.toml").write_text(to_toml(config), encoding="utf-8")
    moments = random.Random(0)
    kills = 0
    with subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "--max_restarts=20", "-m", "bardlet", "train", str(tmp_path / "a.toml")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as launcher:  # fmt: skip
        try:
            assert launcher.stdout is not None
            left = moments.randrange(1, 20)
            for line in launcher.stdout:
                left -= line.startswith("iter ")
                if left == 0 and kills < 20:
                    time.sleep(moments.random() / 50)
                    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
                    workers = [int(pid) for pid in children.read_text("ascii").split()]
                    os.kill(moments.choice(workers), signal.SIGKILL)
                    kills, left = kills + 1, moments.randrange(1, 20)
            assert launcher.wait(60) == 0 and kills == 20
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
    ours, theirs = tensors(config), tensors(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[.../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1", True),
        ("[.../gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
        ("CUDA out of memory", False),
    ],
)
def test_what_says_that_another_process_has_ended(text: str, lost: bool) -> None:
    assert is_peer_lost(RuntimeError(text)) == lost


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert here() == Group(rank=0, local_rank=0, world_size=1)
    assert here().main


def test_a_broken_environment_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UsageError, match="must be numbers"):
        here()
