"""`bardlet demo`: the whole way from text to text, each step a command that the user can repeat.

What is there already is used, or gone on with; nothing is replaced.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bardlet.commands import call, settings
from bardlet.commands.dependents import dataset_of
from bardlet.commands.parser import Parser, parse
from bardlet.config import resolve
from bardlet.errors import BardletError
from bardlet.io.atomic import sha256
from bardlet.io.safe_read import read_json
from bardlet.io.terminal import say
from bardlet.run import run_folder

CORPUS, PRESET = "tinyshakespeare", "demo"
NEXT = """
All in {seconds:.0f} s. Go on with:
  bardlet sample {run} --start "ROMEO:" --num_samples=1  # more text
  bardlet eval {run}                                     # its loss on all of val
  bardlet inspect {run}                                  # what was saved
  bardlet report                                            # its curves, as a page
  bardlet train shakespeare-char                            # a better model, in minutes
  bardlet prepare MY_TEXTS --out data/mine                  # your own text, then
  bardlet train demo --dataset=mine --out_dir=out/mine"""


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "--file", type=Path, help="the text; default: Shakespeare's plays are fetched"
    )
    parsed = parse(parser, args)
    return demo(getattr(parsed, "file", None), call)


def demo(file: Path | None, command: Callable[[Sequence[str]], int]) -> int:
    """Prepare, train and sample through `command`, the command line's entry; return its code.

    Each step is printed before it runs; the first that fails ends the demo with its exit code.
    """
    began = time.perf_counter()
    data = next(d for d in numbered(Path("data", CORPUS)) if not is_there(d) or fits(d, file))
    if is_there(data):
        say(f"using the dataset that is there: {data}")
    else:
        named = [] if data.name == CORPUS else ["--out", str(data)]
        text = ["--file", str(file)] if file else []
        if code := step(command, ["prepare", CORPUS, *text, *named]):
            return code
    tokens = read_json(data / "manifest.json").get("hash") if is_there(data) else None
    out = next(r for r in numbered(Path("out", PRESET)) if state_of(r, tokens) != "another")
    if state_of(out, tokens) == "finished":
        say(f"using the run that is there, which is finished: {out}")
    else:
        dataset = [] if data.name == CORPUS else [f"--dataset={data}"]
        named = [] if out.name == PRESET else [f"--out_dir={out}"]
        if code := step(command, ["train", PRESET, *dataset, *named]):
            return code
    if code := step(command, ["sample", str(out), "--num_samples=2", "--max_new_tokens=400"]):
        return code
    say(NEXT.format(seconds=time.perf_counter() - began, run=out))
    return 0


def step(command: Callable[[Sequence[str]], int], args: list[str]) -> int:
    """Print a command, run it, and return its exit code."""
    say(f"\n$ bardlet {shlex.join(args)}")
    return command(args)


def numbered(folder: Path) -> Any:
    """The folder, and others beside it: NAME, NAME-2, NAME-3 and so on."""
    return (folder.with_name(folder.name + f"-{i}" * (i > 1)) for i in itertools.count(1))


def is_there(data: Path) -> bool:
    """Whether there is a dataset of ours with a manifest that can be read."""
    try:
        return isinstance(read_json(data / "manifest.json"), dict)
    except (OSError, ValueError):
        return False


def fits(data: Path, file: Path | None) -> bool:
    """Whether a dataset is of the text that the demo is to use: of any, where none is named."""
    try:
        sources = read_json(data / "manifest.json").get("sources")
        return file is None or [s.get("sha256") for s in sources] == [sha256(file)]
    except (OSError, ValueError, AttributeError, TypeError):
        return file is None


def state_of(out: Path, tokens: str | None) -> str:
    """What of the demo is in a run's folder: "nothing", "begun", "finished", or "another" run.

    A finished run on these tokens is the demo's whatever its options; one that is not is the demo's
    only with the preset's own.
    """
    try:
        folders = run_folder.checkpoints(out)
        if not folders:
            return "nothing"
        if [ref.hash for ref in dataset_of(out)] != [tokens]:
            return "another"
        if run_folder.finished(folders[-1]):
            return "finished"
        preset = resolve(settings.load_layers(PRESET, lambda: "cpu"))
        options = dict(run_folder.saved_options(out) or {})
        same = all(
            options.get(name, value) == value
            for name, value in vars(preset).items()
            if name not in ("out_dir", "dataset")
        )
        return "begun" if same else "another"
    except BardletError:
        return "another"
