"""The folder in which a dataset is made: its lock, how far the work is, and how it is published.

.NAME.lock         held from the first byte until the dataset has its name
.NAME.partial.tmp  the staging folder; with a manifest and no journal it is complete
.NAME.replaced.tmp the dataset that was at NAME, until the new one is there
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from bardlet.data.dataset.streamed import staging_lock
from bardlet.errors import DataError
from bardlet.io.atomic import flush, write_json, write_text

EVERY_S = 2.0  # between two entries
LEFTOVERS = ("*.mask.raw", "seen-*.bin", ".*")  # files that are not part of a dataset

Replacing = Callable[[str], None]  # is given the hash of the new tokens, raises to keep the old


def replaced_freely(new_hash: str) -> None:
    """Nothing depends on the dataset that is replaced."""


class StagingFolder:
    """The folder beside `out` that becomes it. `key` says what it is made of; without one, an
    interrupted preparation cannot be continued. A lock that others look at for a moment is free
    again within `patience_s`.
    """

    def __init__(
        self, out: Path, key: str, replacing: Replacing = replaced_freely, *,
        patience_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.out, self.key, self.replacing = out, key, replacing
        self.patience_s = patience_s
        self.folder = out.with_name(f".{out.name}.partial.tmp")
        self.lock = staging_lock(out)
        self.replaced = out.with_name(f".{out.name}.replaced.tmp")
        self.saved = monotonic()
        self.kept = False  # whether there is something to continue from

    @contextlib.contextmanager
    def held(self) -> Iterator[dict[str, Any]]:
        """A context that holds the lock; it gives what `open` returns.

        OSError within it becomes DataError.
        """
        with self.writing(), self.locked():
            try:
                yield self.open()
            finally:
                self.restore()
                if not self.kept:
                    discard(self.folder)

    def recover(self) -> None:
        """Finish or undo what an interrupted `publish` has left; DataError while one is running."""
        if self.complete() or self.replaced.exists() or self.lock.exists():
            with self.writing(), self.locked():
                self.settle()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write the dataset to {self.out}: {error.strerror or error}"
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other process prepares `out`."""
        from filelock import FileLock, Timeout

        try:
            self.lock.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        lock = FileLock(self.lock, timeout=self.patience_s)
        try:
            lock.acquire()
        except Timeout:
            raise DataError(
                f"another process is preparing {self.out}", "Wait for it, or name another --out"
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                self.lock.unlink()
            lock.release()

    def open(self) -> dict[str, Any]:
        """Return the journal of an interrupted preparation with the same key, else {}."""
        self.settle()
        self.folder.mkdir(exist_ok=True)
        (self.folder / "manifest.json").unlink(missing_ok=True)  # first: see `complete`
        try:
            journal = json.loads((self.folder / "journal.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            journal = {}
        if self.key and isinstance(journal, dict) and journal.get("key") == self.key:
            self.kept = True
            return journal
        for path in self.folder.iterdir():
            path.unlink()
        return {}

    def due(self) -> bool:
        """Whether it is time for an entry in the journal."""
        return bool(self.key) and monotonic() - self.saved >= EVERY_S

    def note(self, state: dict[str, Any]) -> None:
        """Write an entry: how far the work is."""
        write_json(self.folder / "journal.json", {**state, "key": self.key})
        self.saved, self.kept = monotonic(), True

    def publish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, and replace the dataset at `out` by the one made here.

        `replacing` may refuse. A kill at any step leaves either dataset whole, here or at `out`;
        `recover` does the rest.
        """
        self.replacing(manifest["hash"])
        write_text(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        flush(self.folder)
        (self.folder / "journal.json").unlink(missing_ok=True)
        self.settle()

    def complete(self) -> bool:
        """Whether all of a dataset is in the staging folder."""
        there = (self.folder / "manifest.json").exists()
        return there and not (self.folder / "journal.json").exists()

    def settle(self) -> None:
        """Give a complete dataset its name, restore the one before where there is none."""
        if self.complete():
            for pattern in LEFTOVERS:
                for path in self.folder.glob(pattern):
                    path.unlink()
            flush(self.folder)
            if self.out.exists():
                discard(self.replaced)
                self.out.rename(self.replaced)
            self.folder.rename(self.out)
            flush(self.out.parent)
        self.restore()
        discard(self.replaced)

    def restore(self) -> None:
        """Give the replaced dataset its name back where no other has it."""
        if (self.replaced / "manifest.json").exists() and not self.out.exists():
            self.replaced.rename(self.out)
            flush(self.out.parent)


def discard(folder: Path) -> None:
    """Remove a folder, its manifest first, so that what a kill leaves of it is not complete."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
