"""Errors a user can cause, each with what was given, what is allowed and what to do next.

`cli.py` prints them as one line and exits with `exit_code`; everything else is a bug.
"""

from __future__ import annotations


class BardletError(Exception):
    """A failure with a clear cause. `hint` is what to do next, or empty."""

    exit_code = 1

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
