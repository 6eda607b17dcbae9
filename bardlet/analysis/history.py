"""What a run left in its metrics.jsonl, read back: lines by their type, and parts to compare."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bardlet.errors import CheckpointError
from bardlet.io.safe_read import read_json_lines

CHUNKS = 20  # parts of a run whose means or medians are compared: less is a batch's chance


@dataclass(frozen=True, kw_only=True)
class History:
    """The lines of metrics.jsonl by their type, each in order."""

    iters: Sequence[dict[str, Any]]
    evals: Sequence[dict[str, Any]]
    events: Sequence[dict[str, Any]]
    start: dict[str, Any]  # of the newest session; empty in files that have no such line

    @property
    def done(self) -> int:
        """How many iterations the run had."""
        return self.iters[-1]["iter"] + 1

    def chunks(self, key: str, skip: int = 0) -> list[tuple[int, list[float]]]:
        """Up to CHUNKS parts of the run: the iteration each begins with, and the values that are
        known in it. The first `skip` lines are left out.
        """
        lines = [line for line in self.iters[skip:] if line.get(key) is not None]
        size = max(1, math.ceil(len(lines) / CHUNKS))
        parts = [lines[i : i + size] for i in range(0, len(lines), size)]
        return [(part[0]["iter"], [line[key] for line in part]) for part in parts]

    def fall(self) -> tuple[float, float]:
        """The loss of the first line, and the mean of the last tenth of the lines."""
        losses = [line["loss"] for line in self.iters if line.get("loss") is not None]
        return losses[0], fmean(losses[-max(1, len(losses) // 10) :])

    def named(self, *events: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line.get("event") in events]


def read(path: Path) -> History:
    """The history of a run's folder or of a metrics.jsonl; a line cut short by a kill is left out.

    CheckpointError where there is none.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    lines: dict[str, list[dict[str, Any]]] = {"iter": [], "eval": [], "event": [], "start": []}
    try:
        for _, entry in read_json_lines(file):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                lines[entry["type"]].append({**entry, "iter": int(entry["iter"])})
    except OSError as error:
        hint = "Give the folder that train wrote, such as out/demo"
        raise CheckpointError(f"cannot read {file}: {error.strerror}", hint) from None
    return History(
        iters=lines["iter"], evals=lines["eval"], events=lines["event"],
        start=lines["start"][-1] if lines["start"] else {},
    )  # fmt: skip
