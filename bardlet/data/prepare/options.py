"""How a dataset is made: the options and sources as given, what may not be, what follows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bardlet.data.prepare.remarks import without_effect
from bardlet.data.prepare.splits import automatic
from bardlet.data.text import first_record, separators
from bardlet.data.text.counts import Counts
from bardlet.data.text.decoding import check_decoding
from bardlet.data.text.formats import FORMATS, endings
from bardlet.data.text.inputs import Collection
from bardlet.data.text.records import Reading
from bardlet.data.text.sources import Asked, find
from bardlet.errors import DataError, UsageError
from bardlet.io.safe_read import MAX_BYTES

OURS = re.compile(  # what may be replaced
    r"(manifest|tokenizer|used|survey)\.json|(train|val)-\d+(\.docs|\.mask)?\.bin"
    r"|\.(stream|training)\.lock|\.stream\.partial\.tmp"
)
RULES = ("auto", "position", "document", "blocks")
FORMS = ("", "nfc", "nfd", "nfkc", "nfkd")  # of Unicode
CUTTING = ("position", "blocks")  # rules by which a document may be in both splits
ENTRY = 130  # bytes that the manifest has of an input, besides its name
JOURNAL = 2  # the format of what an interrupted preparation leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a dataset is made; all of it but `workers` is in its manifest."""

    tokenizer: str = "char"
    vocab_size: int = 0
    split: str = "auto"  # see `RULES`; auto: by position where there are few documents
    val_fraction: float = 0.1
    chat_template: str = ""  # of conversations, a name or a file; empty: the tokenizer's, or ChatML
    val: tuple[str, ...] = ()  # sources of the validation text, where it is given
    end_of_text: str = ""  # the token between documents; empty: the vocabulary's own
    shard_tokens: int = 100_000_000
    distinct: bool = False  # drop documents that are there already
    skip_unreadable: bool = False
    part: tuple[int, int] = (1, 1)  # which of how many parts of the units
    stream: bool = False  # shards of training text come when others have been used
    workers: int = 0  # processes; 0: as many as it is worth
    reading: Reading = dataclasses.field(default_factory=Reading)

    def check(self) -> None:
        """Raise UsageError for what cannot be right."""
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"val_fraction={self.val_fraction} must lie between 0 and 1")
        if self.shard_tokens < 1:
            raise UsageError(f"shard_tokens={self.shard_tokens} must be at least 1")
        if self.workers < 0:
            raise UsageError(f"workers={self.workers} must be at least 0")
        if self.split not in RULES:
            raise UsageError(f"split={self.split} must be {', '.join(RULES[:-1])} or {RULES[-1]}")
        if bool(self.reading.prompt_key) != bool(self.reading.response_key):
            raise UsageError("--prompt_key and --response_key go together")
        if self.reading.messages_key and self.reading.prompt_key:
            raise UsageError("--messages_key and --prompt_key are of two kinds: give one of them")
        if self.chat_template and not self.reading.messages_key:
            raise UsageError(
                f"chat_template={self.chat_template} is for conversations, and there are none",
                "Name the list of turns with --messages_key",
            )
        if self.reading.masked and self.split in CUTTING:
            raise UsageError(
                f"split={self.split} would cut responses", "Leave --split out: whole documents"
            )
        i, n = self.part
        if not 1 <= i <= n:
            raise UsageError(f"part={i}/{n} must be from 1/N to N/N")
        if n > 1 and (self.tokenizer in ("char", "bpe") or self.split in CUTTING):
            raise UsageError(
                "--part needs a tokenizer that all parts share, and a split by document",
                "Make one first with `bardlet tokenizer train`, and give it with --tokenizer",
            )

    def noted(self) -> dict[str, Any]:
        """What the manifest has of it."""
        fields = dataclasses.asdict(self)
        reading = fields.pop("reading")
        del fields["workers"]
        return {**fields, **reading, "val": list(self.val), "part": "/".join(map(str, self.part))}


@contextlib.contextmanager
def gathered(
    sources: list[str], args: Any, say: Callable[[str], None]
) -> Iterator[tuple[Collection, Reading]]:  # fmt: skip
    """What `sources` name and how it is read, as the command line's options `args` have it.

    Standard input is kept for as long as the context lasts. Raises as `find` and `check_decoding`.
    """
    check_decoding(args.encoding, args.errors)
    if args.format not in ("", *FORMATS):
        raise UsageError(f"format={args.format} must be one of: {', '.join(FORMATS)}")
    reading = Reading(
        encoding=args.encoding, errors=args.errors, text_key=args.text_key,
        prompt_key=args.prompt_key, response_key=args.response_key,
        messages_key=getattr(args, "messages_key", ""),
        format=args.format, ext=",".join(endings(args.ext)),
        normalize=normal_form(args.normalize),
        document_separator=separators.parse(args.document_separator)
        if "document_separator" in args else "",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        asked = Asked(
            encoding=args.encoding, errors=args.errors, format=reading.format, ext=reading.ext,
            skip=args.skip_unreadable, keys=reading.keys,
        )  # fmt: skip
        sample = size(args.sample)
        named = functools.partial(find, sample=sample, folder=Path(folder), asked=asked, say=say)
        collection = named(sources, file=getattr(args, "file", None))
        if val := getattr(args, "val", []):
            collection = with_val(collection, named(val))
        if not (reading.masked or reading.text_key != "text"):
            key = first_record.messages_key(collection, reading.encoding)
            reading = dataclasses.replace(reading, messages_key=key)
        notes = (*collection.notes, *without_effect(collection, reading, args, sources))
        collection = dataclasses.replace(collection, notes=notes)
        for note in collection.notes:
            say(note)
        yield collection, reading


def normal_form(text: str) -> str:
    """A normal form of Unicode in lower case; UsageError for any other text."""
    form = text.lower()
    if form not in FORMS:
        raise UsageError(f"normalize={text} is not one of {', '.join(FORMS[1:])}")
    return form


def with_val(train: Collection, val: Collection) -> Collection:
    """Both as one collection; UsageError for a file of both.

    The validation text comes first, so that of duplicates the one for training is dropped.
    """
    paths = {Path(entry.path).resolve() for entry in val.inputs if entry.path}
    for entry in train.inputs:
        if entry.path and Path(entry.path).resolve() in paths:
            raise UsageError(
                f"{entry.path} is given for training and for validation", "Leave it out"
            )
    names = {entry.name for entry in train.inputs}
    renamed = [
        dataclasses.replace(entry, name=entry.path) if entry.name in names and entry.path else entry
        for entry in val.inputs
    ]
    counts = Counts()
    for part in (train.counts, val.counts):
        counts.update(part.entries)
    return Collection(
        name=train.name, notes=train.notes + val.notes, counts=counts,
        inputs=tuple(
            dataclasses.replace(entry, split=split)
            for split, inputs in (("val", renamed), ("train", train.inputs)) for entry in inputs
        ),
    )  # fmt: skip


def has_borders(collection: Collection, options: Options) -> bool:
    """Whether something stands between documents: not in a single text."""
    return not collection.single or bool(options.reading.document_separator)


def size(text: str) -> int:
    """A number of bytes, such as 100M."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if not match:
        raise UsageError(f"sample={text} is not a size", "It is a number of bytes, such as 100M")
    return int(match[1]) * 1000 ** "_KMGT".index(match[2] or "_")


def check_folder(out: Path) -> None:
    """Raise DataError where `out` is there and no dataset."""
    if not out.exists():
        return
    names = sorted(p.name for p in out.iterdir()) if out.is_dir() else [out.name]
    foreign = [name for name in names if not OURS.fullmatch(name)]
    if names and "manifest.json" not in names:
        foreign = names
    if foreign:
        raise DataError(
            f"{out} is there and is not a dataset: it has {foreign[0]}",
            "Name another folder with --out",
        )


def with_split(
    collection: Collection, options: Options, say: Callable[[str], None]
) -> tuple[Collection, Options]:
    """Both with the rule that `auto` means for them, and a note where it is not the usual one."""
    if any(entry.split for entry in collection.inputs):
        if options.split != "auto":
            raise UsageError(
                f"split={options.split} has no effect with --val", "Leave one of them out"
            )
        return collection, dataclasses.replace(options, split="given")
    if options.split != "auto":
        return collection, options
    split, val_fraction, note = automatic(
        collection, options.reading, options.val_fraction, part=options.part[1] > 1
    )
    if note:
        say(note)
        collection = dataclasses.replace(collection, notes=(*collection.notes, note))
    return collection, dataclasses.replace(options, split=split, val_fraction=val_fraction)


def identity(collection: Collection, options: Options) -> str:
    """A key that others have who do the same work; empty where nobody else can know."""
    if any(entry.kind == "memory" or entry.name == "-" for entry in collection.inputs):
        return ""
    inputs = [(i.name, i.path, i.bytes, i.modified, i.sample) for i in collection.inputs]
    identified = [JOURNAL, inputs, options.noted()]
    return hashlib.sha256(json.dumps(identified).encode()).hexdigest()


def check_room(collection: Collection, options: Options, out: Path) -> None:
    """Raise DataError where the manifest cannot name all inputs, or the disk has most likely not
    the room for the tokens.
    """
    if sum(len(json.dumps(entry.name)) + ENTRY for entry in collection.inputs) > MAX_BYTES:
        raise DataError(
            f"{len(collection.inputs):,} files are more than a manifest can name",
            "Pack them with tar or zip: each file of an archive is a document, too",
        )
    size = sum(entry.bytes * (4 if entry.compression else 1) for entry in collection.inputs)
    need = size * 2 if options.tokenizer in ("char", "byte") else size // 2
    parent = next(p for p in out.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if need // options.part[1] > free:
        raise DataError(
            f"{out} will take about {need / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB",
            "Make room, or name a folder on another disk with --out",
        )
