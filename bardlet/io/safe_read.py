"""Reads what others may have made: regular files inside their folder, of bounded size and depth.

Every JSON, TOML and pointer file comes through here. What is refused raises OSError or ValueError,
which each reader turns into its own error. docs/formats.md states the rules for users.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 1 << 26  # bytes of a file that is read whole: twice the largest vocabularies in use
MAX_DEPTH = 64  # lists and objects in one another
RECORD = 1 << 14  # characters of a line that is a record of plain values
MAX_DIGITS = 400  # of a number: what a float64 can take, and more


def regular(path: Path, inside: Path | None = None) -> Path:
    """The path itself, of a regular file, which lies in the folder `inside` wherever links lead.

    OSError for folders, pipes and devices, which may never end, and for links that lead out.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        refuse(errno.EINVAL, "not a regular file", path)
    if inside is not None:
        within(path, inside)
    return path


def within(path: Path, folder: Path) -> None:
    """Raise OSError where a link leads `path` out of the folder, which may be a link itself."""
    # the usual case is told without a question to the disk for each part of the path
    if path.parent == folder and not path.is_symlink():
        return
    if not path.resolve().is_relative_to(folder.resolve()):
        refuse(errno.EPERM, f"leads out of {folder}", path)


def refuse(code: int, why: str, path: Path) -> NoReturn:
    raise OSError(code, why, str(path))


def read_text(path: Path, *, inside: Path | None = None, max_bytes: int = MAX_BYTES) -> str:
    """The text of a regular file, UTF-8 and at most `max_bytes` bytes."""
    with regular(path, inside).open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # read() takes memory for as much as it is asked for
        raw = file.read(min(size, max_bytes) + 1)
    if len(raw) > max_bytes:
        refuse(errno.EFBIG, f"more than {max_bytes:,} bytes", path)
    return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def child(folder: Path, name: str) -> Path:
    """The file `name` of a folder; ValueError where the name is a path, and may lead elsewhere."""
    if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
        raise ValueError(f"{name!r} is not the name of a file")
    return folder / name


def read_json(path: Path) -> Any:
    """The value of a JSON file, which no link leads out of its folder."""
    return parse_json(read_text(path, inside=path.parent))


def parse_json(text: str) -> Any:
    """The value of a JSON text. ValueError for what is not JSON, and for what readers disagree on
    or choke on: duplicate keys, numbers beyond float64, and nesting without end.

    NaN and Infinity are understood, since Python writes them.
    """
    try:
        document = json.loads(
            text, object_pairs_hook=unique, parse_int=bounded_int, parse_float=finite_float
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [document]
    for _ in range(MAX_DEPTH):
        parts = [part for part in level if isinstance(part, dict | list)]
        if not parts:
            return document
        level = [v for p in parts for v in (p.values() if isinstance(p, dict) else p)]
    raise ValueError("nested too deeply")


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a file that has one a line, each with its line, in order.

    Lines without a whole object are left out: a kill cuts the last one short. OSError where the
    file cannot be read.
    """
    with regular(path, path.parent).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                entry = parse_json(line)
                if isinstance(entry, dict):
                    yield line, entry


def parse_record(line: str) -> dict[str, Any]:
    """The object of a line of plain numbers and texts, ten times as fast as `parse_json`.

    For files with a line for each of hundreds of thousands of iterations. ValueError for a line of
    more than RECORD characters, or one that is not an object. Values may be of any size and kind.
    """
    if len(line) > RECORD:
        raise ValueError(f"a line of {len(line):,} characters")
    try:
        document = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    return document


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{twice[:100]!r} is there twice")
    return values


def bounded_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:100]} is beyond all numbers")
    return number
