"""The options of a run from what was asked for: presets and files, options, a time to train for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands import settings
from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.errors import UsageError
from bardlet.io.terminal import log

if TYPE_CHECKING:
    from bardlet.train import Replan


def configure(
    bases: Sequence[str], flags: Mapping[str, Any], *, budget: str | None, checkpoint: str,
    say: Callable[[str], None],
) -> tuple[TrainConfig, Replan | None]:  # fmt: skip
    """The run that presets or files and options ask for, and what keeps it to a budget.

    `budget` is the time that a run without bases is sized for, or that a resumed one goes on for.
    """
    resumes = flags.get("init_from") == "resume"
    if started_again():
        # the run goes on from its last checkpoint, which has its options, and no longer than it was
        flags = {name: value for name, value in flags.items() if name != "fresh"}
        budget, checkpoint = None if resumes else budget, ""
    if bases and budget and not resumes:
        raise UsageError(f"budget={budget} sizes a run without preset or file", "Leave one out")
    seconds = seconds_of(budget or "5m")
    pace: Replan | None = None
    unused = budget is not None
    if budget and resumes:
        if bases:  # which say where the run is, and all else is in it
            config = settings.resolve_settings(bases, flags, say)
            flags, bases = {**flags, "out_dir": config.out_dir}, []
        flags, pace = with_more_time(flags, seconds, say, checkpoint)
        unused = False

    def size(flags: Mapping[str, object]) -> Mapping[str, object]:
        from bardlet.planning.pace import Pace
        from bardlet.planning.recipe import parts, typed
        from bardlet.planning.sizing import sized
        from bardlet.system.meeting import from_main

        nonlocal unused, pace
        unused = False
        source = str(flags.get("init_from", "scratch"))
        if source not in BUILTIN_INIT:
            from bardlet.interop.pretrained_init import shape_of
            from bardlet.planning.finetuning import finetuned

            chosen = from_main(lambda: finetuned(flags, shape_of(source), seconds, say))
        else:
            chosen = from_main(lambda: sized(flags, seconds, say))
        options, most = chosen
        if "max_iters" not in flags:
            of_stages = parts({**options, **typed(flags)})
            pace = Pace(budget_s=seconds, max_iters=most, say=log, parts=of_stages)
        return options

    config = settings.resolve_settings(bases, flags, say, size, checkpoint)
    if unused:
        say(
            f"budget={budget} has no effect on the run in {config.out_dir}, which has its size "
            f"already: --resume --budget={budget} trains it for so much longer"
        )
    return config, pace


def started_again() -> bool:
    """Whether torchrun has started this process after others, as one failed or a node came."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # and torch needs not be loaded yet
        return False
    from bardlet.system.meeting import restarted

    return restarted()


def with_more_time(
    flags: Mapping[str, Any], seconds: float, say: Callable[[str], None], checkpoint: str
) -> tuple[dict[str, Any], Replan | None]:
    """The flags of a resumed run with max_iters so that it trains for `seconds` from where it is,
    or from a checkpoint, by the time that its last iterations took, and what keeps it to the time.

    UsageError where that is not known.
    """
    from bardlet.planning.pace import Pace
    from bardlet.system.meeting import from_main

    if "max_iters" in flags:
        raise UsageError(
            f"max_iters={flags['max_iters']} and a budget both say how long a resumed run trains",
            "Give one of them",
        )
    out, done, more = from_main(lambda: iterations_for(flags, seconds, say, checkpoint))
    pace = Pace(budget_s=seconds, max_iters=1 << 62, say=log, start=done)
    return {**flags, "out_dir": out, "max_iters": done + more}, pace


def iterations_for(
    flags: Mapping[str, Any], seconds: float, say: Callable[[str], None], checkpoint: str
) -> tuple[str, int, int]:
    """The folder of the run that `flags` resume, its iterations, and as many more as `seconds`
    are, by the time that its last ones took.
    """
    from statistics import median

    from bardlet.analysis import history
    from bardlet.planning.sizing import TRAINING
    from bardlet.run import run_folder

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
    return out, done, more


def seconds_of(text: str) -> float:
    """The seconds of a time such as 90s, 10m or 1.5h; UsageError for any other text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0
    if not 1 <= seconds <= 3e7:
        raise UsageError(
            f"budget={text} is not a time to train for", "Write 90s, 10m, 2h or 3d; a year at most"
        )
    return seconds
