"""How far a long piece of work has come, in bytes and with the time that is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bardlet.io.terminal import live_bar


@contextlib.contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tell how many bytes are done with what this gives; a bar shows it on a terminal only."""
    progress = live_bar("{task.description}", "bar", "bytes", "speed", "time left")
    if progress is None:
        yield lambda done: None
        return
    with progress:
        task = progress.add_task(label, total=total or None)
        yield lambda done: progress.advance(task, done)
