"""Several processes: the same bytes as one, and none that stays."""

from __future__ import annotations

import contextlib
import gzip
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from corpora import TEXTS, contents, jsonl, lines, made, words

from bardlet.data.prepare.workers import ordered_map, starting
from bardlet.errors import DataError


@pytest.mark.usefixtures("small_units")
def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [words(50, i) for i in range(200)])
    (tmp_path / "b.txt").write_text(words(5000, 7), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS)))
    given = [tmp_path / name for name in ("a.jsonl", "b.txt", "c.jsonl.gz")]
    for workers in (1, 3):
        made(tmp_path / f"d{workers}", *given, tokenizer="char", workers=workers, distinct=True,
             shard_tokens=9999)  # fmt: skip
    assert contents(tmp_path / "d1") == contents(tmp_path / "d3")
    assert len(contents(tmp_path / "d1")) > 10


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text(encoding="utf-8").split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_end_from_outside(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(3_000_000), encoding="utf-8")
    command = [sys.executable, "-m", "bardlet", "prepare", "a.txt", "--workers=2", "--out=d",
               "--tokenizer=bpe"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(found := children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) >= 2
    time.sleep(0.5)
    process.send_signal(number)
    assert process.stderr is not None
    err = process.stderr.read()  # ends when the last process that writes to it has ended
    process.stderr.close()
    assert process.wait(60) in (130, -signal.SIGKILL)
    assert "Traceback" not in err
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("wait", [0.0, 0.05, 0.2])
def test_processes_that_start_do_not_hear_ctrl_c(wait: float, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(100_000), encoding="utf-8")
    command = [sys.executable, "-m", "bardlet", "prepare", "a.txt", "--workers=2", "--out=d",
               "--tokenizer=byte"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(found := children(process.pid)) < 2 and process.poll() is None:
        time.sleep(0.001)
    time.sleep(wait)
    for pid in found:  # as a terminal does, which sends it to their parent as well
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")


LARGE = """
import sys, time
from bardlet.data.prepare import workers

def large(item, shared):
    return bytes(shared)

if __name__ == "__main__":
    for wait in (0.0, 0.003, 0.01, 0.02):
        found = workers.ordered_map(large, range(99), 1 << 25, 2)
        next(found)
        time.sleep(wait)
        found.close()
"""


def test_processes_end_while_they_send_what_they_have_done(tmp_path: Path) -> None:
    """The pool's thread once waited for ever for the rest of a result, and Python waited for it."""
    (tmp_path / "large.py").write_text(LARGE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "large.py")], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "to another thread"])
def test_ctrl_c_is_held_back_and_not_lost(beside: bool) -> None:
    done = threading.Event()
    if beside:
        threading.Thread(target=done.wait, daemon=True).start()
    held = False
    with pytest.raises(KeyboardInterrupt):
        with starting():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            held = True
        done.wait(60)  # on a busy machine the other thread hears of it only now
    done.set()
    assert held
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("code", "problem"), [(KILLED, "was ended from outside"), ("1 / 0", "division by zero")]
)
def test_a_worker_that_is_killed_or_fails_is_an_error(code: str, problem: str) -> None:
    before = multiprocessing.active_children()
    with pytest.raises((DataError, ZeroDivisionError), match=problem):
        list(ordered_map(exec, ["pass", "pass", code, "pass"], {}, 2))
    assert multiprocessing.active_children() == before
