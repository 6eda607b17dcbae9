"""argparse as bardlet uses it: --n-layer is --n_layer, and an error names the nearest option."""

from __future__ import annotations

import argparse
from typing import NoReturn

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


def add_reading(parser: Parser) -> None:
    """The options that say how sources are read, for `data.options.gathered`."""
    parser.add_argument(
        "--text_key", default="text", help="JSON key or column of the text, or of its lines"
    )
    parser.add_argument("--text_column", dest="text_key", help="the same; default: its value")
    parser.add_argument("--prompt_key", default="", help="key of a prompt, left out of the loss")
    parser.add_argument("--response_key", default="", help="key of the response to it")
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
