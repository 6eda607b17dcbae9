"""Where the processes of torchrun meet before they are a group: a store that all of them reach."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from bardlet import errors
from bardlet.errors import BardletError, TrainingError, UsageError

START_S = 600.0  # that processes wait for each other
READ_S = 30.0  # that the main process waits for others to read why it ends
turns = itertools.count()  # of one process, so that what is told has a key of its own


def place() -> tuple[int, int, int]:
    """This process's number among all, that on its machine, and how many there are."""
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    try:
        rank, local_rank, world_size = (int(os.environ.get(n, d)) for n, d in names.items())
    except ValueError as error:
        raise UsageError(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}") from None
    return rank, local_rank, world_size


def restarted() -> bool:
    """Whether torchrun has started this process again, after one of its processes had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def connect(name: str, limit_s: float = START_S) -> dist.Store:
    """A connection of its own to what all processes share, under keys that begin with `name`.

    Returns when all processes have connected; TrainingError where they do not in time.
    """
    try:
        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=limit_s)))
    except ValueError as error:
        raise UsageError(f"the processes cannot find each other: {error}") from None
    except RuntimeError as error:
        raise TrainingError(
            f"the processes do not find each other: {str(error).splitlines()[0]}",
            "Start as many as --nproc_per_node and --nnodes say; each must reach MASTER_ADDR at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
        ) from None
    return dist.PrefixStore(name, store)


@functools.cache
def shared() -> dist.Store:
    """The connection of the main thread; process 0 may be the one who keeps what is shared."""
    return connect("bardlet")


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
