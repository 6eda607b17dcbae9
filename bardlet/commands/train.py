"""`bardlet train`: the options of a run, resolved and handed to the training loop."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands import settings
from bardlet.commands.eval import best_val_loss
from bardlet.commands.parser import Parser, split_unknown
from bardlet.config import BUILTIN_INIT, FIELDS, TRUTH, TrainConfig
from bardlet.errors import UsageError
from bardlet.io.terminal import log, say

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset
    from bardlet.model import GPT
    from bardlet.train import Replan, Result


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "--checkpoint", default="",
        help="with --resume: go back to this one, best or iter-...; what came after it is kept as "
        "a run of its own (default: the newest)",
    )  # fmt: skip
    config, rest = parse_settings(parser, args)
    result = train_and_show(config, log, rest["checkpoint"], rest.get("pace"))
    from bardlet.system.distributed import here

    if result.stopped:
        return 130
    if here().main:
        best = best_val_loss(config, result.best_val_loss, result.train_s, log)
        log(f"best val loss {best}; training took {result.train_s:.1f} s")
        if not config.eval_only:
            log(f"write text with it: bardlet sample {config.out_dir}")
    return 0


def train_and_show(
    config: TrainConfig, say: Callable[[str], None], checkpoint_name: str = "",
    pace: Replan | None = None,
) -> Result:  # fmt: skip
    """Train as `config` says; where it names a model, with a sample of it before and after.

    `pace` keeps a sized run to its time.
    """
    from bardlet.interop.pretrained_init import load_pretrained
    from bardlet.system.distributed import here
    from bardlet.train import train

    shows = here().main and config.init_from not in BUILTIN_INIT and not config.eval_only

    def shown(config: TrainConfig, dataset: Dataset) -> GPT:
        model = load_pretrained(config, dataset)
        if shows:
            show("before training", config.init_from, config, say)
        return model

    result = train(config, shown, checkpoint_name=checkpoint_name, replan=pace or (lambda *_: None))
    if shows and not result.stopped:
        show("after training", config.out_dir, config, say)
    return result


def show(when: str, run: str, config: TrainConfig, say: Callable[[str], None]) -> None:
    """Print a short sample of a model."""
    from bardlet.commands.sample import write
    from bardlet.serve.model import load

    say(f"a sample {when}:")
    write(
        load(run, device=config.device, dtype=config.dtype), start=None, num_samples=1,
        max_new_tokens=100, options={"seed": config.seed % 2**32}, as_json=False, say=say,
    )  # fmt: skip


def parse_settings(parser: Parser, args: list[str]) -> tuple[TrainConfig, dict[str, Any]]:
    """The run that presets, files and flags ask for; every option of a run is a flag.

    What else the parser has comes back beside it, and the `pace` of a run that was sized.
    """
    others = {action.dest for action in parser._actions}
    parser.usage = f"{parser.prog} [PRESET | FILE.toml | FILE.py ...] [--option=value ...]"
    parser.epilog = "presets: " + ", ".join(settings.preset_names())
    parser.add_argument("base", nargs="*", default=[], help="presets or files, later ones win")
    parser.add_argument("--resume", action="store_true", help="short for --init_from=resume")
    parser.add_argument(
        "--budget", metavar="TIME",
        help="without preset or file: the time that the run is sized for, such as 90s, 10m or 2h "
        "(default 5m); with --resume: how much longer it trains",
    )  # fmt: skip
    group: Any = parser
    for name, field in FIELDS.items():
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        text = f"{field.metadata['help']} (default {field.default})".replace("%", "%%")
        bare = {"nargs": "?", "const": "true"} if field.type == "bool" else {}
        choices = "{" + ",".join(map(str, field.metadata["choices"])).lower() + "}"
        metavar = choices if field.metadata["choices"] else field.type.split(" ")[0].upper()
        group.add_argument(f"--{name}", metavar=metavar, help=text, **bare)
    known, unknown = split_unknown(parser, spelt_out(args))
    flags = vars(parser.parse_args(known))
    bases = flags.pop("base")
    if flags.pop("resume", False):
        flags["init_from"] = "resume"
    budget = flags.pop("budget", None)
    rest = {name: flags.pop(name) for name in others & flags.keys()}
    checkpoint = rest.get("checkpoint", "")
    resumes = flags.get("init_from") == "resume"
    if bases and budget and not resumes:
        raise UsageError(f"budget={budget} sizes a run without preset or file", "Leave one out")
    seconds = seconds_of(budget or "5m")
    unused = budget is not None
    if budget and resumes:
        if bases:  # which say where the run is, and all else is in it
            config = settings.resolve_settings(bases, {**flags, **unknown}, say)
            flags, bases = {**flags, "out_dir": config.out_dir}, []
        flags, rest["pace"] = with_more_time(flags, seconds, say, checkpoint)
        unused = False

    def size(flags: Mapping[str, object]) -> Mapping[str, object]:
        from bardlet.planning.pace import Pace
        from bardlet.planning.sizing import sized
        from bardlet.system.distributed import here

        if here().world_size > 1:
            raise UsageError(
                "a run without preset or file is sized by one process, torchrun started several",
                "Name one: bardlet train writes config.toml, which can be given to all",
            )
        nonlocal unused
        unused = False
        source = str(flags.get("init_from", "scratch"))
        if source not in BUILTIN_INIT:
            from bardlet.interop.pretrained_init import shape_of
            from bardlet.planning.finetuning import finetuned

            options, most = finetuned(flags, shape_of(source), seconds, say)
        else:
            options, most = sized(flags, seconds, say)
        if "max_iters" not in flags:
            rest["pace"] = Pace(budget_s=seconds, max_iters=most, say=log)
        return options

    config = settings.resolve_settings(bases, {**flags, **unknown}, say, size, checkpoint)
    if unused:
        say(
            f"budget={budget} has no effect on the run in {config.out_dir}, which has its size "
            f"already: --resume --budget={budget} trains it for so much longer"
        )
    return config, rest


def with_more_time(
    flags: Mapping[str, Any], seconds: float, say: Callable[[str], None], checkpoint: str
) -> tuple[dict[str, Any], Replan | None]:
    """The flags of a resumed run with max_iters so that it trains for `seconds` from where it is,
    or from a checkpoint, by the time that its last iterations took, and what keeps it to the time.

    UsageError where that is not known.
    """
    from statistics import median

    from bardlet.analysis import history
    from bardlet.planning.pace import Pace
    from bardlet.planning.sizing import TRAINING
    from bardlet.run import run_folder
    from bardlet.system.distributed import here

    if "max_iters" in flags:
        raise UsageError(
            f"max_iters={flags['max_iters']} and a budget both say how long a resumed run trains",
            "Give one of them",
        )
    out = str(flags.get("out_dir") or settings.newest_run(say))
    if not run_folder.is_run(Path(out)):
        raise settings.no_run(out)
    newest = run_folder.newest(Path(out))
    done = run_folder.iter_of(run_folder.find(Path(out), checkpoint) if checkpoint else newest)
    lines = history.read(Path(out)).iters[-100:]
    times = [line["time_ms"] / 1000 for line in lines if line.get("time_ms")]
    if not times:
        raise UsageError(
            f"{out} does not say how long its iterations take", "Give --max_iters a number"
        )
    more = max(1, int(TRAINING * seconds / median(times)))
    say(
        f"{more:,} iterations more, to {done + more:,}: about {seconds:,.0f} s at "
        f"{1000 * median(times):,.1f} ms each"
    )
    # processes that each measured would part
    pace = Pace(budget_s=seconds, max_iters=1 << 62, say=log, start=done)
    alone = here().world_size == 1
    return {**flags, "out_dir": out, "max_iters": done + more}, pace if alone else None


def parse_timed(
    parser: Parser, args: list[str], seconds: float, of: str
) -> tuple[TrainConfig, float, bool]:
    """The run to try out, for how many seconds, and whether the result is wanted as JSON."""
    parser.add_argument("--seconds", type=float, default=seconds, help=of)
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    config, rest = parse_settings(parser, args)
    if not 0 < rest["seconds"] <= 3600:
        raise UsageError(f"seconds={rest['seconds']} must be above 0, and at most 3600")
    return config, rest["seconds"], rest["json"]


def seconds_of(text: str) -> float:
    """The seconds of a time such as 90s, 10m or 1.5h; UsageError for any other text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0
    if not 1 <= seconds <= 3e7:
        raise UsageError(
            f"budget={text} is not a time to train for", "Write 90s, 10m, 2h or 3d; a year at most"
        )
    return seconds


def spelt_out(args: list[str]) -> list[str]:
    """The arguments with `--fresh` as `--fresh=true`, so that it does not swallow a preset."""
    flags = {f"--{name}" for name, field in FIELDS.items() if field.type == "bool"}
    follows = [*args, ""][1:]
    return [
        f"{arg}=true" if arg in flags and after.lower() not in TRUTH else arg
        for arg, after in zip(args, follows, strict=True)
    ]
