"""Packages that only some commands need, imported when they are needed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from bardlet.errors import BardletError, UsageError


def has(name: str) -> bool:
    """Whether a package is installed."""
    return sys.modules.get(name) is not None or importlib.util.find_spec(name) is not None


def need(name: str, extra: str, purpose: str, error: type[BardletError] = UsageError) -> Any:
    """The imported package; where it is missing, an `error` that says how to install it."""
    if not has(name):
        raise error(
            f"{purpose} needs the package {name}", f"Install it: pip install 'bardlet[{extra}]'"
        )
    return importlib.import_module(name)


def reason(error: Exception) -> str:
    """The first line of another package's error, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
