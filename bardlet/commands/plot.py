"""`bardlet plot`: the losses of runs as a picture."""

from __future__ import annotations

from pathlib import Path

from bardlet.commands.parser import Parser, parse
from bardlet.commands.settings import newest_run
from bardlet.errors import DataError, UsageError
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("runs", nargs="*", default=[], help="runs to draw; else the newest")
    parser.add_argument(
        "--out", type=Path, default=Path("loss.png"), metavar="FILE", help="a .png, .svg or .pdf"
    )
    parser.add_argument(
        "--x", default="iterations", choices=("iterations", "tokens", "seconds"), help="axis below"
    )
    parser.add_argument("--log", action="store_true", default=False, help="losses on a log scale")
    parser.add_argument(
        "--smooth", type=float, default=0.02,
        help="part of the run that train losses are averaged over; 0: as they are",
    )  # fmt: skip
    parsed = parse(parser, args)
    if not 0 <= parsed.smooth <= 1:
        raise UsageError(f"smooth={parsed.smooth} must be from 0 to 1")
    from bardlet.report import plot, runs

    if parsed.out.suffix not in plot.KINDS:
        raise UsageError(f"out={parsed.out} must end in {', '.join(plot.KINDS)}")
    folders = runs.named(parsed.runs or [str(newest_run(say))])
    try:
        plot.draw(folders, parsed.out, x=parsed.x, log=parsed.log, smooth=parsed.smooth)
    except OSError as error:
        hint = "Name a file in a folder that is there"
        raise DataError(f"cannot write {parsed.out}: {error.strerror}", hint) from None
    say(f"{parsed.out}: {', '.join(map(str, folders))}")
    return 0
