"""`bardlet report`: runs as curves, served while they train, or as one file to hand on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from bardlet.commands.parser import Parser, parse
from bardlet.errors import DataError, UsageError
from bardlet.io.terminal import say

OUT = Path("out")


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("runs", nargs="*", default=[], help="runs; default: all in and below out/")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="FILE",
        help="write one self-contained HTML file; default: serve the page on this machine, live",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8001, help="to serve at; 0: any that is free")
    parsed = parse(parser, args)
    if not 0 <= parsed.port < 65536:
        raise UsageError(f"port={parsed.port} must be from 0 to 65535")
    if parsed.out is not None and not parsed.out.name:
        raise UsageError(f"out={parsed.out} is not the name of a file", "Write --out report.html")
    from bardlet.report import runs

    named = runs.named(parsed.runs)
    if parsed.out is not None:
        write(named or list(runs.find(OUT)), parsed.out)
        return 0
    serve(named, parsed.port)
    return 0


def write(folders: list[Path], path: Path) -> None:
    """Write the page of some runs as one file. DataError where there is none, or no room."""
    from bardlet.io.atomic import write_text
    from bardlet.report import site
    from bardlet.report.runs import Run
    from bardlet.report.trained_on import Background

    if not folders:
        raise DataError(f"there are no runs in {OUT}/", "`bardlet demo` makes one, or name others")
    background = Background(wait=True)
    newest_first = sorted((Run(f, background) for f in folders), key=lambda r: -r.modified())
    title = f"bardlet: {', '.join(run.folder.name for run in newest_first[:4])}"
    text = site.file(newest_first, title + ", ..." * (len(folders) > 4))
    try:
        write_text(path, text)
    except OSError as error:
        hint = "Name a file in a folder that is there, such as report.html"
        raise DataError(f"cannot write {path}: {error.strerror}", hint) from None
    size = len(text.encode("utf-8", "replace"))
    say(f"{path}: {len(folders)} run{'s' * (len(folders) > 1)}, {size / 1000:,.0f} kB")


def serve(named: list[Path], port: int) -> None:
    """Serve the page until Ctrl-C; runs that are begun meanwhile appear on it."""
    from bardlet.report import runs, site

    def folders() -> Iterable[Path]:
        return named or runs.find(OUT)

    try:
        server = site.server(site.Site(folders), port)
    except OSError as error:
        hint = "Name another with --port, 0 for any that is free"
        raise UsageError(f"cannot listen on port {port}: {error.strerror}", hint) from None
    what = ", ".join(map(str, named)) or f"all runs in {OUT}/"
    say(f"{what} at http://127.0.0.1:{server.server_address[1]}/runs; Ctrl-C ends it")
    with contextlib.closing(server.socket), contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
