"""A function over many items in several processes, its results in the items' order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from bardlet.errors import DataError

Item = TypeVar("Item")
Shared = TypeVar("Shared")
Found = TypeVar("Found")

_shared: list[Any] = []  # in a worker: the function and its second argument


def ordered_map(
    function: Callable[[Item, Shared], Found], items: Iterable[Item], shared: Shared, workers: int
) -> Iterator[tuple[Item, Found]]:
    """Yields each item with function(item, shared), in order; with one worker in this process.

    At most three items a worker are under way, so that memory does not grow with their number.
    """
    if workers <= 1:
        for item in items:
            yield item, function(item, shared)
        return
    # spawned, not forked: the threads of numpy and of tokenizers do not survive a fork
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=begin, initargs=(shared,)
    )
    waiting: deque[tuple[Item, Future[Found]]] = deque()
    try:
        for item in items:
            with starting():
                future = pool.submit(call, function, item)
            waiting.append((item, future))
            if len(waiting) >= 3 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool:
        raise DataError(
            "a process that tokenizes was ended from outside, most likely for want of memory",
            "Go on with fewer: the same command and --workers 1",
        ) from None
    finally:
        stop(pool)


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


def begin(shared: Any) -> None:
    """Make a process ready: it ends with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared[:] = [shared]
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()


def end_with(sentinel: int) -> None:
    """End this process, whatever it does, when the one behind `sentinel` has ended."""
    wait([sentinel])
    os._exit(1)


def call(function: Callable[[Any, Any], Any], item: Any) -> Any:
    """What the processes run."""
    return function(item, _shared[0])


def stop(pool: ProcessPoolExecutor) -> None:
    """End the processes without waiting for what they have begun.

    The pool's thread may be reading a result of which a process has sent a part: it hears that no
    more comes when this process, too, has closed the end that results are sent through.
    """
    processes = list((pool._processes or {}).values())
    within: Any = pool  # of which shutdown() takes its own hold
    results, manager = within._result_queue, within._executor_manager_thread
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    for process in processes:
        with contextlib.suppress(OSError, ValueError, AssertionError):
            process.join(5)
    with contextlib.suppress(OSError):
        results._writer.close()
    if manager is not None:
        manager.join(5)  # or Python's exit, which joins it as well, wakes it while it closes


def default_count(size: int, quick: bool) -> int:
    """How many processes are worth starting for `size` bytes: characters need few."""
    worth = 1 << 30 if quick else 1 << 24
    return 1 if size < worth else min(os.cpu_count() or 1, 61)  # Windows waits for 61 at most
