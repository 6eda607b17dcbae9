"""What a dataset says of itself, and what is different from what was asked for again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

import bardlet
from bardlet.data.dataset.folder import Dataset, Manifest
from bardlet.data.dataset.stream import FORMAT_VERSION
from bardlet.data.prepare.checksum import checksum
from bardlet.data.prepare.options import Options
from bardlet.data.text.corpus import Source
from bardlet.data.text.inputs import Collection, Input
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import chat, factory, forms
from bardlet.errors import DataError


def describe(
    name: str, encoder: tokenizers.Tokenizer, splits: dict[str, Any], **entries: Any
) -> dict[str, Any]:
    """The manifest of a dataset with these splits and `entries`."""
    tokenizer_hash = tokenizers.fingerprint(encoder)
    keys = ("sha256", "mask_sha256")  # the same tokens masked otherwise train something else
    sums = [splits[split][key] for key in keys for split in sorted(splits) if key in splits[split]]
    identity = [tokenizer_hash, *sums]
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "bardlet": bardlet.__version__,
        "hash": hashlib.sha256(" ".join(identity).encode()).hexdigest(),
        "tokenizer": encoder.kind,
        "tokenizer_hash": tokenizer_hash,
        "vocab_size": encoder.vocab_size,
        **entries,
        "splits": splits,
    }


def check_tokens(
    tokens: dict[str, int], name: str, by: str = "document", *, parts: bool = False,
    masked: bool = False,
) -> None:  # fmt: skip
    """Raise DataError where a split of the corpus `name`, made of `parts` or not, has no tokens.

    `by` is the rule by which it was split, `masked` says that its documents are pairs.
    """
    empty = [split for split, count in tokens.items() if not count]
    if len(empty) == len(tokens):
        raise DataError(f"{name} is empty", "Give a source with some text in it.")
    if empty == ["val"] and by == "given":
        raise DataError("what --val names has no text", "Give a source with some text in it.")
    if empty and by != "document":
        raise DataError(f"{name} has no text for {empty[0]}", "Give more text")
    if empty:
        hint = "--split position takes the end of each document for validation"
        if masked:
            hint = "Give more pairs, or another --val_fraction"
        raise DataError(
            f"by its hash no document of {name} falls to {empty[0]}",
            f"Prepare it without --part: {hint}" if parts else hint,
        )


class Sources:
    """The size and sha256 of every input, computed beside the work on them."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.threads, self.stopped = ThreadPoolExecutor(1), Event()
        self.streamed: dict[str, tuple[int, Any]] = {}

    def read(self) -> dict[str, Source | None]:
        """The entry of every file, by its path."""
        sums: dict[str, Source | None] = {}
        for entry in self.collection.inputs:
            if entry.path and entry.kind != "hub":
                sums[entry.path] = self.of_file(entry)
        return sums

    def saw(self, name: str, text: str) -> None:
        """Count a document of a data set on the hub, which is not read twice."""
        size, digest = self.streamed.get(name, (0, hashlib.sha256()))
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(raw)
        self.streamed[name] = (size + len(raw), digest)

    def entries(self) -> list[dict[str, Any]]:
        """The manifest's entries, in the order of the inputs."""
        entries = []
        for entry in self.collection.inputs:
            if entry.kind == "hub":
                size, digest = self.streamed.get(entry.name, (0, hashlib.sha256()))
                entries.append({"name": entry.name, "bytes": size, "sha256": digest.hexdigest()})
            elif entry.kind == "memory":
                known = [asdict(s) for s in self.collection.sources] or [of_memory(entry)]
                entries += known
            elif source := self.digests.result()[entry.path]:
                entries.append(asdict(source))
        return entries

    def of_file(self, entry: Input) -> Source | None:
        """The entry of a file, None where it cannot be read, which its reader reports."""
        try:
            digest = checksum(Path(entry.path), self.stopped)
        except OSError:
            return None
        return Source(name=entry.name, bytes=entry.bytes, sha256=digest)

    def __enter__(self) -> Sources:
        try:
            self.digests = self.threads.submit(self.read)
        except BaseException:  # Ctrl-C as the thread begins, which would read on to the end
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End the checksums."""
        self.stopped.set()
        self.threads.shutdown(wait=False)


def of_memory(entry: Input) -> dict[str, Any]:
    """The entry of a text in memory."""
    raw = entry.text.encode("utf-8", "surrogatepass")
    return {"name": entry.name, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def unchanged(
    out: Path, collection: Collection, options: dict[str, Any], say: Callable[[str], None]
) -> Dataset | str:
    """The dataset at `out`, if it is what is asked for, which `say` hears; else what is to be said
    of it: why it is not, or nothing.
    """
    if not (out / "manifest.json").is_file():
        return ""
    try:
        there = Dataset(out)
        there.verify()
    except DataError as error:
        return f"{out} is prepared again: {error.message}"
    if any(entry.kind == "hub" for entry in collection.inputs):
        return ""
    if there.about is None:
        return f"{out} is prepared again: nanoGPT made it"
    differ = changes(there.about, collection, options)
    if not differ and other_vocabulary(there, options["tokenizer"]):
        differ = [f"{options['tokenizer']} is another vocabulary"]
    if differ:
        return f"{out} is prepared again: {'; '.join(differ)}"
    say(f"{out} is up to date: the same sources and options")
    return there


def other_vocabulary(there: Dataset, name: str) -> bool:
    """Whether a file or folder that names a tokenizer holds another than the dataset's."""
    if name in factory.OURS or not Path(name).exists():
        return False
    file = forms.find(Path(name)) if Path(name).is_dir() else Path(name)
    with contextlib.suppress(OSError):  # the usual case, without opening it
        if file.read_bytes() == (there.folder / "tokenizer.json").read_bytes():
            return False
    named = factory.existing(name)
    if there.chat_template:
        named = factory.with_roles(named, chat.role_tokens(there.chat_template))
    return tokenizers.fingerprint(named) != tokenizers.fingerprint(there.tokenizer)


def changes(manifest: Manifest, collection: Collection, options: dict[str, Any]) -> list[str]:
    """What is not as in the manifest, a phrase for each."""
    before = manifest.options
    if before is None:
        return ["another bardlet made it"]
    before = {**Options().noted(), **before}  # an option that came later was at its default
    lines = [
        f"{key} is {shown_value(options.get(key))}, not {shown_value(before.get(key))}"
        for key in options
        if (options.get(key) or None) != (before.get(key) or None)  # later options are off before
    ]
    old = {source.name: source for source in manifest.sources}
    sizes = {entry.name: entry.bytes for entry in collection.inputs if entry.kind != "memory"}
    known = {source.name: source.bytes for source in collection.sources}
    new = {**sizes, **known}
    lines += few("new", [name for name in new if name not in old])
    lines += few("gone", [name for name in old if name not in new])
    both = [name for name in new if name in old]
    other = [name for name in both if new[name] != old[name].bytes]
    if lines or other:
        return lines + few("changed", other)
    with Sources(collection) as sources:
        now = {entry["name"]: entry["sha256"] for entry in sources.entries()}
    return few("changed", [name for name in both if now.get(name) != old[name].sha256])


def shown_value(value: Any) -> str:
    """An option's value in a sentence."""
    return "none" if value in ("", None) else str(value)


def few(what: str, names: list[str]) -> list[str]:
    """A phrase that names the first three of `names`."""
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what}: {', '.join(names[:3])}{more}"]
