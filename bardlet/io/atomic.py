"""Files that are whole or not there: a temporary name, the bytes on disk, and then the name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def temporary(path: Path, pid: int = 0) -> Path:
    """The name beside `path` under which this process, or process `pid`, builds it."""
    if not path.name:  # as of ".", which is what Python's Path makes of an empty text
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f".{path.name}.{pid or os.getpid()}.tmp")


def write_text(path: Path, text: str) -> None:
    """Write a text file, wait until it is on disk, and give it its name in one step."""
    building = temporary(path)
    try:
        building.write_text(text, encoding="utf-8", errors="surrogatepass", newline="\n")
        flush(building)
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file in one step."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is on disk and has its name at the end, or is gone after an error."""
    building = temporary(path)
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        yield building
        for file in sorted(building.rglob("*")):
            flush(file)
        building.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path, name: str) -> Iterator[Path]:
    """A folder in which to write the file `name`, which is on disk as `path` at the end; the folder
    is gone then, and after an error so is the file."""
    building = temporary(path)
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        yield building
        flush(building / name)
        (building / name).replace(path)
        flush(path.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files where the system has that, is on disk."""
    windows = sys.platform == "win32"
    if path.is_dir() and windows:
        return
    # Windows flushes only what was opened for writing
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder so that a kill half way leaves nothing under its name."""
    doomed = temporary(folder)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
