"""Tokenizers' speed: GPT-2's BPE against tiktoken, training a BPE, characters; the ids compared.

    python bench/tokenizer_speed.py --text FILE... [--megabytes 200] [--train_megabytes 50]

Encoding: one thread and all cores, tiktoken with its `encode_ordinary_batch`, bardlet as `prepare`
does it, in processes, from the file to ids in the parent; with gigatoken (`bardlet[fast]`) and
without. Training: against rustbpe and tokenizers, on the same words. Characters: against nanoGPT's
way, a dictionary.
The text has to be large and of many kinds, since everything here remembers words that it has seen;
where it is too small, it is continued with copies whose words are made different.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
from common import OURS, Column

SIDES = Path(__file__).with_name("tokenizer_sides.py")
PLAIN = f"{OURS} without gigatoken"
CHAR_BYTES = 10**8  # of the texts of characters, at most
MB_PER_S = Column("mb_per_s", "MB/s", ",.1f", better="more")
Contender = Callable[[int], dict[str, Any]]


def main() -> None:
    parser = common.arguments(__doc__, peer=False, text=False)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="real text, UTF-8")
    parser.add_argument("--megabytes", type=float, default=200, help="to encode, 10**6 bytes each")
    parser.add_argument("--train_megabytes", type=float, default=50, help="to train on")
    parser.add_argument("--vocab_size", type=int, default=32768, help="to train")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    given = parser.parse_args()
    runs: list[dict[str, Any]] = []
    tables: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        notes = [write_text(given.text, folder / "text.txt", int(given.megabytes * 1e6))]
        for task in given.tasks:
            found, shown, said = TASKS[task](folder, given)
            runs, tables, notes = runs + found, tables + shown, notes + said
    given.text = [path.name for path in given.text]
    common.finish(given, runs=runs, tables=tables, notes=notes)


def encoding(folder: Path, given: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """GPT-2's BPE, one thread and all cores."""
    text, cores = folder / "text.txt", os.cpu_count() or 1
    runs, tables = [], []
    for count, case in {1: "GPT-2, one thread", cores: f"GPT-2, all {cores} cores"}.items():
        contenders = {
            who: side(text, "encode", who, text, count) for who in ("tiktoken", OURS, PLAIN)
        }
        found = common.interleaved(contenders, given.repeats, case=case)
        tables.append(common.comparison(found, [MB_PER_S, Column("tokens", "tokens", ",.0f")]))
        runs += found
    same = len({run["ids"] for run in runs}) == 1
    return runs, tables, [f"the ids of all sides are {'the same' if same else 'DIFFERENT'}"]


def training(folder: Path, given: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """A vocabulary, by three trainers."""
    text = folder / "training.txt"
    head(folder / "text.txt", text, int(given.train_megabytes * 1e6))
    names = ("rustbpe", "tokenizers", OURS)
    contenders = {
        who: side(text, "train", who, text, given.vocab_size - 1, folder / who) for who in names
    }
    case = f"{given.vocab_size:,} tokens, {text.stat().st_size / 1e6:,.0f} MB"
    runs = common.interleaved(contenders, given.repeats, case=case)
    columns = [
        Column("seconds", "seconds", ".2f", better="less"),
        MB_PER_S,
        Column("peak_mb", "peak MB", ",.0f", better="less"),
    ]
    learnt = [(folder / who).read_text(encoding="utf-8").split("\n") for who in names]
    notes = [compared(learnt[2], other, who) for who, other in zip(names, learnt[:2], strict=False)]
    return runs, [common.comparison(runs, columns)], notes


def compared(ours: Sequence[str], theirs: Sequence[str], who: str) -> str:
    """How far two lists of merged tokens agree."""
    if ours == theirs:
        return f"all {len(ours):,} merges are those of {who}"
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    both = len(set(ours) & set(theirs))
    return (
        f"{both:,} of {len(ours):,} merged tokens are also among the {len(theirs):,} of {who}, "
        f"the first {first:,} in its order: of equally frequent pairs it takes another first"
    )


def characters(folder: Path, given: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """Characters to ids, ASCII and others."""
    whole = (folder / "text.txt").read_text(encoding="utf-8")
    others = "".join(line for line in whole.splitlines(keepends=True) if not line.isascii())
    texts = {"ASCII": whole.encode("ascii", "ignore"), "other lines": others.encode("utf-8")}
    runs, tables, notes = [], [], []
    for kind, raw in texts.items():
        if not raw:
            notes.append(f"there are no {kind} in the text")
            continue
        text = folder / f"{kind}.txt"
        text.write_bytes(raw[:CHAR_BYTES].decode("utf-8", "ignore").encode("utf-8"))
        contenders = {who: side(text, "characters", who, text) for who in ("a dictionary", OURS)}
        case = f"characters, {kind}, {text.stat().st_size / 1e6:,.1f} MB, one thread"
        found = common.interleaved(contenders, given.repeats, case=case)
        tables.append(common.comparison(found, [MB_PER_S]))
        same = len({run["ids"] for run in found}) == 1
        notes.append(f"{kind}: the ids of both are {'the same' if same else 'DIFFERENT'}")
        runs += found
    return runs, tables, notes


TASKS = {"encode": encoding, "train": training, "characters": characters}


def side(text: Path, *words: object) -> Contender:
    """Runs a side in a process of its own, and gives its speed on `text`."""
    one_thread = {"RAYON_NUM_THREADS": "1"} if words[-1] == 1 else {}

    def measure(number: int) -> dict[str, Any]:
        command = [sys.executable, SIDES, *map(str, words)]
        ran = common.timed(command, text.parent, **one_thread)
        found = json.loads(next(line for _, line in ran.lines if line.startswith("{")))
        speed = text.stat().st_size / 1e6 / found["seconds"]
        peak = {"peak_mb": ran.peak_bytes / 1e6} if ran.peak_bytes else {}
        return {"mb_per_s": speed, **found, **peak}

    return measure


def head(source: Path, target: Path, size: int) -> None:
    """The first `size` bytes of a text, up to a whole character."""
    with source.open("rb") as file:
        target.write_bytes(file.read(size).decode("utf-8", "ignore").encode("utf-8"))


def write_text(given: Sequence[Path], target: Path, size: int) -> str:
    """Write `size` bytes of text to `target`, and return a line that says of what."""
    with target.open("wb") as file:
        for path in given:
            with path.open("rb") as source:
                while file.tell() < size and (block := source.read(min(1 << 20, size))):
                    file.write(block)
        real = min(file.tell(), size)
        file.truncate(real)
    text = target.read_bytes().decode("utf-8", "ignore")
    names = ", ".join(path.name for path in given)
    note = f"{size / 1e6:,.0f} MB of text: {real / 1e6:,.1f} MB of {names}"
    if real < size:
        text += varied(text, size - real)
        note += ", and copies of it in other letters"
    target.write_text(text, encoding="utf-8")
    return note


def varied(text: str, size: int) -> str:
    """`size` bytes of copies of `text`, always the same: lines shuffled, half in other letters.

    So many words are new in each copy, as in a text that goes on.
    """
    lines = text.splitlines(keepends=True)
    copies, done = [], 0
    while done < size:
        draw = random.Random(len(copies))
        letters = draw.sample(string.ascii_lowercase, 26)
        table = str.maketrans(string.ascii_lowercase, "".join(letters))
        draw.shuffle(lines)
        changed = "".join(line.translate(table) if i % 2 else line for i, line in enumerate(lines))
        copies.append(changed)
        done += len(changed.encode("utf-8"))
    return "".join(copies).encode("utf-8")[:size].decode("utf-8", "ignore")


if __name__ == "__main__":
    main()
