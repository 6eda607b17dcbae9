"""`bardlet tokenizer`: make a tokenizer, compare some, and see what one does to a text."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from bardlet.commands.parser import SOURCE, Parser, add_reading, parse
from bardlet.commands.settings import newest_folder
from bardlet.errors import DataError, UsageError
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.data.tokenizers.base import Tokenizer

ACTIONS = {
    "train": "make a tokenizer for a text and write its tokenizer.json",
    "encode": "print the ids of a text",
    "decode": "print the text of ids",
    "compare": "measure tokenizers on your own text, and recommend one",
}
TOKENIZER = (
    "byte, gpt2, a tokenizer.json, .model, .tiktoken or vocab.json, a folder with one or of a "
    "dataset, run or checkpoint, a tiktoken encoding, or OWNER/NAME on the hub"
)
SHOWN = 200  # tokens
DEFAULT = "that of the newest dataset in data/, else gpt2"

HOLDERS = ("manifest.json", "model.safetensors", "config.json")  # beside a file of what is theirs


def run(parser: Parser, args: list[str]) -> int:
    rows = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.usage = f"{parser.prog} {'|'.join(ACTIONS)} [options]"
    parser.epilog = rows
    if not args or args[0] not in ACTIONS:
        parser.parse_known_args(args)  # --help
        problem = f"{args[0]!r} is not one of" if args else "say which of"
        raise UsageError(f"{problem} {', '.join(ACTIONS)}", f"`{parser.prog} --help` lists them")
    action = Parser(prog=f"{parser.prog} {args[0]}", description=ACTIONS[args[0]])
    action.add_argument("--json", action="store_true", default=False, help="machine-readable")
    return {"train": train, "encode": encode, "decode": decode, "compare": compare}[args[0]](
        action, args[1:]
    )


def train(parser: Parser, args: list[str]) -> int:
    parser.add_argument("source", nargs="+", help=SOURCE)
    parser.add_argument("--out", type=Path, default=Path("tokenizer.json"), help="file to write")
    parser.add_argument("--tokenizer", choices=("bpe", "char"), default="bpe", help="default bpe")
    parser.add_argument("--vocab_size", type=int, default=0, help="default: as fits the text")
    parser.add_argument(
        "--special_tokens", action="append", default=[],
        help="of bpe, tokens that no text is encoded to, with commas between: <|user|>,<|bot|>",
    )  # fmt: skip
    add_reading(parser)
    parsed = parse(parser, args)
    from bardlet.data.prepare.options import Options, gathered
    from bardlet.data.prepare.survey import learnt
    from bardlet.data.tokenizers import factory
    from bardlet.io.atomic import write_text

    names = [name for text in parsed.special_tokens for name in text.split(",")]
    if names and parsed.tokenizer != "bpe":
        raise UsageError("--special_tokens is for --tokenizer bpe", "Characters have their own")
    check_out(parsed.out)
    with gathered(parsed.source, parsed, say) as (collection, reading):
        if any(
            i.path and parsed.out.exists() and parsed.out.samefile(i.path)
            for i in collection.inputs
        ):
            raise UsageError(f"{parsed.out} is the text itself", "Name another file with --out")
        options = Options(
            tokenizer=parsed.tokenizer, reading=reading,
            vocab_size=parsed.vocab_size and parsed.vocab_size - len(names),
            skip_unreadable=parsed.skip_unreadable,
        )  # fmt: skip
        tokenizer = learnt(collection, options, say)
    if names:
        tokenizer = factory.with_special(tokenizer, names)
    try:
        write_text(parsed.out.resolve(), tokenizer.to_json())
    except OSError as error:
        raise DataError(f"cannot write {parsed.out}: {error.strerror or error}") from None
    result = {
        "tokenizer": str(parsed.out),
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
    }
    line = f"{parsed.out}: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens"
    print(json.dumps(result) if parsed.json else line)
    return 0


def check_out(out: Path) -> None:
    """Raise DataError where a file cannot be written: known before all is read."""
    problem = ""
    if out.is_dir():
        problem = "it is a folder"
    elif out.exists() and not out.is_file():  # a device, which a file must not replace
        problem = "it is not a regular file"
    elif not out.parent.is_dir():
        problem = "there is no such folder"
    elif any((out.resolve().parent / name).is_file() for name in HOLDERS):
        problem = "a dataset or a model is there, whose tokens the file explains"
    if problem:
        raise DataError(f"cannot write {out}: {problem}", "Name a file with --out")


def parse_with_tokenizer(parser: Parser, args: list[str], what: str) -> Namespace:
    """The arguments of an action on `what`.

    A remark where a word is a file: it is neither read nor taken for the tokenizer.
    """
    parser.add_argument(what, nargs="*", default=[], help="default: standard input")
    parser.add_argument("--tokenizer", default=None, help=f"{TOKENIZER}; default {DEFAULT}")
    parsed = parse(parser, args)
    # os.path takes a text of any length for no file, where pathlib raises
    file = next((word for word in getattr(parsed, what) if os.path.isfile(word)), None)  # noqa: PTH113
    if file:
        say(
            f"{file} is a file, and its name is taken as {what}: --tokenizer {file} takes it for "
            f"the tokenizer, < {file} reads the {what} from it"
        )
    return parsed


def opened(name: str | None) -> Tokenizer:
    """The tokenizer of this name; without one that of the newest dataset, else GPT-2's."""
    from bardlet.data.dataset.folder import Dataset
    from bardlet.data.tokenizers import factory

    if name is not None:
        return factory.existing(name, say)
    newest = newest_folder(Path("data"), "manifest.json")
    if newest is None:
        say("no --tokenizer, and no dataset in data/: taking gpt2")
        return factory.existing("gpt2", say)
    say(f"no --tokenizer: taking that of the newest dataset, {newest}")
    return Dataset(newest).tokenizer


def encode(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "--allow_special", action="store_true", default=False,
        help="a special token's name in the text is the token; else it is text",
    )  # fmt: skip
    parsed = parse_with_tokenizer(parser, args, "text")
    from bardlet.data.tokenizers.base import encode_with_special
    from bardlet.data.tokenizers.coverage import losses

    tokenizer = opened(parsed.tokenizer)
    text = " ".join(parsed.text) if parsed.text else standard_input()
    allowed = parsed.allow_special
    encoded = encode_with_special(tokenizer, text) if allowed else tokenizer.encode(text)
    ids = encoded.tolist()
    tokens = [tokenizer.tokens()[i].decode("utf-8", "backslashreplace") for i in ids]
    for line in losses(tokenizer, text):
        say(line)
    if parsed.json:
        print(json.dumps({"ids": ids, "tokens": tokens}))
    else:
        shown = [json.dumps(token, ensure_ascii=False) for token in tokens[:SHOWN]]
        say(" ".join(shown) + " ..." * (len(tokens) > SHOWN))
        print(*ids)
    return 0


def decode(parser: Parser, args: list[str]) -> int:
    parsed = parse_with_tokenizer(parser, args, "ids")
    tokenizer = opened(parsed.tokenizer)
    words = words_of(" ".join(parsed.ids) if parsed.ids else standard_input())
    known = range(tokenizer.vocab_size)
    if wrong := [w for w in words if not w.isdecimal() or len(w) > 20 or int(w) not in known]:
        raise UsageError(
            f"{wrong[0]!r} is not an id", f"Ids are numbers from 0 to {tokenizer.vocab_size - 1:,}"
        )
    text = tokenizer.decode([int(word) for word in words])
    print(json.dumps({"text": text}) if parsed.json else text)
    return 0


def words_of(text: str) -> list[str]:
    """The ids in what `encode` prints, as words: a line of numbers, or JSON with or without a list
    of its own.
    """
    try:
        document = json.loads(text)
        ids = document["ids"] if isinstance(document, dict) else document
        if isinstance(ids, list):
            return [str(i) for i in ids]
    except (ValueError, KeyError, RecursionError):
        pass
    return text.replace(",", " ").split()


def compare(parser: Parser, args: list[str]) -> int:
    parser.add_argument("source", nargs="+", help=f"{SOURCE}; each is measured by itself, too")
    parser.add_argument(
        "--tokenizers", default="char,byte,bpe,gpt2",
        help="with commas between: char, bpe, or what `bardlet tokenizer encode` takes",
    )  # fmt: skip
    parser.add_argument("--vocab_size", type=int, default=0, help="of bpe; default: as fits")
    add_reading(parser)
    parsed = parse(parser, args)
    names = [name.strip() for name in parsed.tokenizers.split(",") if name.strip()]
    if not names:
        raise UsageError("--tokenizers names none", "Give some, with commas between")
    from bardlet.data.prepare.options import Options, gathered
    from bardlet.data.prepare.survey import text_of
    from bardlet.data.tokenizers import compare, factory

    factory.check_size("bpe", parsed.vocab_size)
    texts = {}
    for source in parsed.source:
        try:
            with gathered([source], parsed, say) as (collection, reading):
                options = Options(reading=reading, skip_unreadable=parsed.skip_unreadable)
                texts[source] = text_of(collection, options, compare.MAX_CHARACTERS, say)
        except DataError as error:
            if not parsed.skip_unreadable:
                raise
            say(f"left out: {source}: {error.message}")
    if not texts:
        raise DataError("no source could be read", "Give one with some text in it")
    result = compare.compare(names, texts, vocab_size=parsed.vocab_size, say=say)
    print(json.dumps(result) if parsed.json else compare.table(result))
    return int(all("problem" in row for row in result["tokenizers"]))


def standard_input() -> str:
    """The text on standard input as `prepare` reads it; DataError where there is none."""
    from bardlet.data.text import decoding

    if sys.stdin is None:
        raise DataError("standard input is closed", "Give the text or the ids as arguments")
    try:
        return decoding.decode(sys.stdin.buffer.read(), "standard input", "utf-8", "strict")
    except DataError as error:  # its hint is of options that are not here
        raise DataError(error.message) from None
