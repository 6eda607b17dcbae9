"""Tokenizers' speed: GPT-2's BPE against tiktoken, training a BPE, characters; the ids compared.

    python bench/tokenizer_speed.py --text FILE... [--megabytes 200] [--train_megabytes 50]

Encoding: one thread and all cores, tiktoken with its `encode_ordinary_batch`, bardlet as `prepare`
does it, in processes, from the file to ids in the parent; with its compiled core and
without. Training: against rustbpe and tokenizers, on the same words. Characters: against nanoGPT's
way, a dictionary.
The text has to be large and of many kinds, since everything here remembers words that it has seen;
where it is too small, it is continued with copies whose words are made different.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
from common import OURS, Column

from bardlet.data.prepare.units import whole_characters

SIDES = Path(__file__).with_name("tokenizer_sides.py")
PLAIN = f"{OURS} without its core"
CHAR_BYTES = 10**8  # of the texts of characters, at most
BLOCK = 1 << 20  # bytes copied at once: this process has to stay small (common.py)
MB_PER_S = Column("mb_per_s", "MB/s", ",.1f", better="more")
Contender = Callable[[int], dict[str, Any]]


def main() -> None:
    parser = common.arguments(__doc__, peer=False, text=False, trains=False)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="real text, UTF-8")
    parser.add_argument("--megabytes", type=float, default=200, help="to encode, 10**6 bytes each")
    parser.add_argument("--train_megabytes", type=float, default=50, help="to train on")
    parser.add_argument("--vocab_size", type=int, default=32768, help="to train")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    tables: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        notes = [write_text(args.text, folder / "text.txt", int(args.megabytes * 1e6))]
        for task in args.tasks:
            more = TASKS[task](folder, args)
            runs, tables, notes = runs + more[0], tables + more[1], notes + more[2]
    args.text = [path.name for path in args.text]
    common.finish(args, runs=runs, tables=tables, notes=notes)


def encoding(folder: Path, args: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """GPT-2's BPE, one thread and all cores."""
    text, cores = folder / "text.txt", os.cpu_count() or 1
    runs, tables = [], []
    for count, case in {1: "GPT-2, one thread", cores: f"GPT-2, all {cores} cores"}.items():
        contenders = {
            who: side(text, "encode", who, text, count) for who in ("tiktoken", OURS, PLAIN)
        }
        case_runs = common.interleaved(contenders, args.repeats, case=case)
        tables.append(common.comparison(case_runs, [MB_PER_S, Column("tokens", "tokens", ",.0f")]))
        runs += case_runs
    same = len({run["ids"] for run in runs}) == 1
    return runs, tables, [f"the ids of all sides are {'the same' if same else 'DIFFERENT'}"]


def training(folder: Path, args: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """A vocabulary, by three trainers."""
    text = folder / "training.txt"
    copy([folder / "text.txt"], text, int(args.train_megabytes * 1e6))
    names = ("rustbpe", "tokenizers", OURS)
    contenders = {
        who: side(text, "train", who, text, args.vocab_size - 1, folder / who) for who in names
    }
    case = f"{args.vocab_size:,} tokens, {text.stat().st_size / 1e6:,.0f} MB"
    runs = common.interleaved(contenders, args.repeats, case=case)
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


def characters(folder: Path, args: argparse.Namespace) -> tuple[list[Any], list[str], list[str]]:
    """Characters to ids, ASCII and others."""
    texts = {"ASCII": folder / "ascii.txt", "other lines": folder / "others.txt"}
    with (
        (folder / "text.txt").open("rb") as lines,
        texts["ASCII"].open("wb") as ascii,
        texts["other lines"].open("wb") as others,
    ):
        for line in lines:
            kept = ascii if line.isascii() else others
            if kept.tell() < CHAR_BYTES:
                kept.write(line)
    runs, tables, notes = [], [], []
    for kind, text in texts.items():
        if not text.stat().st_size:
            notes.append(f"there are no {kind} in the text")
            continue
        contenders = {who: side(text, "characters", who, text) for who in ("a dictionary", OURS)}
        case = f"characters, {kind}, {text.stat().st_size / 1e6:,.1f} MB, one thread"
        case_runs = common.interleaved(contenders, args.repeats, case=case)
        tables.append(common.comparison(case_runs, [MB_PER_S]))
        same = len({run["ids"] for run in case_runs}) == 1
        notes.append(f"{kind}: the ids of both are {'the same' if same else 'DIFFERENT'}")
        runs += case_runs
    return runs, tables, notes


TASKS = {"encode": encoding, "train": training, "characters": characters}


def side(text: Path, *words: object) -> Contender:
    """Runs a side in a process of its own, and gives its speed on `text`."""
    one_thread = {"RAYON_NUM_THREADS": "1"} if words[-1] == 1 else {}

    def measure(number: int) -> dict[str, Any]:
        command = [sys.executable, SIDES, *map(str, words)]
        ran = common.timed(command, text.parent, **one_thread)
        result = json.loads(next(line for _, line in ran.lines if line.startswith("{")))
        speed = text.stat().st_size / 1e6 / result["seconds"]
        peak = {"peak_mb": ran.peak_bytes / 1e6} if ran.peak_bytes else {}
        return {"mb_per_s": speed, **result, **peak}

    return measure


def copy(sources: Sequence[Path], target: Path, size: int) -> int:
    """Write the first `size` bytes of some texts, up to a whole character; return how many."""
    with target.open("wb") as file:
        for path in sources:
            with path.open("rb") as source:
                while block := source.read(min(BLOCK, size - file.tell())):
                    file.write(block)
    return end_whole(target)


def end_whole(path: Path) -> int:
    """Cut off a character that ends too early at the end of a file; return its size."""
    with path.open("r+b") as file:
        start = max(file.seek(0, os.SEEK_END) - 4, 0)
        file.seek(start)
        tail = file.read()
        return file.truncate(start + len(whole_characters(tail)))


def write_text(texts: Sequence[Path], target: Path, size: int) -> str:
    """Write `size` bytes of text to `target`, and return a line that says of what."""
    real = copy(texts, target, size)
    names = ", ".join(path.name for path in texts)
    note = f"{size / 1e6:,.0f} MB of text: {real / 1e6:,.1f} MB of {names}"
    if size - real < 4:
        return note
    text = target.read_text(encoding="utf-8")
    with target.open("ab") as file:
        for copied in copies(text):
            file.write(copied.encode("utf-8")[: size - file.tell()])
            if file.tell() >= size:
                break
    end_whole(target)
    return f"{note}, and copies of it in other letters"


def copies(text: str) -> Iterator[str]:
    """Yields copies of a text without end, always the same: lines shuffled, half in other letters.

    So many words are new in each copy, as in a text that goes on.
    """
    lines = text.splitlines(keepends=True)
    for number in itertools.count():
        draw = random.Random(number)
        letters = draw.sample(string.ascii_lowercase, 26)
        table = str.maketrans(string.ascii_lowercase, "".join(letters))
        draw.shuffle(lines)
        yield "".join(line.translate(table) if i % 2 else line for i, line in enumerate(lines))


if __name__ == "__main__":
    main()
