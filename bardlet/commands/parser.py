"""argparse as bardlet uses it: --n-layer is --n_layer, and an error names the nearest option."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from bardlet.config import unknown_option
from bardlet.errors import UsageError

SOURCE = (
    "named corpus (tinyshakespeare, ...), file, folder, glob, - for standard input, or "
    "hf://DATASET[:CONFIG][:SPLIT]"
)
FORMAT = (
    "text, jsonl, json, csv or parquet, whatever a file is called; default: by its ending, else "
    "text if it is text, and JSON where a file that is named or standard input begins as JSON"
)
EXT = "endings of the files to read of folders and archives, such as .txt,.md; default: all text"


class Formatter(argparse.HelpFormatter):
    """Help in which every option has its default, unless its text says what happens without it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not action.option_strings or "default" in text or action.dest == "help":
            return text
        if isinstance(action, argparse._StoreTrueAction):
            return f"{text} (default off)"
        if action.default in (argparse.SUPPRESS, None, "") or action.default == []:
            return f"{text} (default: none)"
        return f"{text} (default {str(action.default).replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors, and which leaves out what was not given."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=Formatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"`{self.prog} --help` lists the options")


def underscored(arg: str) -> str:
    """--n-layer=4 as --n_layer=4: one spelling inside."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def parse(parser: Parser, args: list[str]) -> argparse.Namespace:
    """Parse, naming every unknown option at once with the nearest one there is."""
    known, unknown = split_unknown(parser, args)
    if unknown:
        names = [s[2:] for s in parser._option_string_actions if s.startswith("--")]
        parser.error("; ".join(unknown_option(name, names) for name in unknown))
    return parser.parse_args(known)


def from_keywords(
    parser: Parser, positional: list[str], options: Mapping[str, Any]
) -> argparse.Namespace:
    """What `parse` returns for the same options as Python values; None is one that was not given.

    Raises UsageError for an option that there is not, naming the nearest, or of another type.
    """
    actions = {a.dest: a for a in parser._actions if a.option_strings and a.dest != "help"}
    if unknown := [name for name in options if name not in actions]:
        parser.error("; ".join(unknown_option(name, actions) for name in unknown))
    args = parser.parse_args(["--", *positional])
    for name, value in options.items():
        if value is not None:
            setattr(args, name, converted(actions[name], value))
    return args


def converted(action: argparse.Action, value: Any) -> Any:
    """A value as the option's flag would leave it; UsageError for one of another type."""
    if isinstance(action, argparse._StoreTrueAction):
        if not isinstance(value, bool):
            raise UsageError(f"{action.dest}={value!r} is not True or False")
        return value
    several = isinstance(action, argparse._AppendAction) or action.nargs == "+"
    if several and isinstance(value, list | tuple):
        return [one(action, each) for each in value]
    return [one(action, value)] if several else one(action, value)


def one(action: argparse.Action, value: Any) -> Any:
    """A single value in the option's type."""
    if action.type in (int, float):
        kinds = (int, float) if action.type is float else int
        if isinstance(value, kinds) and not isinstance(value, bool):
            return action.type(value)
        wanted = "a number" if action.type is float else "a whole number"
        raise UsageError(f"{action.dest}={value!r} is not {wanted}")
    if not isinstance(value, str | os.PathLike):
        wanted = "a path" if action.type is Path else "a text"
        raise UsageError(f"{action.dest}={value!r} is not {wanted}")
    return Path(value) if action.type is Path else os.fspath(value)


def split_unknown(parser: Parser, args: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without the options that the parser does not have, and those with values."""
    known: list[str] = []
    unknown: dict[str, str] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":  # what follows is not an option
            return [*known, arg, *rest], unknown
        name, equals, value = arg.partition("=")
        if not arg.startswith("--") or name in parser._option_string_actions:
            known.append(arg)
        else:
            follows = bool(rest) and not equals and not rest[0].startswith("--")
            unknown[name[2:]] = rest.pop(0) if follows else value or "true"
    return known, unknown


def add_run(parser: Parser) -> None:
    """The options that choose a trained model and the machine for it."""
    parser.add_argument("run", nargs="?", default=None, help="run or checkpoint; else the newest")
    parser.add_argument("--out_dir", default=None, help="nanoGPT's name for it; default: none")
    parser.add_argument(
        "--init_from", default=None,
        help="nanoGPT's choice: resume (default) is the run in out_dir; else a model such as gpt2",
    )  # fmt: skip
    parser.add_argument("--checkpoint", default="best", help="best (default), last or iter-...")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")


def add_formats(parser: Parser) -> None:
    """The options that choose the formats of weights and of the KV cache."""
    parser.add_argument(
        "--weights", default="auto",
        help="format of weights: auto, float32, bfloat16, int8, int4; the fewer bits, the sooner "
        "they are read for each token",
    )  # fmt: skip
    parser.add_argument(
        "--cache", default="auto",
        help="format of keys and values: auto (as --dtype), int8; many texts come sooner",
    )  # fmt: skip


def add_draft(parser: Parser) -> None:
    """The option that chooses what guesses."""
    parser.add_argument(
        "--draft", default="", metavar="RUN",
        help="a smaller model of the same vocabulary, or lookup: guesses that this one verifies "
        "several at once; no token changes, and one text at a time comes sooner",
    )  # fmt: skip


def add_reading(parser: Parser) -> None:
    """The options that say how sources are read, for `data.options.gathered`."""
    parser.add_argument(
        "--text_key", default="text", help="JSON key or column of the text, or of its lines"
    )
    parser.add_argument("--text_column", dest="text_key", help="the same; default: its value")
    parser.add_argument("--prompt_key", default="", help="key of a prompt, left out of the loss")
    parser.add_argument("--response_key", default="", help="key of the response to it")
    parser.add_argument(
        "--messages_key", default="",
        help="key of a conversation: a list of turns with role and content, or from and value; "
        "default: messages, conversations, or instruction with output, where records have them; "
        "chosen,rejected: keys of two answers, of which the first is preferred",
    )  # fmt: skip
    parser.add_argument(
        "--document_separator",
        help="of plain text: a line such as <|endoftext|>, blank (an empty line), line (each one)",
    )
    parser.add_argument("--format", default="", help=FORMAT)
    parser.add_argument("--ext", default="", help=EXT)
    parser.add_argument("--normalize", default="", help="nfc, nfd, nfkc or nfkd: form of Unicode")
    parser.add_argument("--encoding", default="utf-8", help="of the text; default utf-8")
    parser.add_argument("--errors", default="strict", help="replace: go on at bad bytes")
    parser.add_argument("--skip_unreadable", action="store_true", default=False, help="go on")
    parser.add_argument("--sample", default="0", help="of a data set on the hub, such as 100M")
