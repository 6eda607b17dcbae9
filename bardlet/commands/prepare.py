"""`bardlet prepare`: text in, a dataset folder out."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from bardlet.commands import dependents
from bardlet.commands.parser import SOURCE, Parser, add_reading, from_keywords, parse
from bardlet.errors import UsageError
from bardlet.io.terminal import Progress, progress_to, say

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset

FilePath = str | os.PathLike[str]

TOKENIZER = (
    "char (default), byte, gpt2, bpe (trained on the text), a tokenizer.json, .model, .tiktoken or "
    "vocab.json or a folder with one, a tiktoken encoding, or OWNER/NAME on the hub"
)
VOCAB_SIZE = (
    "bpe: how many tokens, by default as many as fit the text; char: at most so many, the rarest "
    "share <unk>"
)
END_OF_TEXT = "token between documents, by its name; default: the vocabulary's own"
CHAT_TEMPLATE = (
    "of conversations: chatml, llama3, or a file in Jinja; default: the tokenizer's own, or chatml"
)
SPLIT = (
    "position: the end of each text is for validation; blocks: parts from everywhere in it; "
    "document: whole documents by their hash; auto (default): position where there are few"
)
VAL = "file or folder of the validation text, again for more; then all sources are for training"

STREAM = (
    "write the training text while `bardlet train --stream` uses it: a few shards are on disk at a "
    "time, for a text that is larger than the disk"
)
STREAM_SHARDS = "with --stream: shards of training text on disk, at most"
STREAM_TIMEOUT = "with --stream: seconds of waiting while nothing trains, after which it ends"
FRESH = "replace a dataset that runs in out/ were trained on; default: it is kept"
PART = (
    "i/N: this machine's part of the work; auto: by the variables of SLURM or torchrun, into "
    "OUT.part-i"
)
RANKS = (  # this process's number, how many there are, the number of the first, the step from it
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN",
     "SLURM_ARRAY_TASK_STEP"),
    ("SLURM_PROCID", "SLURM_NTASKS", "", ""),
    ("RANK", "WORLD_SIZE", "", ""),
)  # fmt: skip


class PrepareOptions(TypedDict, total=False):
    """The options of `bardlet prepare`, whose help says what each does."""

    out: FilePath
    file: FilePath
    tokenizer: str
    vocab_size: int
    end_of_text: str
    split: str
    val_fraction: float
    val: FilePath | list[str]
    text_key: str
    prompt_key: str
    response_key: str
    messages_key: str
    chat_template: FilePath
    document_separator: str
    format: str
    ext: str
    normalize: str
    encoding: str
    errors: str
    skip_unreadable: bool
    sample: str
    distinct: bool
    shard_tokens: int
    workers: int
    part: str
    merge: list[FilePath]
    fresh: bool
    stream: bool
    stream_shards: int
    stream_timeout: float


def prepare(
    *sources: FilePath, progress: Progress = False, **options: Unpack[PrepareOptions]
) -> Dataset:
    """Turn texts into a dataset folder, as `bardlet prepare` does, and return it opened.

    `bardlet.train(dataset=...)` takes what is returned; its `folder` says where it is. `sources`
    are files, folders, globs, hf://... or the name of a corpus. `progress` is True to print what
    the command prints, or a function that gets each line. Raises a BardletError for what cannot be
    read or is not allowed, and for an option that there is not. A script that prepares much text
    in several processes begins with `if __name__ == "__main__":`, as multiprocessing asks.
    """
    parser = Parser(prog="bardlet prepare", description="")
    add_options(parser)
    if isinstance(sample := options.get("sample"), int):
        options["sample"] = str(sample)
    args = from_keywords(parser, [os.fspath(source) for source in sources], options)
    with progress_to(progress):
        return made(parser, args)


def run(parser: Parser, args: list[str]) -> int:
    add_options(parser)
    parser.add_argument("--json", action="store_true", default=False, help="print the manifest")
    options = parse(parser, args)
    dataset = made(parser, options)
    from bardlet.commands.inspect import counted_facts, describe_dataset

    facts = {**dataset.manifest, **counted_facts(dataset)}
    print(json.dumps(facts) if options.json else describe_dataset(dataset))
    return 0


def add_options(parser: Parser) -> None:
    """The options of both ways to prepare, the command's and Python's."""
    parser.add_argument("source", nargs="*", default=[], help=SOURCE)
    parser.add_argument("--out", type=Path, help="dataset folder; default data/<name>")
    parser.add_argument("--file", type=Path, help="take a named corpus from this file")
    parser.add_argument("--tokenizer", default="char", help=TOKENIZER)
    parser.add_argument("--vocab_size", type=int, default=0, help=VOCAB_SIZE)
    parser.add_argument("--end_of_text", default="", help=END_OF_TEXT)
    parser.add_argument("--chat_template", default="", help=CHAT_TEMPLATE)
    parser.add_argument("--split", default="auto", help=SPLIT)
    parser.add_argument("--val_fraction", type=float, help="part for validation; default 0.1")
    parser.add_argument("--val", action="append", default=[], help=VAL)
    add_reading(parser)
    parser.add_argument("--distinct", action="store_true", default=False, help="drop duplicates")
    parser.add_argument("--shard_tokens", type=int, default=10**8, help="tokens in a shard")
    parser.add_argument("--workers", type=int, default=0, help="processes; default: as fits")
    parser.add_argument("--part", default="1/1", help=PART)
    parser.add_argument("--merge", nargs="+", type=Path, default=[], help="make one of all parts")
    parser.add_argument("--fresh", action="store_true", default=False, help=FRESH)
    parser.add_argument("--stream", action="store_true", default=False, help=STREAM)
    parser.add_argument("--stream_shards", type=int, default=8, help=STREAM_SHARDS)
    parser.add_argument("--stream_timeout", type=float, default=3600.0, help=STREAM_TIMEOUT)


def made(parser: Parser, args: argparse.Namespace) -> Dataset:
    """The dataset that the options ask for."""
    out: Path | None = getattr(args, "out", None)
    if bool(args.source) == bool(args.merge):
        raise UsageError("prepare takes sources or --merge PARTS", "`bardlet prepare --help`")
    if not args.merge:
        return prepared(parser, args, out)
    useful = ("source", "out", "merge", "fresh", "json")
    for name, value in vars(args).items():
        if name not in useful and value != parser.get_default(name):
            say(f"--{name} has no effect with --merge: the parts have theirs")
    return merged(args, out)


def merged(args: argparse.Namespace, out: Path | None) -> Dataset:
    """The dataset of all parts."""
    from bardlet.data.prepare.merge import merge

    if out is None:
        raise UsageError("--merge needs --out", "Name the folder that all parts become")
    return merge(args.merge, out, dependents.guard(out, fresh=args.fresh, say=say))


def prepared(parser: Parser, args: argparse.Namespace, out: Path | None) -> Dataset:
    """The dataset of what the sources name."""
    from bardlet.data.prepare.options import Options, gathered
    from bardlet.data.prepare.pipeline import prepare
    from bardlet.data.prepare.streaming import prepare_stream

    if args.val and "val_fraction" in args:
        raise UsageError("--val_fraction has no effect with --val", "Leave one of them out")
    part = of_ranks(os.environ) if args.part == "auto" else fraction(args.part)
    with gathered(args.source, args, say) as (collection, reading):
        out = out or Path("data") / collection.name
        if args.part == "auto":
            out = out.with_name(f"{out.name}.part-{part[0]}")
        options = Options(
            tokenizer=args.tokenizer, vocab_size=args.vocab_size,
            end_of_text=args.end_of_text, chat_template=args.chat_template, split=args.split,
            val=tuple(args.val),
            val_fraction=getattr(args, "val_fraction", 0.1),
            shard_tokens=args.shard_tokens, distinct=args.distinct,
            skip_unreadable=args.skip_unreadable, part=part,
            workers=args.workers, reading=reading,
        )  # fmt: skip
        replacing = dependents.guard(out, fresh=args.fresh, say=say)
        if args.stream:
            return prepare_stream(
                collection, out, options, shards=args.stream_shards,
                timeout_s=args.stream_timeout, fresh=args.fresh, replacing=replacing, say=say,
            )  # fmt: skip
        for name in ("stream_shards", "stream_timeout"):
            if getattr(args, name) != parser.get_default(name):
                say(f"--{name} has no effect without --stream")
        return prepare(collection, out, say=say, replacing=replacing, **vars(options))


def fraction(text: str) -> tuple[int, int]:
    """i and N of i/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UsageError(f"part={text} is not i/N", "The first of four parts is 1/4")
    return int(match[1]), int(match[2])


def of_ranks(variables: Mapping[str, str]) -> tuple[int, int]:
    """The part that a process is to do among those that were started with it."""
    for rank, count, first, step in RANKS:
        if rank in variables and count in variables:
            i = number(variables, rank) - number(variables, first, "0")
            return i // max(number(variables, step, "1"), 1) + 1, number(variables, count)
    raise UsageError(
        "part=auto goes by SLURM's or torchrun's variables, and there are none",
        "Start it with srun, in an array of jobs, or give the part: --part 1/4",
    )


def number(variables: Mapping[str, str], name: str, absent: str = "") -> int:
    """The number that a variable has, `absent` where it is not there."""
    value = variables.get(name, absent)
    if not re.fullmatch(r"\d{1,9}", value):
        raise UsageError(
            f"part=auto goes by {name}, and {value!r} is not a number",
            "Give the part itself, such as --part 1/4",
        )
    return int(value)
