"""Text that others wrote, on the user's terminal: shown, and not obeyed.

A terminal takes orders from the text that it shows: to clear the screen, to change its title, to
answer as if the user had typed. Samples, vocabularies, names of files and error messages can hold
such text. On a terminal they appear with the orders spelt out; into pipes and files go exact bytes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# All controls but tab and new line, C1 too, and what makes text appear in another order than it
# has. The marks that right-to-left scripts need are not among them.
ORDERS = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F),
          *range(0x2066, 0x206A)]  # fmt: skip
Progress = bool | Callable[[str], None]  # see `progress_to`
SPELT = {c: f"\\x{c:02x}" if c < 0x100 else f"\\u{c:04x}" for c in ORDERS}


def shown(text: str, stream: Any) -> str:
    """The text as it may be written to `stream`: for a terminal, with orders spelt out."""
    return text.translate(SPELT) if stream.isatty() else text


class Listener:
    """Who gets the lines for people in place of the terminal; None: the terminal does."""

    take: Callable[[str], None] | None = None


@contextlib.contextmanager
def progress_to(progress: Progress) -> Iterator[None]:
    """A context in which all threads' lines for people go to `progress`, without bars.

    True is the terminal, as a command has it; False is nowhere.
    """
    before = Listener.take
    if progress is not True:
        Listener.take = progress or (lambda line: None)
    try:
        yield
    finally:
        Listener.take = before


def say(line: str) -> None:
    """Print a line for people on stderr; without a word where nobody is there to read it."""
    if Listener.take:
        Listener.take(line)
        return
    with contextlib.suppress(OSError):  # of a terminal that was closed, or a pipe
        # spelt out here too: a live progress bar puts itself between this and the guarded stream
        print(shown(line, sys.stderr), file=sys.stderr, flush=True)


def log(line: str) -> None:
    """Print a line of a run's log on stdout where that is a file or a pipe, else on stderr.

    A reader that leaves, or a full disk, ends no run: the rest of the log goes to stderr.
    """
    out = sys.stdout
    if Listener.take or out is None or out.isatty():
        return say(line)
    try:
        print(line, file=out, flush=True)
    except OSError as error:
        # what is buffered must not fail again at exit
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        sys.stdout = None  # pyright: ignore[reportAttributeAccessIssue]
        say(f"warning: standard output: {error.strerror}; the log goes on here")
        say(line)


def at_once(line: str) -> None:
    """Write a line on stderr from a signal's handler, which may have interrupted a print."""
    if Listener.take:
        Listener.take(line)
        return
    with contextlib.suppress(AttributeError, OSError, ValueError):
        # on a terminal over the progress bar, which draws itself again below
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        os.write(sys.stderr.fileno(), f"{start}{line}\n".encode())


class Shown:
    """A stream to a terminal that spells out orders in whatever is written to it."""

    def __init__(self, stream: Any) -> None:
        self.beneath = stream

    def write(self, text: str) -> int:
        self.beneath.write(shown(text, self.beneath))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)


def live_bar(*columns: str) -> Any:
    """A progress bar of rich on stderr, not yet started; None where lines do not go to a terminal.

    A column is "bar", "bytes", "speed" or "time left", or the format of a text.
    """
    if Listener.take or not sys.stderr.isatty():
        return None
    from rich import progress
    from rich.console import Console

    kinds: dict[str, Callable[[], progress.ProgressColumn]] = {
        "bar": lambda: progress.BarColumn(bar_width=None), "bytes": progress.DownloadColumn,
        "speed": progress.TransferSpeedColumn, "time left": progress.TimeRemainingColumn,
    }  # fmt: skip
    built = [kinds[column]() if column in kinds else column for column in columns]
    # the bar's own orders are meant, and must reach the terminal
    return progress.Progress(*built, console=Console(file=beneath(sys.stderr)), transient=True)


def beneath(stream: Any) -> Any:
    """The terminal itself, for those whose orders are meant, as a progress bar's are."""
    return stream.beneath if isinstance(stream, Shown) else stream


def use_utf8(stream: Any) -> None:
    """Use UTF-8 on Windows, as files do everywhere, for a stream that is not a terminal."""
    if sys.platform == "win32" and hasattr(stream, "reconfigure") and not stream.isatty():
        stream.reconfigure(encoding="utf-8")


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """A context in which all that is printed is shown, and not obeyed."""
    before = sys.stdout, sys.stderr
    use_utf8(sys.stdin)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as without a console on Windows
            continue
        use_utf8(stream)
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            # a character that its encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")
        if stream.isatty():
            setattr(sys, name, Shown(stream))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
