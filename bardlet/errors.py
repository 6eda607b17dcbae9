"""Errors a user can cause, each with what was given, what is allowed and what to do next.

`cli.py` prints them as one line and exits with `exit_code`; everything else is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OUT_OF_MEMORY = (
    "out of memory", "not enough memory", "can't allocate", "cannot allocate memory"
)  # fmt: skip


class BardletError(Exception):
    """A failure with a clear cause. `hint` is what to do next, or empty."""

    exit_code = 1
    quiet = False  # another process says it

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        stop = "" if self.message.endswith("?") else "."
        return f"{self.message}{stop} {self.hint}" if self.hint else self.message


class UsageError(BardletError):
    """The command line or the configuration cannot be right, whatever is on disk."""

    exit_code = 2


class DataError(BardletError):
    """A corpus, tokenizer or dataset is missing, damaged or does not fit."""


class CheckpointError(BardletError):
    """A run or checkpoint is missing, damaged or does not fit."""


class TrainingError(BardletError):
    """Training cannot go on: a non-finite loss, out of memory, a full disk."""


def did_you_mean(name: str, known: Iterable[str], form: str = "Did you mean {}? ") -> str:
    """The nearest of the known names, in a sentence; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return form.format(near[0]) if near else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, Python's, torch's or the system's, says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in OUT_OF_MEMORY)
