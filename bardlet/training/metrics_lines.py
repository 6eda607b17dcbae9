"""The lines of metrics.jsonl that a resumed run keeps."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bardlet.io.safe_read import read_json_lines


def lines_until(path: Path, it: int, evaluated: bool = True) -> list[str]:
    """The lines of a metrics file that belong to the first `it` iterations, whole ones only.

    `evaluated`: the evaluation after them is one.
    """
    kept = []
    with contextlib.suppress(OSError):
        for line, entry in read_json_lines(path):
            with contextlib.suppress(KeyError, TypeError):
                # iteration `it` is yet to come; the evaluation after `it` iterations has been
                last = it if entry["type"] == "eval" and evaluated else it - 1
                if line.endswith("\n") and entry["iter"] <= last:
                    kept.append(line)
    return kept
