"""Who may write in a run's folder: the one process that holds its lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bardlet.errors import CheckpointError
from bardlet.io.atomic import remove


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run's folder: a second process is refused while this one lives, and no longer."""
    from filelock import FileLock, Timeout

    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"another process is training in {run}",
            "Wait for it, stop it, or name another --out_dir",
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot write to {run}: {error.strerror}") from None
    try:
        remove_partial(run)
        yield
    finally:
        if [path.name for path in run.iterdir()] == [".lock"]:  # nothing came of the run
            with contextlib.suppress(PermissionError):  # Windows removes no open file
                (run / ".lock").unlink()
                run.rmdir()
        lock.release()


def remove_partial(run: Path) -> None:
    """Remove what a kill left half written. Only the lock's owner may."""
    for left in (*run.glob(".*.tmp"), *(run / "checkpoints").glob(".*.tmp")):
        remove(left) if left.is_dir() else left.unlink(missing_ok=True)
