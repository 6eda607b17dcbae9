"""metrics.jsonl as columns of numbers, read on as a run writes it.

A line that is damaged, or of a kind that is not known, is counted and left out; half a line at the
end is waited for. Files of 600,000 iterations are read in seconds, and once.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.io.safe_read import RECORD, parse_record, regular

COLUMNS = (
    "iter", "loss", "lr", "grad_norm", "time_ms", "data_ms", "mfu", "tokens_per_s", "tokens"
)  # fmt: skip
CHUNK = 1 << 24  # bytes read at once
MOST_EVENTS = 50_000  # kept of a kind of line that there is one of now and then
LARGEST = 2.0**53  # iterations that a float64 tells apart


class Metrics:
    """The lines of one metrics.jsonl by their type, as far as it has been written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        self.identity: tuple[int, int] | None = None  # of the file that has been read
        self.offset = 0
        self.columns = {name: array("d") for name in COLUMNS}
        self.evals: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.starts: list[dict[str, Any]] = []
        self.damaged = self.unknown = 0  # lines left out
        self.half = False  # the last line has no end
        self.seconds: np.ndarray | None = None

    def update(self) -> bool:
        """Read what has been written since; return whether there was anything.

        A file that was replaced, as by a resumed run, is read anew. OSError where it cannot be
        read.
        """
        status = regular(self.path, self.path.parent).stat()
        identity = (status.st_dev, status.st_ino)
        if self.identity not in (None, identity) or status.st_size < self.offset:
            self.clear()
        self.identity = identity
        if status.st_size == self.offset:
            self.half = False
            return False
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while chunk := file.read(CHUNK):
                end = chunk.rfind(b"\n") + 1
                self.half = end < len(chunk)
                if not end:
                    if len(chunk) < CHUNK:
                        break  # half a line, which the writer is at
                    end = len(chunk)  # no line of ours is as long
                for line in chunk[:end].decode("utf-8", "replace").split("\n")[:-1]:
                    self.take(line)
                self.offset += end
                file.seek(self.offset)
        self.seconds = None
        return True

    def take(self, line: str) -> None:
        """Take in one line."""
        if not line.strip():
            return
        try:
            entry = parse_record(line)
            it, kind = entry["iter"], entry["type"]
            if not isinstance(it, int) or not 0 <= it < LARGEST:
                raise ValueError(it)
        except (ValueError, KeyError):
            self.damaged += 1
            return
        if kind == "iter":
            self.append(it, entry)
        elif kind in ("eval", "event", "start"):
            kept = {"eval": self.evals, "event": self.events, "start": self.starts}[kind]
            if kind == "eval":  # an evaluation that was done again
                while kept and kept[-1]["iter"] >= it:
                    kept.pop()
            if len(kept) < MOST_EVENTS:
                kept.append({k: plain(v) for k, v in entry.items() if k != "type"})
            else:
                self.unknown += 1
        else:
            self.unknown += 1

    def append(self, it: int, entry: dict[str, Any]) -> None:
        """Take in an iteration; one that was done again replaces those from it on."""
        iters = self.columns["iter"]
        if iters and iters[-1] >= it:
            at = bisect_left(iters, it)
            for column in self.columns.values():
                del column[at:]
        for name, column in self.columns.items():
            column.append(number(entry.get(name)))

    def column(self, name: str) -> np.ndarray:
        """A value of each line, NaN where it is not known: (N,) float64; "seconds" as well."""
        if name == "seconds":
            return self.elapsed()
        return np.array(self.columns[name], dtype=np.float64)

    def elapsed(self) -> np.ndarray:
        """The seconds of training up to the end of each line's iteration: (N,) float64.

        A line has the mean time of the iterations since the line before it; evaluation and saving
        are left out.
        """
        if self.seconds is None:
            iters = self.column("iter")
            steps = np.diff(iters, prepend=iters[:1] - 1)
            self.seconds = np.cumsum(np.nan_to_num(self.column("time_ms")) * steps) / 1000
        return self.seconds

    @property
    def start(self) -> dict[str, Any]:
        """Of the newest session; empty in files that have no such line."""
        return self.starts[-1] if self.starts else {}

    def __len__(self) -> int:
        return len(self.columns["iter"])


def number(value: object) -> float:
    """A value of a line as a float; NaN where it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        result = float(value)
    except OverflowError:
        return math.nan
    return result if math.isfinite(result) else math.nan


def plain(value: object) -> Any:
    """A value as JSON may have it: finite numbers, short texts, and nothing within one another."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value[:RECORD]
    result = number(value)
    if math.isnan(result):
        return None
    return int(result) if isinstance(value, int) and abs(result) < LARGEST else result
