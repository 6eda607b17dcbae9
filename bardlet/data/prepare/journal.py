"""The folder in which a dataset is made: what it is for, how far it has come, who works in it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from bardlet.errors import DataError
from bardlet.io.atomic import write_json, write_text

EVERY_S = 2.0  # between two entries


class StagingFolder:
    """The folder beside `out` that becomes it. `key` is what it is made of.

    Without a key nobody goes on with it later, and it is named after nothing that comes back.
    """

    def __init__(self, out: Path, key: str, pid: int) -> None:
        self.out, self.key = out, key
        self.folder = out.with_name(f".{out.name}.{'partial' if key else pid}.tmp")
        self.lock: Any = None
        self.saved = monotonic()
        self.kept = False  # whether there is anything to go on with

    @contextlib.contextmanager
    def held(self) -> Iterator[dict[str, Any]]:
        """A context that has the folder and ends by letting go of it; what `open` returns.

        What the disk refuses is a DataError.
        """
        try:
            yield self.open()
        except OSError as error:
            raise DataError(
                f"cannot write the dataset to {self.out}: {error.strerror or error}"
            ) from None
        finally:
            self.leave()

    def open(self) -> dict[str, Any]:
        """Take the folder; return what the last one who worked here has noted, if that fits."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            self.lock = None
            raise DataError(
                f"another process is preparing {self.out}", "Wait for it, or name another --out"
            ) from None
        try:
            noted = json.loads((self.folder / "journal.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            noted = {}
        if self.key and isinstance(noted, dict) and noted.get("key") == self.key:
            self.kept = True
            return noted
        for path in self.folder.iterdir():
            if path.name != ".lock":
                path.unlink()
        return {}

    def due(self) -> bool:
        """Whether it is time to note how far the work has come."""
        return bool(self.key) and monotonic() - self.saved >= EVERY_S

    def note(self, state: dict[str, Any]) -> None:
        """Note how far the work has come."""
        write_json(self.folder / "journal.json", {**state, "key": self.key})
        self.saved, self.kept = monotonic(), True

    def publish(self, manifest: dict[str, Any]) -> None:
        """Give the folder its manifest and its name, in place of the dataset that has it."""
        write_text(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        (self.folder / "journal.json").unlink(missing_ok=True)
        for pattern in ("*.mask.raw", "seen-*.bin", ".*.tmp"):  # the last from kills
            for path in self.folder.glob(pattern):
                path.unlink()
        self.release()
        (self.folder / ".lock").unlink(missing_ok=True)
        if self.out.exists():
            shutil.rmtree(self.out)
        self.folder.rename(self.out)

    def release(self) -> None:
        """Let others work here."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def leave(self) -> None:
        """Let go of the folder, and remove it where there is nothing to go on with."""
        held = self.lock is not None
        self.release()
        if held and not self.kept:
            shutil.rmtree(self.folder, ignore_errors=True)
