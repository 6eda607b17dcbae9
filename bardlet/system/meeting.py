"""Where the processes of torchrun meet before they are a group: a store that all of them reach."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from bardlet import errors
from bardlet.errors import BardletError, TrainingError, UsageError

START_S = 600.0  # that processes wait for each other
PAUSE_S = 0.02  # between looks for processes that have not come yet
READ_S = 30.0  # that the main process waits for others to read why it ends
AGAIN = "again-"
LINGERS_S = 20.0  # that a launcher has to end by itself
KILL_LATER = """
import signal, sys, time
time.sleep(float(sys.argv[2]))
signal.pidfd_send_signal(int(sys.argv[1]), signal.SIGKILL)
"""
turns = itertools.count()  # of one process, so that what is told has a key of its own


class Store(Protocol):
    """What all processes read and write: torch.distributed's."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


def place() -> tuple[int, int, int]:
    """This process's number among all, that on its machine, and how many there are."""
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    try:
        rank, local_rank, world_size = (int(os.environ.get(n, d)) for n, d in names.items())
    except ValueError as error:
        raise UsageError(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}") from None
    return rank, local_rank, world_size


def restarted() -> bool:
    """Whether torchrun has started these processes again, as one failed or a node came or went.

    Each launcher counts the failures of its own ones alone; all have the main process's answer.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and session().again


def launcher() -> str:
    """Which launcher of torchrun keeps what all processes share; empty where process 0 does."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return ""
    return f"the launcher at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def end_launcher() -> None:
    """Ask this machine's launcher to end, where it may not start its processes again.

    One that is cut off from the others does not see its own processes end: it waits for the network
    as long as the system does, some 15 minutes. Python hears a signal only between the calls of its
    main thread, which may be the one that waits: on Linux the launcher is then killed, by a process
    that outlives this one.
    """
    restarts, allowed = (
        int(os.environ.get(f"TORCHELASTIC_{name}", "0"))
        for name in ("RESTART_COUNT", "MAX_RESTARTS")
    )
    if not launcher() or restarts < allowed:
        return
    if hasattr(os, "pidfd_open"):
        parent = os.pidfd_open(os.getppid())
        subprocess.Popen(
            [sys.executable, "-c", KILL_LATER, str(parent), str(LINGERS_S)], pass_fds=[parent],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    os.kill(os.getppid(), signal.SIGTERM)


def opened() -> dist.Store:
    """A connection of its own to what is shared; process 0 may be the one who keeps that."""
    try:
        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=START_S)))
    except ValueError as error:
        raise UsageError(f"the processes cannot find each other: {error}") from None
    except RuntimeError as error:
        raise not_met(str(error).splitlines()[0]) from None
    return store


def not_met(why: str) -> TrainingError:
    """What a process says that does not find the others."""
    return TrainingError(
        f"the processes do not find each other: {why}",
        "Start as many as --nproc_per_node and --nnodes say; each must reach MASTER_ADDR at "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
    )


def met(
    store: Store, rank: int, world_size: int, *, again: bool = False, limit_s: float = START_S
) -> str:
    """What the keys of these processes begin with, and of none before them; when all have come.

    A launcher keeps what it was told when it starts its processes again, so each has to know that
    the main process speaks to it and not to one that has been in its place (pytorch#135712). Where
    that has happened, or the main process is told so by `again`, the name begins with AGAIN. Raises
    TrainingError where they do not come in time.
    """
    mine = uuid.uuid4().hex
    if not rank:
        mine = AGAIN * (again or store.check(["begun"])) + mine
        store.set("begun", mine)
    else:
        store.set(f"here/{rank}", mine)
        name = store.get(f"welcome/{mine}").decode()
        store.set(f"{name}/{rank}", "")
        return name
    missing, until = set(range(1, world_size)), time.monotonic() + limit_s
    while missing:
        for each in sorted(missing):
            if store.check([f"here/{each}"]):
                store.set(f"welcome/{store.get(f'here/{each}').decode()}", mine)
            if store.check([f"{mine}/{each}"]):
                missing.remove(each)
        if missing and time.monotonic() > until:
            raise not_met(f"process {min(missing)} of {world_size} has not come in {limit_s:g} s")
        time.sleep(PAUSE_S * bool(missing))
    return mine


@dataclass(frozen=True, kw_only=True)
class Session:
    """What these processes share, from their start to their end."""

    store: dist.Store  # the main thread's connection
    name: str  # what all keys begin with

    @property
    def again(self) -> bool:
        """Whether the launcher has started others before them."""
        return self.name.startswith(AGAIN)


@functools.cache
def session() -> Session:
    """What this process shares with the others, when all have come."""
    rank, _, world_size = place()
    failures = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = opened()
        name = met(store, rank, world_size, again=failures != "0")
        return Session(store=store, name=name)
    except RuntimeError as error:  # of the store: others have not come, or its keeper has ended
        raise not_met(str(error).splitlines()[0]) from None


def connect(name: str) -> dist.Store:
    """A connection of its own to what all processes share, under keys that begin with `name`."""
    return dist.PrefixStore(f"{session().name}/{name}", opened())


@functools.cache
def shared() -> dist.Store:
    """What the main thread shares with those of the other processes."""
    return dist.PrefixStore(f"{session().name}/main", session().store)


def from_main(work: Callable[[], Any]) -> Any:
    """What `work` returns on the main process, a JSON value, on all; it runs there alone.

    Its BardletError is raised on all, and said once. Needs no process group.
    """
    rank, _, world_size = place()
    if world_size == 1:
        return work()
    key = f"main/{next(turns)}"
    if rank == 0:
        try:
            answer = {"value": work()}
        except BardletError as error:
            words = [type(error).__name__, error.message, error.hint]
            shared().set(key, json.dumps({"error": words}))
            readers = [f"{key}/{each}" for each in range(1, world_size)]
            with contextlib.suppress(RuntimeError):  # one that is gone reads nothing
                # what is shared may be kept by this process, which now ends
                shared().wait(readers, timedelta(seconds=READ_S))
            raise
        shared().set(key, json.dumps(answer))
        return answer["value"]
    answer = json.loads(shared().get(key))
    if "error" not in answer:
        return answer["value"]
    shared().set(f"{key}/{rank}", "read")
    kind, message, hint = answer["error"]
    error = getattr(errors, kind, TrainingError)(message, hint)
    error.quiet = True
    raise error


def told_to_main(text: str) -> Sequence[str]:
    """The texts of all processes by rank, on the main one; elsewhere nothing."""
    rank, _, world_size = place()
    if world_size == 1:
        return [text]
    key = f"text/{next(turns)}"
    shared().set(f"{key}/{rank}", text)
    others = range(world_size) if rank == 0 else ()
    return [shared().get(f"{key}/{each}").decode() for each in others]
