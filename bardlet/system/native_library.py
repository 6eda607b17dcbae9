"""Libraries that installing compiles from C++ (hatch_build.py): opened, if they are of the sources.

What they compute can be had without them: each has a second path, which its tests hold it to.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import warnings
from pathlib import Path


def switched_off() -> bool:
    """Whether to go without: BARDLET_CORE=0 in the environment, to compare or to find a fault."""
    return os.environ.get("BARDLET_CORE") == "0"


def load(path: Path) -> ctypes.CDLL:
    """Open a library. OSError where it cannot be loaded or comes from other sources than these."""
    library = ctypes.CDLL(str(path))
    library.bardlet_source.restype = ctypes.c_char_p
    if library.bardlet_source().decode() != source_hash(path.parent):
        raise OSError(f"{path.name} is of another version; install bardlet again to compile it")
    return library


def load_optional(path: Path, task: str) -> ctypes.CDLL | None:
    """A library as `load` opens it, or None: without a word where it was not compiled or is
    switched off, with a warning that says for what `task` it is missed where it cannot be loaded.
    """
    if switched_off() or not path.exists():
        return None
    try:
        return load(path)
    except OSError as error:  # compiled elsewhere, or from an earlier version
        warnings.warn(f"{task} without the compiled core: {error}", stacklevel=3)
        return None


def source_hash(folder: Path) -> str:
    """What hatch_build.py compiles into the libraries of the sources in a folder."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.h"), *folder.glob("*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
