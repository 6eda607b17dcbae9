"""`bardlet demo`: its one option, and the command line for its steps."""

from __future__ import annotations

from pathlib import Path

from bardlet.arguments import Parser, parse
from bardlet.commands import call
from bardlet.demo import demo


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("--file", type=Path, help="the text, instead of fetching Shakespeare")
    given = parse(parser, args)
    return demo(getattr(given, "file", None), call)
