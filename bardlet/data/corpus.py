"""Finds, fetches and verifies raw text: the first link of the chain from text to model.

A source is a named corpus, a file, a folder or standard input; what comes out is one string and a
record of the bytes that it was made from. Tokenizing and splitting come after, in `prepare`.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bardlet.data import fetch, named, plays
from bardlet.data.text import check_decoding, decode
from bardlet.errors import DataError, UsageError
from bardlet.untrusted import regular

__all__ = ["NAMED", "Corpus", "Source", "load"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input: its path in the folder given, file, corpus or package name, or "-"; its bytes."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text, its dataset's default name, what it was read from, and remarks for the user."""

    name: str
    text: str
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()


NAMED = tuple(name for name, entry in named.TABLE.items() if not entry.source.startswith("hf://"))
TINY = Source(
    name="tinyshakespeare",
    bytes=plays.CANONICAL_CHARACTERS,  # all of them ASCII
    sha256=named.TINY_SHA256,
)
PACKAGE = Source(
    name=plays.PACKAGE.replace("==", "-"), bytes=plays.PACKAGE_BYTES, sha256=plays.PACKAGE_SHA256
)
SUFFIXES = (".txt", ".md")  # what is read in a folder


def load(
    source: str,
    *,
    file: Path | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    say: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """Returns the text of `source`: a corpus in `NAMED`, a file, a folder, or "-" for stdin.

    A corpus name wins over a folder of that name (write "./NAME" for the folder), a file over
    both. `file` is read in place of the named corpus. A folder gives its .txt and .md files, hidden
    ones apart, sorted by path. `encoding` and `errors` are for all but the fetched corpora. Every
    line ends in "\\n", as in Python's text mode. `say` receives progress lines. Raises UsageError
    for options that cannot be right, DataError for text that is missing, unreadable or empty.
    """
    check_decoding(encoding, errors)
    if file is not None and source not in NAMED:
        raise UsageError(
            f"--file stands in for a named corpus, and {source!r} is not one",
            f"Give the file as the source itself, or --file with one of: {', '.join(NAMED)}.",
        )
    fetched: Source | None = None
    if source == "-":
        name, inputs = "stdin", {"-": read_stdin()}
    elif file is not None:
        name, inputs = source, {file.name: read_file(file)}
    elif source in NAMED and not Path(source).is_file():
        fetched, raw = fetched_text(source, say)
        name, inputs = source, {fetched.name: raw}
        encoding, errors = "utf-8", "strict"
    else:
        name, inputs = read_path(source)
    parts: list[str] = []
    for key, raw in inputs.items():
        if parts and parts[-1] and not parts[-1].endswith("\n"):
            parts.append("\n")  # so that no two texts run into one word
        parts.append(decode(raw, key, encoding, errors))
    text = "".join(parts)
    if not text or text.isspace():
        given = name if source == "-" else file or source
        raise DataError(f"{given} is empty", "Give a source with some text in it.")

    sources = [Source(name=key, bytes=len(raw), sha256=digest(raw)) for key, raw in inputs.items()]
    notes: tuple[str, ...] = ()
    if fetched == PACKAGE:
        sources = [PACKAGE]  # what was fetched and verified, not what was made of it
    if fetched == PACKAGE and source != "shakespeare-plays":
        notes = (
            f"taken from the package {plays.PACKAGE.replace('==', ' ')}: close to the canonical "
            f"{TINY.name}, not byte for byte: {counts(text)}; --file PATH takes the canonical file",
        )
    # The text is compared, not the bytes: a copy with Windows line ends is the same text.
    elif file is not None and digest(text.encode("utf-8", "replace")) != TINY.sha256:
        notes = (f"{file.name} is not the canonical {TINY.name}: {counts(text)}",)
    return Corpus(name=name, text=text, sources=tuple(sources), notes=notes)


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def counts(text: str) -> str:
    """Returns the length and the vocabulary of `text` beside those of the canonical file."""
    vocabulary = len(set(text))
    return f"{len(text):,} characters (canonical {TINY.bytes:,}), {vocabulary} different ones (65)"


def read_path(source: str) -> tuple[str, dict[str, bytes]]:
    """Returns the dataset's name and, by name, the bytes of the file or of the folder's files."""
    path = Path(source)
    try:
        if source and path.is_dir():
            texts = files(path, lambda name: name.lower().endswith(SUFFIXES))
            if not texts:
                problem = f"folder {source} has no {' or '.join(SUFFIXES)} files"
                raise DataError(problem, "Give another folder, or a single file of any name.")
            inputs = {file.relative_to(path).as_posix(): read_file(file) for file in texts}
            return path.resolve().name or "corpus", inputs
        if source and path.exists():
            return path.stem, {path.name: read_file(path)}
    except OSError as error:
        raise unreadable(error.filename or source, error) from None
    raise nothing_there(source, NAMED)


def nothing_there(source: str, known: tuple[str, ...]) -> DataError:
    """What to say of a source that names nothing, with the corpora that are known."""
    near = difflib.get_close_matches(source, known, n=1)
    allowed = f"a text file, a folder, - for standard input, or one of: {', '.join(known)}"
    return DataError(
        f"{source!r} is neither a file nor a folder nor a named corpus",
        f"Did you mean {near[0]}?" if near else f"Give {allowed}.",
    )


def files(folder: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Returns the files in and below `folder` whose name is `wanted`, sorted by path."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk by itself passes over an unreadable folder in silence

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in names if not name.startswith(".")]
        found += [Path(parent, name) for name in names if wanted(name)]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def read_file(path: Path) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | str, error: OSError) -> DataError:
    special = error.errno == errno.EINVAL
    hint = "Check the path and its permissions" if not special else "To read a pipe, give - for it"
    return DataError(f"cannot read {path}: {error.strerror or error}", f"{hint}.")


def read_stdin() -> bytes:
    try:
        return sys.stdin.buffer.read()
    except (AttributeError, OSError, ValueError):  # absent, unreadable or closed
        raise DataError("standard input cannot be read", "Give a file or a folder.") from None


def fetched_text(name: str, say: Callable[[str], None]) -> tuple[Source, bytes]:
    """Returns `TINY` and the canonical file, or `PACKAGE` and the text made from that package.

    Caches come before the network: who cannot reach it waits for that only once.
    """
    if name == "shakespeare-plays":
        texts = ((PACKAGE, f"{name}-{PACKAGE.name}.txt", plays.WHOLE_SHA256, plays.whole),)
    else:
        name = TINY.name
        texts = (  # in order of preference
            (TINY, f"{name}.txt", TINY.sha256, plays.download),
            (PACKAGE, f"{name}-{PACKAGE.name}.txt", plays.TEXT_SHA256, plays.from_package),
        )
    for source, file, sha256, _ in texts:
        cached = fetch.cache_folder() / file
        with contextlib.suppress(OSError):  # most likely it is not there yet
            raw = cached.read_bytes()
            if digest(raw) == sha256:
                return source, raw
            say(f"{cached} is damaged (its sha256 is wrong), so it is not used")

    reasons: list[str] = []
    for source, file, sha256, get in texts:
        try:
            raw = get(say)
        except DataError as error:
            reasons.append(error.message)
            continue
        if digest(raw) == sha256:
            fetch.store(raw, fetch.cache_folder() / file, say)
            return source, raw
        reasons.append(f"what came as {file} is {len(raw):,} bytes of something else")
    raise DataError(
        f"{name} cannot be fetched: {'; '.join(reasons)}",
        "Give a copy that you have with --file PATH.",
    )
