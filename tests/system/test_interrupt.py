"""Ctrl-C in each stage of a real process: one line, exit code 130, and nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from pytest import MonkeyPatch

from bardlet import cli
from bardlet.run import run_folder
from bardlet.system.signals import STOPPING, stop_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
TEXT = "to be, or not to be: that is the question.\n" * 200
CONFIG = """
dataset = "plays"
out_dir = "out/a"
n_layer = 1
n_head = 2
n_embd = 8
block_size = 64
batch_size = 2
gradient_accumulation_steps = 1
max_iters = 200000
eval_interval = 100000
eval_iters = 1
device = "cpu"
dtype = "float32"
"""
TRAIN = ["train", "tiny.toml"]


Start = Callable[..., "Command"]


class Command:
    """`bardlet ARGS` as a process of its own in `folder`."""

    def __init__(self, folder: Path, *args: str, python: tuple[str, ...] = ("-u",)) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *python, "-m", "bardlet", *args], cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def wait_for(self, stream: IO[str], text: str) -> str:
        """What the stream has up to and with `text`."""
        seen = ""
        while text not in seen:
            char = stream.read(1)
            assert char, f"{text!r} did not come: {seen}"
            seen += char
        return seen

    def feed(self) -> None:
        """Write more to its standard input than a pipe holds: returns when it is being read."""
        self.process.stdin.write(TEXT * 30)
        self.process.stdin.flush()

    def finish(self, *signals: int) -> tuple[int, str, str]:
        """Send the signals; exit code, stdout and stderr of the rest."""
        for number in signals:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path, monkeypatch: MonkeyPatch) -> Iterator[Start]:
    """Starts commands in tmp_path, where this process is as well, and leaves none behind."""
    started: list[Command] = []

    def command(*args: str, **options: tuple[str, ...]) -> Command:
        started.append(Command(tmp_path, *args, **options))
        return started[-1]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    yield command
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def prepared(start: Start) -> None:
    """The dataset that CONFIG names."""
    assert cli.main(["prepare", "plays.txt"]) == 0


def handles(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a function for a signal, as Linux tells."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_while_prepare_reads_standard_input(start: Start, tmp_path: Path) -> None:
    command = start("prepare", "-")
    command.feed()
    code, out, err = command.finish(signal.SIGINT)
    assert (code, out, err) == (130, "", "bardlet: interrupted\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.usefixtures("prepared")
def test_training_saves_and_goes_on_with_resume(
    number: signal.Signals, start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = start(*TRAIN)
    command.wait_for(command.process.stdout, "iter 3: ")
    code, out, err = command.finish(number)
    assert (code, err) == (130, "stopping after this iteration; again: now\n")
    last = out.splitlines()[-1]
    assert last.startswith("stopped after ")
    assert last.endswith("; go on with: bardlet train --resume --out_dir=out/a")
    done = int(last.split()[2])
    capfd.readouterr()
    code = cli.main(["train", "--resume", "--out_dir=out/a", f"--max_iters={done + 2}"])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    assert f"resuming out/a at iteration {done}" in out
    assert f"iter {done + 1}: " in out
    assert [p.name for p in (tmp_path / "out/a/checkpoints").glob(".*")] == []


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
@pytest.mark.usefixtures("prepared")
def test_a_second_time_in_training_ends_at_once(start: Start) -> None:
    # An iteration of minutes, of few sequences: the thread that makes batches is two ahead, and the
    # process waits for it. Too few iterations for torch.compile.
    shape = ["--block_size=512", "--n_embd=256", "--n_layer=8"]
    command = start(*TRAIN, *shape, "--gradient_accumulation_steps=1000", "--max_iters=100")
    command.wait_for(command.process.stdout, "tokens per iteration")
    while not handles(command.process, signal.SIGTERM):  # as the loop of training does
        assert command.process.poll() is None
        time.sleep(0.01)
    command.process.send_signal(signal.SIGINT)
    # two that come before Python looks are one
    answered = command.wait_for(command.process.stderr, "\n")
    assert answered == "stopping after this iteration; again: now\n"
    code, out, err = command.finish(signal.SIGINT)  # which waits for less than an iteration takes
    assert (code, "iter 0" in out, err) == (130, False, "bardlet: interrupted\n")


@pytest.mark.usefixtures("prepared")
def test_while_sampling(start: Start) -> None:
    assert cli.main([*TRAIN, "--max_iters=1"]) == 0
    command = start("sample", "out/a", "--num_samples=1", "--max_new_tokens=1000000")
    command.wait_for(command.process.stdout, "\n")  # the prompt
    assert len(command.process.stdout.read(1)) == 1  # and of the text that follows it
    code, _, err = command.finish(signal.SIGINT)
    assert (code, err) == (130, "bardlet: interrupted\n")


def test_with_debug_the_place_is_shown(start: Start) -> None:
    command = start("prepare", "-", "--debug")
    command.feed()
    code, _, err = command.finish(signal.SIGINT)
    assert code == 130
    assert "Traceback" in err
    assert err.splitlines()[-1] == "bardlet: interrupted"


@pytest.mark.usefixtures("prepared")
def test_a_closed_terminal_saves_as_sigterm_does(tmp_path: Path) -> None:
    """SIGHUP comes, and from then on nothing can be written to the terminal."""
    import pty

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "bardlet", *TRAIN]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
    )  # fmt: skip
    try:
        os.close(slave)
        seen = b""
        while b"iter 3: " not in seen:
            seen += os.read(master, 4096)
        os.close(master)
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 130
    finally:
        process.kill()
        process.wait()
    assert run_folder.read_pointer(Path("out/a"), "last") == run_folder.newest(Path("out/a"))
    assert run_folder.iter_of(run_folder.newest(Path("out/a"))) > 3


def test_a_closed_terminal_asks_once_and_nohup_is_heeded() -> None:
    """A run that was started to outlive its terminal does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted()
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with stop_signals() as interrupted:
            assert not interrupted()
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):  # as a session ends
                os.kill(os.getpid(), number)
                assert interrupted()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_of_torchrun_is_not_hurried_by_a_second_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM signals every process of a job step, and torchrun passes its own signal on."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    before = {n: signal.getsignal(n) for n in STOPPING}
    try:
        with stop_signals() as interrupted:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                assert interrupted()
        os.kill(os.getpid(), signal.SIGTERM)  # while others save
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
