"""A function over many items in several processes, its results in the items' order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, TypeVar

from bardlet.errors import DataError

Item = TypeVar("Item")
Shared = TypeVar("Shared")
Result = TypeVar("Result")


class Worker:
    """A process that applies `function` to items, one after the other."""

    def __init__(self, function: Callable[[Any, Any], Any], shared: Any) -> None:
        # spawned, not forked: the threads of numpy and of tokenizers do not survive a fork
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.numbers: deque[int] = deque()  # of the items that it has and has not answered
        self.process = context.Process(target=serve, args=(function, shared, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the connection


def ordered_map(
    function: Callable[[Item, Shared], Result], items: Iterable[Item], shared: Shared, workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yields each item with function(item, shared), in order; with one worker in this process.

    At most three items a worker are under way, so that memory does not grow with their number.
    DataError where a worker is ended from outside.
    """
    if workers <= 1:
        for item in items:
            yield item, function(item, shared)
        return
    pool: list[Worker] = []
    numbered = enumerate(items)
    waiting: deque[tuple[int, Item]] = deque()
    results: dict[int, tuple[bool, Any]] = {}
    try:
        with starting():
            for _ in range(workers):
                pool.append(Worker(function, shared))
        while True:
            idlest = min(pool, key=lambda worker: len(worker.numbers))
            room = len(idlest.numbers) < 2 and len(waiting) < 3 * workers
            if room and (following := next(numbered, None)):
                waiting.append(following)
                idlest.numbers.append(following[0])
                idlest.connection.send(following[1])
                continue
            if not waiting:
                return
            while waiting[0][0] not in results:
                receive(pool, results)
            number, item = waiting.popleft()
            done, result = results.pop(number)
            if not done:
                raise result
            yield item, result
    except (EOFError, ConnectionError):
        raise DataError(
            "a process that tokenizes was ended from outside, most likely because it was out of "
            "memory",
            "Go on with fewer: the same command and --workers 1",
        ) from None
    finally:
        stop(pool)


def receive(pool: list[Worker], results: dict[int, tuple[bool, Any]]) -> None:
    """Wait for results and add them by the numbers of their items; EOFError where a worker died."""
    ready = wait([worker.connection for worker in pool])
    for worker in pool:
        if worker.connection in ready:
            results[worker.numbers.popleft() if worker.numbers else -1] = worker.connection.recv()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Hold Ctrl-C back; processes that are started meanwhile never hear of it.

    They inherit that it is blocked, and so cannot be interrupted while they import. It may still
    come to another thread of this process, and would leave one of them half started: it is noted,
    and raised at the end.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # starting it lets Ctrl-C through again
    noted: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)


def serve(function: Callable[[Any, Any], Any], shared: Any, connection: Connection) -> None:
    """What a worker runs: it ends with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
    items: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=take, args=(connection, items), daemon=True).start()
    while True:
        try:
            answer = True, function(items.get(), shared)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = False, error
        connection.send(answer)


def take(connection: Connection, items: SimpleQueue[Any]) -> None:
    """Take items in while others are worked on, so that the parent never waits to send one."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            items.put(connection.recv())


def end_with(sentinel: int) -> None:
    """End this process, whatever it does, when the one behind `sentinel` has ended."""
    wait([sentinel])
    os._exit(1)


def stop(pool: list[Worker]) -> None:
    """End the processes without waiting for what they have begun."""
    for worker in pool:
        worker.process.terminate()
    for worker in pool:
        worker.process.join(5)
        worker.connection.close()


def default_count(size: int, quick: bool) -> int:
    """How many processes are worth starting for `size` bytes: characters need few."""
    worth = 1 << 30 if quick else 1 << 24
    return 1 if size < worth else min(os.cpu_count() or 1, 61)  # Windows waits for 61 at most
