"""Processes that a launcher starts find each other, and none that it started before them."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist
from support import in_child

from bardlet.errors import TrainingError
from bardlet.system import meeting
from bardlet.system.meeting import AGAIN, met


def names(store: dist.Store, processes: int, again: bool = False) -> list[str]:
    """The names of the keys of so many processes, which meet in this store."""
    with ThreadPoolExecutor(processes) as threads:
        return list(
            threads.map(
                lambda rank: met(store, rank, processes, again=again and not rank, limit_s=60),
                range(processes),
            )
        )


def test_what_a_launcher_keeps_of_earlier_processes_is_not_read() -> None:
    """On more of them, and then on fewer; and all know that others have been there."""
    store = dist.HashStore()
    sessions = [names(store, processes) for processes in (2, 3, 2, 1)]
    for name, *others in sessions:
        assert others == [name] * len(others)
    assert len({name for name, *_ in sessions}) == 4
    assert [name.startswith(AGAIN) for name, *_ in sessions] == [False, True, True, True]
    assert all(name.startswith(AGAIN) for name in names(dist.HashStore(), 2, again=True))


def test_one_that_does_not_come_is_named() -> None:
    store = dist.HashStore()
    store.set("here/1", "another")  # of an earlier process
    with pytest.raises(TrainingError, match="process 1 of 2 has not come in 0 s"):
        met(store, 0, 2, limit_s=0)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux names a process by a file")
def test_a_launcher_that_does_not_hear_a_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what outlives its process. One that may start its processes again is left alone."""
    monkeypatch.setattr(meeting, "LINGERS_S", 0.0)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")

    def launcher(restarts: int) -> None:
        os.environ["TORCHELASTIC_MAX_RESTARTS"] = str(restarts)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert in_child(meeting.end_launcher) == 0
        time.sleep(0 if restarts > 1 else 300)

    assert in_child(lambda: launcher(1)) == -signal.SIGKILL
    assert in_child(lambda: launcher(2)) == 0
