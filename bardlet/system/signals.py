"""Signals that ask a run to stop: it saves and ends; a second one ends it at once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from bardlet.errors import UsageError

# SIGUSR1 is what cluster schedulers send before the time is up, SIGHUP that the terminal is closed;
# Windows knows neither
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
STOPPING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
HANGUP = getattr(signal, "SIGHUP", None)
# no signs of impatience: they come from the system, and several at a time
UNCOUNTED = {HANGUP, getattr(signal, "SIGUSR1", None)}

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_launcher() -> None:
    """Have a worker of torchrun asked to stop when its launcher ends, however it does.

    A launcher that is killed, or that a scheduler's SIGUSR1 ends, would leave its workers training
    on for nobody. Linux sends the signal; elsewhere nothing changes.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    if os.getppid() != parent:  # it has ended in between
        os.kill(os.getpid(), signal.SIGUSR1)


def need_signals(what: str) -> None:
    """Raise UsageError where no process can be asked to stop, only be ended, as on Windows."""
    if sys.platform == "win32":
        raise UsageError(
            f"{what} needs signals, which Windows does not have",
            "Run it in the Windows Subsystem for Linux",
        )


@contextlib.contextmanager
def stop_signals(answer: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Ask whether a signal to stop has come; a second one raises KeyboardInterrupt at once.

    `answer` is called when the first one comes, from its handler. A closed terminal, told by the
    system, the shell and the end of the session alike, asks to stop and is not counted; nor is what
    a scheduler sends, or the system for each thread of a launcher that ends. A worker of torchrun
    gets one SIGTERM from it and, under SLURM, another one from the scheduler, which must not end it
    after the body either: the others may still be saving.
    """
    worker = "TORCHELASTIC_RUN_ID" in os.environ
    uncounted = UNCOUNTED | ({signal.SIGTERM} if worker else set())
    caught: list[int] = []
    counted: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        counted.extend([number] * (number not in uncounted))
        if len(counted) > 1:
            raise KeyboardInterrupt
        if len(caught) == 1:
            answer()

    before = {}
    if threading.current_thread() is threading.main_thread():
        # nohup has a run ignore that its terminal closes
        ignored = [n for n in STOPPING if n == HANGUP and signal.getsignal(n) == signal.SIG_IGN]
        before = {n: signal.signal(n, note) for n in STOPPING if n not in ignored}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            if not (worker and caught and number in uncounted):
                signal.signal(number, handler)
