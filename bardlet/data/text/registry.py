"""The corpora that have a name: what each is, where it comes from, and what may be done with it."""

from __future__ import annotations

from dataclasses import dataclass

from bardlet.data.text import plays
from bardlet.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Named:
    """A corpus: its address or data set, its licence, the sha256 of its file.

    What is streamed from the hub has no checksum before it is read; the manifest has it after.
    """

    about: str
    source: str
    licence: str
    sha256: str = ""
    sample: int = 0  # bytes that are taken if --sample does not say


TINY_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TABLE: dict[str, Named] = {
    "tinyshakespeare": Named(
        about="nine plays, 1.1 MB", source=plays.URL, licence="public domain", sha256=TINY_SHA256
    ),
    "shakespeare_char": Named(
        about="nanoGPT's name for tinyshakespeare", source=plays.URL, licence="public domain",
        sha256=TINY_SHA256,
    ),
    "shakespeare-plays": Named(
        about="every play, 5 MB", source=f"the Python package {plays.PACKAGE}",
        licence="public domain", sha256=plays.PACKAGE_SHA256,
    ),
    "openwebtext": Named(
        about="pages that Reddit linked to, 40 GB", source="hf://Skylion007/openwebtext",
        licence="CC0-1.0 of the collection", sample=10**8,
    ),
    "fineweb-edu": Named(
        about="educational pages of the web", licence="ODC-By-1.0",
        source="hf://HuggingFaceFW/fineweb-edu:sample-10BT", sample=10**8,
    ),
}  # fmt: skip


def hub(source: str, sample: int) -> tuple[str, int] | None:
    """The address on the hub, hf://..., and how many bytes to take; None for what is not there."""
    entry = TABLE.get(source)
    if source.startswith("hf://"):
        if len(source) == len("hf://") or source.count(":") > 3:
            raise UsageError(
                f"{source} is not a data set", "It is hf://OWNER/NAME, hf://OWNER/NAME:CONFIG:SPLIT"
            )
        return source, sample
    if entry and entry.source.startswith("hf://"):
        return entry.source, sample or entry.sample
    return None
