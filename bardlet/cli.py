"""The command line: parse, call, and turn errors into one line and an exit code.

Each command's module is imported when it runs: `bardlet --help` loads nothing heavy. Results go to
stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import bardlet
from bardlet.commands import COMMANDS, call
from bardlet.commands.parser import underscored
from bardlet.errors import BardletError, is_out_of_memory
from bardlet.io import terminal
from bardlet.io.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    last = args.index("--") if "--" in args else len(args)  # what follows is not an option
    options, rest = [underscored(a) for a in args[:last]], args[last:]
    debug = "--debug" in options
    args = [a for a in options if a != "--debug"] + rest
    warnings.showwarning = show_warning
    relieve_collector()
    # Read when torch loads. By default OpenMP's threads spin for each other so long that on a
    # machine with other work a step takes tens of times its time (docs/log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    with terminal.guarded():
        try:
            return dispatch(args)
        except BardletError as error:
            if error.quiet and not debug:
                return error.exit_code
            return failed(str(error), error.exit_code, debug)
        except KeyboardInterrupt:
            return failed("interrupted", 130, debug)
        except BrokenPipeError:
            # the reader has gone; what Python flushes at exit must not fail as well
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            return failed(explain(error), 1, debug)


def relieve_collector() -> None:
    """Keep Python's collector of cycles from walking over all that torch has, to free nothing.

    It would do so while modules are imported, and again as the process ends: a fifth of a second,
    where the system takes the memory back at once. Here, since a process that only uses the package
    is its user's to tune. Whatever has to happen at the end is registered after this, and so is
    done before the last collection is let off.
    """
    gc.set_threshold(50_000)  # new objects; 700 by default, and torch makes 400,000
    atexit.unregister(gc.freeze)  # of an earlier command of this process
    atexit.register(gc.freeze)


def dispatch(args: list[str]) -> int:
    """Run the command that the arguments name."""
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"bardlet {bardlet.__version__}")
        return 0
    return call(args)


def overview() -> str:
    """What `bardlet --help` prints."""
    rows = "\n".join(f"  {name:<14} {text}" for name, text in COMMANDS.items())
    return (
        "usage: bardlet COMMAND [options]\n\nTrain a GPT from raw text on your machine.\n\n"
        f"{rows}\n\n`bardlet COMMAND --help` lists a command's options; --n_layer=4 and "
        "--n-layer 4 are the same.\n--version prints the version, --debug shows tracebacks."
    )


def show_warning(message: Any, category: Any, *where: Any) -> None:
    """Print a warning as one line, without the place in the source."""
    say(f"warning: {str(message).splitlines()[0]}")


def failed(message: str, code: int, debug: bool) -> int:
    """Print an error and return its exit code."""
    if debug:
        import traceback

        traceback.print_exc()
    say(f"bardlet: {message}")
    return code


def explain(error: Exception) -> str:
    """One line for an error that no part of bardlet expected."""
    first = (str(error).splitlines() or [""])[0]
    if is_out_of_memory(error):
        return "out of memory. Lower --batch_size or --block_size, or take a smaller model"
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or first}"
    return f"internal error, {type(error).__name__}: {first}. `--debug` shows where"
