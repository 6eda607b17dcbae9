"""The files in and below a folder that may hold a corpus: each once, and what is left out said."""

from __future__ import annotations

import fnmatch
import glob
import os
from pathlib import Path

from bardlet.data.text.counts import Counts
from bardlet.data.text.formats import VOCABULARIES, ending, has_ending

Identity = tuple[int, int]  # device and inode


def files_of(
    folder: Path, counts: Counts, ext: str = "", pattern: tuple[str, ...] = ()
) -> list[Path]:
    """The files in and below `folder`, sorted by path.

    Links are followed, after all that is there without them, and no folder is read twice. Hidden
    files, folders that bardlet or nanoGPT made, vocabularies and, with `ext`, files of other
    endings are left out and counted. With `pattern`, the parts of a glob, only what it names is
    looked at. OSError for a folder that cannot be read.
    """
    files: list[tuple[Path, bool]] = []  # and whether a link leads there
    folders, links = [folder], list[Path]()
    above = {identity(parent) for parent in folder.resolve().parents}
    visited: set[Identity | None] = set()
    linked: set[Path] = set()
    while folders or links:
        parent = folders.pop() if folders else links.pop(0)
        name = parent.relative_to(folder).as_posix()
        place = identity(parent)
        if place is not None and (place in visited or place in above):
            counts.add("linked", 1, 0, f"{name}/")
            continue
        visited.add(place)
        if parent != folder and is_ours(parent):
            counts.add("own", 1, size_of_folder(parent), f"{name}/")
            continue
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            path = parent / entry.name
            if entry.name.startswith("."):
                if not pattern:
                    add_hidden(path, counts)
            elif pattern and not entry.is_dir() and not matches(parts_of(path, folder), pattern):
                continue
            elif not entry.is_dir():
                files.append((path, parent in linked or entry.is_symlink()))
            elif entry.is_symlink():
                linked.add(path)
                links.append(path)
            else:
                linked |= {path} if parent in linked else set()
                folders.append(path)
    files.sort(key=lambda file: file[0].relative_to(folder).as_posix())
    return chosen(files, counts, ext)


def like(pattern: str, counts: Counts, ext: str = "") -> list[Path]:
    """The files that a glob names, sorted, as `files_of` has those of a folder."""
    parts = Path(pattern).parts
    base = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    if "**" in parts:  # Python's follows a link that leads back as often as it can
        folder = Path(*parts[:base])
        return files_of(folder, counts, ext, parts[base:]) if folder.is_dir() else []
    files: list[tuple[Path, bool]] = []
    own: dict[Path, bool] = {}
    for name in sorted(glob.glob(pattern)):  # noqa: PTH207 - also above here
        path = Path(name)
        if not path.is_file():
            continue
        first = path.parent not in own
        own.setdefault(path.parent, len(path.parts) - 1 > base and is_ours(path.parent))
        if own[path.parent]:
            counts.add("own", int(first), size_of(path), f"{path.parent.as_posix()}/")
        else:
            files.append((path, path.is_symlink()))
    return chosen(files, counts, ext)


def parts_of(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path are like those of a glob, of which "**" is any number."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or matches(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def chosen(files: list[tuple[Path, bool]], counts: Counts, ext: str) -> list[Path]:
    """Those of the files that may hold text, each file once, real ones before links to them."""
    kept: set[Path] = set()
    seen: set[Identity | None] = {None}
    for path, _ in sorted(files, key=lambda file: file[1]):
        if path.name in VOCABULARIES:
            counts.add("vocabulary", 1, size_of(path), path.name)
        elif not has_ending(path.name, ext):
            counts.add("other_endings", 1, size_of(path), ending(path.name))
        elif (place := identity(path)) is not None and place in seen:
            counts.add("linked", 1, size_of(path), path.name)
        else:
            kept.add(path)
            seen.add(place)
    return [path for path, _ in files if path in kept]


def identity(path: Path) -> Identity | None:
    """What a file or folder is whatever leads to it; None where that cannot be asked."""
    try:
        status = path.stat()
    except OSError:  # who opens it says why
        return None
    return status.st_dev, status.st_ino


def is_ours(folder: Path) -> bool:
    """Whether a folder is a dataset, a run or a model, which are no texts."""

    def has(*names: str) -> bool:
        return all((folder / name).exists() for name in names)

    prepared = has("manifest.json", "tokenizer.json") or has("train.bin", "val.bin")
    models = has("model.safetensors", "config.json") or has("model.onnx", "tokenizer.json")
    gguf = has("Modelfile") and any(folder.glob("*.gguf"))
    return prepared or models or gguf or has("config.toml", "checkpoints")


def add_hidden(path: Path, counts: Counts) -> None:
    """Count what is hidden: a file, or all in a folder."""
    if path.is_symlink() or not path.is_dir():
        counts.add("hidden", 1, size_of(path), path.name)
        return
    for parent, _, names in os.walk(path):
        sizes = [size_of(Path(parent, name)) for name in names]
        counts.add("hidden", len(sizes), sum(sizes), f"{path.name}/" if sizes else "")


def size_of_folder(folder: Path) -> int:
    return sum(size_of(Path(p, name)) for p, _, names in os.walk(folder) for name in names)


def size_of(path: Path) -> int:
    """The bytes of a file, 0 where they cannot be asked."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
