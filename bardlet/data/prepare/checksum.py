"""Checksums of files of any size, in threads that can be stopped."""

from __future__ import annotations

import hashlib
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from bardlet.data.dataset.stream import HEADER

BLOCK = 1 << 20  # bytes between two looks at `stopped`


def checksum(path: Path, stopped: Event, body: Any = None) -> str:
    """The sha256 of a file, in hexadecimal; CancelledError soon after `stopped` is set.

    `body` is a hash that is updated with what follows the header of a shard, by another thread at
    the same time.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file, ThreadPoolExecutor(1) as beside:
        digest.update(file.read(HEADER.size))
        while block := file.read(BLOCK):
            if stopped.is_set():
                raise CancelledError
            updated = beside.submit(body.update, block) if body is not None else None
            digest.update(block)
            if updated:
                updated.result()
    return digest.hexdigest()
