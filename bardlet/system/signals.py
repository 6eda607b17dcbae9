"""Signals that ask a run to stop: it saves and ends; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

# SIGUSR1 is what cluster schedulers send before the time is up; Windows does not know it
STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ask whether a signal to stop has come; a second one raises KeyboardInterrupt at once."""
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, note) for n in STOPPING}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
