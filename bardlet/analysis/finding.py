"""An illness of a run, as the doctor tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An illness, since when, how it shows, and what to change."""

    illness: str
    iter: int | None  # None: the whole run
    evidence: str
    suggestion: str  # names the option
