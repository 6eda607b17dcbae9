"""What the sources of a command name: files in folders, globs, standard input, the hub.

Of a file whose name says nothing the first bytes are read here; `documents` reads the inputs.
"""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bardlet.data.text import compression, conversations, corpus, folders, guess, registry
from bardlet.data.text.counts import Counts
from bardlet.data.text.fields import ABSENT, field_of
from bardlet.data.text.formats import ARCHIVES, TEXTS, ending, kind_by_head, kind_of
from bardlet.data.text.inputs import Collection, Input, of_text
from bardlet.errors import DataError, UsageError, did_you_mean
from bardlet.io.safe_read import parse_json, regular

MAX_SETTINGS = 1 << 20  # bytes of a JSON file of a folder that may be of another kind than texts
READ = (
    f"Read are {', '.join(TEXTS)}, .json, .jsonl, .csv, .tsv, .parquet, .zip, .tar, with .gz, "
    ".bz2, .xz or .zst after it, and any other file that is text"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a command wants its sources: see the options of these names."""

    encoding: str = "utf-8"
    errors: str = "strict"
    format: str = ""  # of every file but archives; "": by its name or first bytes
    ext: str = ""  # endings of the files of folders, globs and archives; "": all
    skip: bool = False
    keys: tuple[str, ...] = ("text",)  # the fields that records must have


def find(
    sources: list[str], *, file: Path | None = None, sample: int = 0, folder: Path | None = None,
    asked: Asked | None = None, say: Callable[[str], None] = lambda line: None,
) -> Collection:  # fmt: skip
    """The inputs that `sources` name, in their order, each folder's sorted by path.

    A file's name says what it is, or else its first bytes. `file` stands in for a named corpus; a
    data set on the hub ends after `sample` bytes. Standard input is kept in `folder`. A corpus that
    is fetched wins over a folder of its name ("./NAME" is the folder), a file over both, and any
    path over a data set on the hub. What is left out of a folder is counted, and so is, with
    `skip`, what cannot be opened. DataError for what is not there, UsageError for a `file` that
    stands in for nothing.
    """
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once", "Give - once among the sources")
    asked = asked or Asked()
    inputs: list[Input] = []
    notes: list[str] = []
    names: list[str] = []
    counts = Counts()
    for source in sources:
        if (of_hub := registry.hub(source, sample)) and not Path(source).exists():
            address, size = of_hub
            named = [Input(name=address, kind="hub", path=address, bytes=size, sample=size)]
            names.append(of_hub[0].rpartition("/")[2].partition(":")[0])
        elif file is not None or (source in corpus.NAMED and not Path(source).is_file()):
            text = corpus.load(
                source, file=file, encoding=asked.encoding, errors=asked.errors, say=say
            )
            if len(sources) == 1:
                return of_text(text)
            named = list(of_text(text).inputs)
            notes += text.notes
            names.append(text.name)
        elif source == "-":
            named = [standard_input(folder, asked, notes)]
            names.append("stdin")
        else:
            several = len(sources) > 1
            named = of_path(source, asked, notes, counts, several=several)
            names.append(stem(source))
        inputs += named
    return Collection(
        name="-".join(names)[:80], inputs=tuple(inputs), notes=(*notes, *counts.report()),
        counts=counts,
    )  # fmt: skip


def stem(source: str) -> str:
    """The name of a dataset that is made of a path."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().name or "corpus"
    if any(c in path.name for c in "*?["):
        return path.resolve().parent.name or "corpus"
    return Path(path.name.removesuffix(kind_of(path.name)[1])).stem


def of_path(
    source: str, asked: Asked, notes: list[str], counts: Counts, *, several: bool
) -> list[Input]:
    """The inputs of a file, a folder or a glob; with several sources they keep its path.

    `counts` gets what is left out of a folder or glob, and `notes` what is said of its files.
    """
    path = Path(source)
    try:
        if source and path.is_dir():
            if (path / "manifest.json").is_file() and (path / "tokenizer.json").is_file():
                raise DataError(
                    f"{source} is a dataset, and no text", f"bardlet train --dataset={source}"
                )
            files = folders.files_of(path, counts, asked.ext)
            prefix = f"{path.as_posix()}/" if several else ""
            named = [(f, prefix + f.relative_to(path).as_posix()) for f in files]
        elif source and path.exists():
            return [of_file(path, path.name, asked, notes)]
        elif any(c in source for c in "*?["):
            named = [(f, f.as_posix()) for f in folders.like(source, counts, asked.ext)]
            if not named and not counts.entries:
                raise DataError(f"no file is like {source}", "Check the pattern")
        else:
            raise nothing_there(source)
        entries = among(named, asked, notes, counts)
        if not entries:
            why = "; ".join([*notes, *counts.report()])
            raise DataError(
                f"{source} has no text that can be read{': ' * bool(why)}{why}",
                f"{READ}; a file that is named is read whatever it is called",
            )
        return entries
    except OSError as error:
        raise corpus.unreadable(error.filename or source, error) from None


def among(
    files: list[tuple[Path, str]], asked: Asked, notes: list[str], counts: Counts
) -> list[Input]:
    """The inputs of those of a folder's or glob's files that are text, or made of it."""
    entries: list[Input] = []
    for path, name in files:
        try:
            kind, packed = kind_of(path.name)
            if kind == "json" and not (packed or asked.format) and lacks(path, asked.keys):
                counts.add("other_json", 1, folders.size_of(path), path.name)
                continue
            if not (kind or asked.format or asked.ext):
                head = head_of(path, packed)
                if why := guess.why_no_text(head, asked.encoding):
                    counts.add(why, 1, folders.size_of(path), ending(path.name))
                    continue
                if kind_by_head(head, asked.encoding) != "text":
                    counts.add("json_as_text", 1, 0, path.name)
            entries.append(of_file(path, name, asked, notes, named=False))
        except OSError as error:
            if not asked.skip or len(files) == 1:
                raise
            notes.append(f"not read: {name}: {error.strerror or error}")
            counts.add("damaged")
    return entries


def lacks(path: Path, keys: tuple[str, ...]) -> bool:
    """Whether a small JSON file is not of records with these fields: a package.json, say.

    What is long or damaged is left to its reader, which says so.
    """
    if path.stat().st_size > MAX_SETTINGS:
        return False
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        return False
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str) or not value:
        return False
    if keys == ("text",) and conversations.key_of(first):
        return False
    return any(field_of(first, key) is ABSENT for key in keys)


def head_of(path: Path, packed: str) -> bytes:
    """The first bytes of a file's text; none of what is damaged, whose reader says so."""
    status = regular(path).stat()
    with path.open("rb") as file:
        if not packed:
            return file.read(guess.HEAD)
        try:
            limit = compression.limit(status.st_size)
            return compression.decompressed(file, packed, limit, path.name).read(guess.HEAD)
        except (DataError, OSError):
            return b""


def of_file(path: Path, name: str, asked: Asked, notes: list[str], *, named: bool = True) -> Input:
    """The input that a file is; `named` is one that the user names, and not its folder."""
    kind, packed = kind_of(path.name)
    status = regular(path).stat()
    if kind not in ARCHIVES and asked.format:
        kind = asked.format
    if not kind:
        kind = kind_by_head(head_of(path, packed), asked.encoding) if named else "text"
        if kind != "text":
            shown = "stdin" if name == "-" else name
            notes.append(
                f"{shown} is read as JSON, by how it begins; --format text takes all of it"
            )
    return Input(
        name=name, kind=kind, compression=packed, path=str(path), bytes=status.st_size,
        modified=status.st_mtime_ns,
    )  # fmt: skip


def standard_input(folder: Path | None, asked: Asked, notes: list[str]) -> Input:
    """Standard input as a file in `folder`, for it is read more than once."""
    assert folder is not None
    path = folder / "stdin"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        return of_file(path, "-", asked, notes)
    except (AttributeError, OSError, ValueError) as error:  # absent, unreadable or closed
        if getattr(error, "errno", 0) == errno.ENOSPC:
            problem = f"standard input is kept in {folder.parent}, whose disk is full"
            raise DataError(problem, "Name another folder with TMPDIR, or give a file.") from None
        raise DataError("standard input cannot be read", "Give a file or a folder.") from None


def nothing_there(source: str) -> DataError:
    """What to say of a source that names nothing, with the corpora that are known."""
    known = (*registry.TABLE, "hf://DATASET")
    allowed = f"a text file, a folder, - for standard input, or one of: {', '.join(known)}"
    return DataError(
        f"{source!r} is neither a file nor a folder nor a named corpus",
        did_you_mean(source, known).rstrip() or f"Give {allowed}.",
    )
