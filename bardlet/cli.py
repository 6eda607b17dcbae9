"""The command line: parse, call, and turn errors into one line and an exit code.

Each command is imported when it runs: `bardlet --help` loads nothing heavy. Results go to stdout,
everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bardlet
from bardlet.arguments import Parser, parse, split_unknown, underscored
from bardlet.errors import BardletError, UsageError

COMMANDS = {
    "demo": "prepare Shakespeare, train a small GPT on it and sample, in about a minute",
    "prepare": "turn text into a dataset folder",
    "train": "train a model, or go on training one",
    "sample": "write text with a trained model",
    "eval": "measure a model's loss on a whole split",
    "inspect": "describe a dataset, a run or a checkpoint",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    args = [underscored(a) for a in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    warnings.showwarning = show_warning
    # Read when torch loads. By default OpenMP's threads spin for each other so long that on a
    # machine with other work a step takes tens of times its time (docs/log.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return dispatch(args)
    except BardletError as error:
        return failed(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return failed("interrupted", 130, debug)
    except BrokenPipeError:
        # the reader has gone; what Python flushes at exit must not fail as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return failed(explain(error), 1, debug)


def dispatch(args: list[str]) -> int:
    """Run the command that the arguments name."""
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"bardlet {bardlet.__version__}")
        return 0
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Commands are {', '.join(COMMANDS)}"
        raise UsageError(f"no command {args[0]!r}", hint)
    parser = Parser(prog=f"bardlet {args[0]}", description=COMMANDS[args[0]])
    return globals()[f"{args[0]}_command"](parser, args[1:])


def overview() -> str:
    """What `bardlet --help` prints."""
    rows = "\n".join(f"  {name:<8} {text}" for name, text in COMMANDS.items())
    return (
        "usage: bardlet COMMAND [options]\n\nTrain a GPT from raw text on your machine.\n\n"
        f"{rows}\n\n`bardlet COMMAND --help` lists a command's options; --n_layer=4 and "
        "--n-layer 4 are the same.\n--version prints the version, --debug shows tracebacks."
    )


def prepare_command(parser: Parser, args: list[str]) -> int:
    parser.add_argument("source", help="named corpus (tinyshakespeare), file, folder, or - ")
    parser.add_argument("--out", type=Path, help="dataset folder; default data/<name>")
    parser.add_argument("--file", type=Path, help="take a named corpus from this file")
    parser.add_argument("--tokenizer", default="char", help="char: a token per character")
    parser.add_argument("--val_fraction", type=float, default=0.1, help="part for validation")
    parser.add_argument("--encoding", default="utf-8", help="of the text; default utf-8")
    parser.add_argument("--errors", default="strict", help="replace: go on at bad bytes")
    parser.add_argument("--shard_tokens", type=int, default=10**8, help="tokens in a shard")
    parser.add_argument("--json", action="store_true", default=False, help="print the manifest")
    given = parse(parser, args)
    from bardlet.data import corpus
    from bardlet.data.prepare import prepare
    from bardlet.inspection import describe_dataset

    reading = {"encoding": given.encoding, "errors": given.errors, "say": say}
    text = corpus.load(given.source, file=getattr(given, "file", None), **reading)
    for note in text.notes:
        say(note)
    out = getattr(given, "out", None) or Path("data") / text.name
    dataset = prepare(
        text, out, tokenizer=given.tokenizer, val_fraction=given.val_fraction,
        shard_tokens=given.shard_tokens,
    )  # fmt: skip
    print(json.dumps(dataset.manifest) if given.json else describe_dataset(dataset))
    return 0


def train_command(parser: Parser, args: list[str]) -> int:
    from bardlet import config, config_file

    parser.usage = "bardlet train [PRESET | FILE.toml | FILE.py ...] [--option=value ...]"
    parser.epilog = "presets: " + ", ".join(config_file.preset_names())
    parser.add_argument("base", nargs="*", default=[], help="presets or files, later ones win")
    parser.add_argument("--resume", action="store_true", help="short for --init_from=resume")
    group: Any = parser
    for name, field in config.FIELDS.items():
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        text = f"{field.metadata['help']} (default {field.default})".replace("%", "%%")
        bare = {"nargs": "?", "const": "true"} if field.type == "bool" else {}
        choices = "{" + ",".join(map(str, field.metadata["choices"])).lower() + "}"
        metavar = choices if field.metadata["choices"] else field.type.split(" ")[0].upper()
        group.add_argument(f"--{name}", metavar=metavar, help=text, **bare)
    known, unknown = split_unknown(parser, args)
    flags = vars(parser.parse_args(known))
    bases = flags.pop("base")
    if flags.pop("resume", False):
        flags["init_from"] = "resume"
    settings = config_file.settings(bases, {**flags, **unknown}, say)

    from bardlet.train import train

    result = train(settings)
    if result.stopped:
        return 130
    if os.environ.get("RANK", "0") == "0":
        say(f"best val loss {result.best_val_loss:.4f}; training took {result.train_s:.1f} s")
        if not settings.eval_only:
            say(f"write text with it: bardlet sample {settings.out_dir}")
    return 0


def sample_command(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("--start", help="text to go on from, or FILE:path; default a new line")
    parser.add_argument("--num_samples", type=int, default=10, help="texts to write")
    parser.add_argument("--max_new_tokens", type=int, default=500, help="tokens in each")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument(
        "--top_k", type=int, default=200, help="likeliest tokens drawn from; 0: all"
    )
    parser.add_argument("--seed", type=int, default=1337, help="of the random choices")
    given = parse(parser, args)
    from bardlet.config_file import newest_run
    from bardlet.writing import write

    run = Path(given.run or given.out_dir or newest_run(say))
    write(
        run=run, which=given.checkpoint, start=getattr(given, "start", None), seed=given.seed,
        num_samples=given.num_samples, max_new_tokens=given.max_new_tokens,
        temperature=given.temperature, top_k=given.top_k,
        device_name=given.device, dtype=given.dtype, as_json=given.json, say=say,
    )  # fmt: skip
    return 0


def eval_command(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("--dataset", help="default: the one it was trained on")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="default val")
    parser.add_argument("--batch_size", type=int, default=16, help="windows at once")
    given = parse(parser, args)
    from bardlet.config_file import newest_run
    from bardlet.inspection import eval_run

    run = Path(given.run or given.out_dir or newest_run(say))
    scores = eval_run(
        run, which=given.checkpoint, dataset=getattr(given, "dataset", None), split=given.split,
        batch_size=given.batch_size, device_name=given.device, dtype=given.dtype,
    )  # fmt: skip
    if given.json:
        print(json.dumps(scores))
    else:
        print(
            "{split} loss {loss:.4f} nats per token, perplexity {perplexity:.4f}, "
            "{bits_per_byte:.4f} bits per byte, over {tokens:,} tokens".format(**scores)
        )
    return 0


def inspect_command(parser: Parser, args: list[str]) -> int:
    parser.add_argument("path", type=Path, help="folder of a dataset, a run or a checkpoint")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    given = parse(parser, args)
    from bardlet.inspection import describe, facts

    found = facts(given.path)
    print(json.dumps(found) if given.json else describe(found))
    return 0


def demo_command(parser: Parser, args: list[str]) -> int:
    parser.add_argument("--file", type=Path, help="the text, instead of fetching Shakespeare")
    given = parse(parser, args)
    from bardlet.demo import demo

    return demo(getattr(given, "file", None), main)


def add_run(parser: Parser) -> None:
    """The options that choose a trained model and the machine for it."""
    parser.add_argument("run", nargs="?", default=None, help="run or checkpoint; else the newest")
    parser.add_argument("--out_dir", default=None, help="nanoGPT's name for it")
    parser.add_argument("--checkpoint", default="best", help="best (default), last or iter-...")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")


def say(line: str) -> None:
    """Print a line for people on stderr."""
    print(line, file=sys.stderr, flush=True)


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
    memory = ("out of memory", "not enough memory", "can't allocate")
    if isinstance(error, MemoryError) or any(words in str(error) for words in memory):
        return "out of memory. Lower --batch_size or --block_size, or take a smaller model"
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or first}"
    return f"internal error, {type(error).__name__}: {first}. `--debug` shows where"
