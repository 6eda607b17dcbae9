"""`bardlet ls`: the runs and datasets that lie in a folder, the newest first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bardlet.commands.parser import Parser, parse
from bardlet.errors import BardletError, DataError
from bardlet.io.safe_read import read_json
from bardlet.io.terminal import say
from bardlet.run import run_folder

DEPTH = 2  # folders below the one that is named: out/demo, data/tinyshakespeare
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
RUN = ("run", "val loss", "iterations", "dataset", "size", "saved")
DATASET = ("dataset", "train tokens", "val tokens", "vocabulary", "size", "made")


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="where to look; default: here"
    )
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parsed = parse(parser, args)
    if not parsed.folder.is_dir():
        raise DataError(f"{parsed.folder} is not a folder", "Name one, or none for this one")
    listed = listing(parsed.folder)
    if parsed.json:
        print(json.dumps(listed))
        return 0
    rows = [run_row(entry) for entry in listed["runs"]]
    sets = [dataset_row(entry) for entry in listed["datasets"]]
    tables = [table(head, body) for head, body in ((RUN, rows), (DATASET, sets)) if body]
    if tables:
        print("\n\n".join(tables))
    else:
        say(f"no runs and no datasets in {parsed.folder}: `bardlet demo` makes one of each")
    return 0


def listing(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The facts of every run and dataset in and below a folder, as JSON values."""
    runs, datasets = [], []
    for path, kind in places(folder, DEPTH):
        try:
            facts = run_facts(path) if kind == "run" else dataset_facts(path)
        except (BardletError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            facts = {"problem": getattr(error, "message", None) or f"damaged: {error}"}
        entry = {"path": path.as_posix(), "bytes": size(path), "modified": modified(path), **facts}
        (runs if kind == "run" else datasets).append(entry)
    return {
        name: sorted(entries, key=lambda entry: (-entry["modified"], entry["path"]))
        for name, entries in (("runs", runs), ("datasets", datasets))
    }


def places(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    """Yields the runs and datasets in and below a folder, which are not looked into."""
    from bardlet.data.dataset.folder import is_dataset

    if (folder / "checkpoints").is_dir():
        yield folder, "run"
    elif is_dataset(folder):
        yield folder, "dataset"
    elif depth > 0:
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        except OSError:  # a folder that may not be looked into has nothing to show
            return
        for name in names:
            if not name.startswith("."):
                yield from places(folder / name, depth - 1)


def run_facts(path: Path) -> dict[str, Any]:
    """A run's best loss, how far it was trained, and on what."""
    last = run_folder.find(path, "last")
    scores = run_folder.read_scores(run_folder.find(path, "best"))
    state = run_folder.read_state(last)
    return {
        "iter": state.iter, "tokens": state.tokens,
        "max_iters": state.config.get("max_iters"),
        "dataset": state.imported.source if state.imported else state.dataset.name,
        "imported": state.imported is not None,
        "val_loss": scores.val_loss if scores else None,
        "val_batches": scores.val_batches if scores else 0,
    }  # fmt: skip


def dataset_facts(path: Path) -> dict[str, Any]:
    """How many tokens a dataset has, and of what vocabulary."""
    if not (path / "manifest.json").is_file():  # nanoGPT's, two bytes a token
        sizes = {name: (path / f"{name}.bin").stat().st_size // 2 for name in ("train", "val")}
        return {"tokens": sizes, "tokenizer": "nanoGPT's", "vocab_size": None}
    manifest = read_json(path / "manifest.json")
    tokens = {name: int(manifest["splits"][name]["tokens"]) for name in ("train", "val")}
    return {
        "tokens": tokens, "tokenizer": str(manifest.get("tokenizer", "")),
        "vocab_size": manifest.get("vocab_size"),
    }  # fmt: skip


def size(folder: Path) -> int:
    """The bytes of all files in and below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            total += path.lstat().st_size if path.is_symlink() or path.exists() else 0
    return total


def modified(folder: Path) -> float:
    """When a run was saved or a dataset made, in seconds since 1970."""
    for name in ("checkpoints/last", "manifest.json", "train.bin"):
        if (folder / name).exists():
            return (folder / name).stat().st_mtime
    return folder.stat().st_mtime


def run_row(entry: dict[str, Any]) -> list[str]:
    """A run's line of the table."""
    if "problem" in entry:
        return [entry["path"], entry["problem"]]
    loss = "-" if entry["val_loss"] is None else f"{entry['val_loss']:.4f}"
    of = f"/{entry['max_iters']:,}" if entry["max_iters"] else ""
    return [
        entry["path"], "~" * bool(entry["val_batches"]) + loss, f"{entry['iter']:,}{of}",
        f"from {entry['dataset']}" if entry["imported"] else entry["dataset"],
        *size_and_date(entry),
    ]  # fmt: skip


def dataset_row(entry: dict[str, Any]) -> list[str]:
    """A dataset's line of the table."""
    if "problem" in entry:
        return [entry["path"], entry["problem"]]
    vocabulary = entry["tokenizer"]
    if entry["vocab_size"]:
        vocabulary += f" {entry['vocab_size']:,}"
    return [
        entry["path"], f"{entry['tokens']['train']:,}", f"{entry['tokens']['val']:,}", vocabulary,
        *size_and_date(entry),
    ]  # fmt: skip


def size_and_date(entry: dict[str, Any]) -> list[str]:
    """Bytes with their unit, and the local time."""
    saved = datetime.fromtimestamp(entry["modified"]).strftime("%Y-%m-%d %H:%M")
    unit, name = next(((n, name) for n, name in UNITS if entry["bytes"] >= n), UNITS[-1])
    return [f"{entry['bytes'] / unit:,.1f} {name}", saved]


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Rows under their head; a row of two cells has a problem in place of the rest."""
    whole = [list(head), *(row for row in rows if len(row) == len(head))]
    widths = [max(len(row[i]) for row in whole) for i in range(len(head))]
    widths[0] = max(widths[0], *(len(row[0]) for row in rows))
    lines = []
    for row in [list(head), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
