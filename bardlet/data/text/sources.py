"""What the sources of a command name: files in folders, globs, standard input, the hub.

Nothing is read here; `documents` opens what is found.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bardlet.data.text import corpus, registry
from bardlet.data.text.counts import Counts
from bardlet.errors import DataError, UsageError, did_you_mean
from bardlet.io.safe_read import regular

KINDS = {
    ".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "csv", ".tab": "csv",
    ".parquet": "parquet", ".zip": "zip", ".tar": "tar",
}  # fmt: skip
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
VOCABULARY = "tokenizer.json"  # no text, though of a kind that is read
ENDINGS = 8  # that are named of what is passed over
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file, a text in memory or a data set on the hub. `bytes` is 0 where it is not known."""

    name: str
    kind: str  # a value of KINDS, "memory" or "hub"
    compression: str = ""
    path: str = ""
    bytes: int = 0
    modified: int = 0  # ns
    text: str = ""
    sample: int = 0  # bytes after which a data set on the hub ends; 0: never
    split: str = ""  # what the user gave it for, train or val; empty: as the rule of splitting says


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Inputs in order, the default name of their dataset, remarks, and what was passed over."""

    name: str
    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)
    sources: tuple[corpus.Source, ...] = ()  # of texts in memory

    @property
    def single(self) -> bool:
        """Whether this is one text, with or without one for validation: there are no borders."""
        val = [entry.split == "val" for entry in self.inputs]
        loose = all(entry.kind in ("text", "memory") for entry in self.inputs)
        return loose and val.count(False) == 1 and val.count(True) <= 1


def of_text(text: corpus.Corpus) -> Collection:
    """A collection of one text that is in memory."""
    entry = Input(name=text.name, kind="memory", text=text.text, bytes=len(text.text))
    return Collection(name=text.name, inputs=(entry,), notes=text.notes, sources=text.sources)


def kind_of(name: str) -> tuple[str, str] | None:
    """The kind and compression that a file's name stands for, None for an unknown ending."""
    lower = name.lower()
    for short, full in SHORT.items():
        lower = lower.removesuffix(short) + full if lower.endswith(short) else lower
    compression = next((p for p in COMPRESSIONS if lower.endswith(p)), "")
    kind = KINDS.get(Path(lower.removesuffix(compression)).suffix)
    return (kind, compression) if kind else None


def find(
    sources: list[str], *, file: Path | None = None, sample: int = 0, folder: Path | None = None,
    encoding: str = "utf-8", errors: str = "strict", skip: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Collection:  # fmt: skip
    """The inputs that `sources` name, in their order, each folder's sorted by path.

    A file's name says what it is, and one that says nothing is text. `file` stands in for a named
    corpus; a data set on the hub ends after `sample` bytes. Standard input is kept in `folder`.
    A corpus that is fetched wins over a folder of its name ("./NAME" is the folder), a file over
    both, and any path over a data set on the hub. What is hidden in a folder is left out; its files
    of no known kind, and with `skip` those that cannot be opened, are passed over with a remark.
    DataError for what is not there, UsageError for a `file` that stands in for nothing.
    """
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once", "Give - once among the sources")
    inputs: list[Input] = []
    notes: list[str] = []
    names: list[str] = []
    for source in sources:
        if (of_hub := registry.hub(source, sample)) and not Path(source).exists():
            address, max_bytes = of_hub
            named = [
                Input(name=address, kind="hub", path=address, bytes=max_bytes, sample=max_bytes)
            ]
            names.append(of_hub[0].rpartition("/")[2].partition(":")[0])
        elif file is not None or (source in corpus.NAMED and not Path(source).is_file()):
            text = corpus.load(source, file=file, encoding=encoding, errors=errors, say=say)
            if len(sources) == 1:
                return of_text(text)
            named = list(of_text(text).inputs)
            notes += text.notes
            names.append(text.name)
        elif source == "-":
            named = [standard_input(folder)]
            names.append("stdin")
        else:
            named = of_path(source, notes, several=len(sources) > 1, skip=skip)
            names.append(stem(source))
        inputs += named
    return Collection(name="-".join(names)[:80], inputs=tuple(inputs), notes=tuple(notes))


def stem(source: str) -> str:
    """The name of a dataset that is made of a path."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().name or "corpus"
    if any(c in path.name for c in "*?["):
        return path.resolve().parent.name or "corpus"
    kind = kind_of(path.name)
    plain = path.name.removesuffix(kind[1]) if kind and kind[1] else path.name
    return Path(plain).stem


def of_path(source: str, notes: list[str], *, several: bool, skip: bool) -> list[Input]:
    """The inputs of a file, a folder or a glob; with several sources they keep its path.

    `notes` hears of the files of a folder that are of no known kind, and with `skip` of those of a
    folder or glob that cannot be opened.
    """
    path = Path(source)
    try:
        if source and path.is_dir():
            there = files_of(path)
            there = [f for f in there if f.name != VOCABULARY]
            files = [(f, f.relative_to(path).as_posix()) for f in there if kind_of(f.name)]
            if files and len(there) > len(files):
                notes.append(passed_over([f for f in there if not kind_of(f.name)]))
            if not files:
                raise DataError(
                    f"folder {source} has no .txt or .md files, nor others that can be read",
                    f"Files end in {', '.join(KINDS)}, or one of these and one of "
                    f"{', '.join(COMPRESSIONS)}",
                )
        elif source and path.exists():
            files = [(path, path.name)]
        elif any(c in source for c in "*?["):
            paths = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - also above here
            files = [(Path(f), Path(f).as_posix()) for f in paths if Path(f).is_file()]
            if not files:
                raise DataError(f"no file is like {source}", "Check the pattern")
        else:
            raise nothing_there(source)
        prefix = f"{path.as_posix()}/" if several and path.is_dir() else ""
        if not skip or len(files) == 1:
            return [of_file(file, prefix + name) for file, name in files]
        entries = []
        for file, name in files:
            try:
                entries.append(of_file(file, prefix + name))
            except OSError as error:
                notes.append(f"not read: {prefix + name}: {error.strerror or error}")
        return entries
    except OSError as error:
        raise corpus.unreadable(error.filename or source, error) from None


def passed_over(files: list[Path]) -> str:
    """A remark on the files of a folder that are of no known kind."""
    endings = sorted({f.suffix.lower() for f in files}, key=lambda ending: (not ending, ending))
    shown = [ending or "no ending" for ending in endings[:ENDINGS]]
    shown += ["..."] * (len(endings) > ENDINGS)
    what = "file with another ending was" if len(files) == 1 else "files with other endings were"
    return f"{len(files):,} {what} passed over: {', '.join(shown)}"


def of_file(path: Path, name: str) -> Input:
    """The input that a file is."""
    kind, compression = kind_of(path.name) or ("text", "")
    status = regular(path).stat()
    return Input(
        name=name, kind=kind, compression=compression, path=str(path), bytes=status.st_size,
        modified=status.st_mtime_ns,
    )  # fmt: skip


def standard_input(folder: Path | None) -> Input:
    """Standard input as a file in `folder`, for it is read more than once."""
    assert folder is not None
    path = folder / "stdin.txt"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        return of_file(path, "-")
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


def files_of(folder: Path) -> list[Path]:
    """Returns the files in and below `folder` that are not hidden, sorted by path."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk by itself passes over an unreadable folder in silence

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())
