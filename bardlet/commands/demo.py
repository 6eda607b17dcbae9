"""`bardlet demo`: the whole way from text to text, each step a command that the user can repeat."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bardlet.commands import call
from bardlet.commands.parser import Parser, parse

RUN = "out/demo"
NEXT = """
All in {seconds:.0f} s. Go on with:
  bardlet sample {run} --start "ROMEO:" --num_samples=1   # more text
  bardlet eval {run}                                      # its loss on all of val
  bardlet inspect {run}                                   # what was saved
  bardlet train shakespeare-char                            # a better model, in minutes
  bardlet prepare MY_TEXTS --out data/mine                  # your own text, then
  bardlet train demo --dataset=mine --out_dir=out/mine"""


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("--file", type=Path, help="the text, instead of fetching Shakespeare")
    parsed = parse(parser, args)
    return demo(getattr(parsed, "file", None), call)


def demo(file: Path | None, command: Callable[[Sequence[str]], int]) -> int:
    """Prepare, train and sample through `command`, the command line's entry; return its code.

    Each step is printed before it runs; the first that fails ends the demo with its exit code.
    """
    began = time.perf_counter()
    steps = [
        ["prepare", "tinyshakespeare", *(["--file", str(file)] if file else [])],
        ["train", "demo", "--fresh"],
        ["sample", RUN, "--num_samples=2", "--max_new_tokens=400"],
    ]
    for step in steps:
        print(f"\n$ bardlet {shlex.join(step)}", file=sys.stderr, flush=True)
        code = command(step)
        if code:
            return code
    print(NEXT.format(seconds=time.perf_counter() - began, run=RUN), file=sys.stderr)
    return 0
