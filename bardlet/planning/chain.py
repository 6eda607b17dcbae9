"""A chain of runs: each learns from the one before (born-again networks, arXiv:1805.04770).

The last stage is the run in out_dir; the others are runs of their own in out_dir/stages/, numbered
from 1. A chain that is stopped anywhere goes on by the same command, or by --resume. With
stage_options single stages differ: "4: distill_from=2,3 max_iters=900" lets the fourth learn from
the mean of the second and the third, for 900 iterations.
"""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

from bardlet.config import FIELDS, TrainConfig, Value, coerce, contradictions, to_toml
from bardlet.errors import UsageError
from bardlet.io.atomic import write_text
from bardlet.io.safe_read import read_text
from bardlet.io.terminal import say
from bardlet.run import run_folder
from bardlet.system import distributed
from bardlet.train import Result
from bardlet.training import resume

NO_TEACHER = {name: FIELDS[name].default for name in ("distill_weight", "distill_temperature")}
# what the stages of a chain have in common
SHARED = {
    "out_dir", "dataset", "stream", "init_from", "fresh", "eval_only", "objective", "stages",
    "stage_iters", "stage_options",
}  # fmt: skip


def train_chain(config: TrainConfig, train_one: Callable[[TrainConfig], Result]) -> Result:
    """Train the stages of `config` that are not finished, one after another.

    What is returned is of the last one, or of the one that was stopped; its `train_s` counts all
    stages of this session.
    """
    out, main = Path(config.out_dir), distributed.here().main
    if config.eval_only or config.stages == 1:
        return train_one(config)
    # of all stages, so that options which fit none are refused before the first
    teachers = [stage_of(config, number).distill_from for number in range(1, config.stages + 1)]
    begun = (out / "stages").is_dir() and not config.fresh
    if begun and config.init_from == "resume" and not run_folder.checkpoints(out):
        config = dataclasses.replace(config, init_from=origin(out))
    if resume.resume_iteration(config) >= 0:
        if config.init_from != "resume":
            return train_one(stage_of(config, config.stages))
        # its options are the last stage's already; the folder may have been moved since
        return train_one(dataclasses.replace(config, distill_from=teachers[-1]))
    if main:
        if config.fresh:
            shutil.rmtree(out / "stages", ignore_errors=True)
        (out / "stages").mkdir(parents=True, exist_ok=True)
        write_text(out / "config.toml", to_toml(config))  # for --resume
    results: list[Result] = []
    for number in range(1, config.stages + 1):
        stage = stage_of(config, number)
        if number < config.stages and is_finished(Path(stage.out_dir)) and not config.fresh:
            continue
        if main:
            teacher = f", which learns from {stage.distill_from}" if stage.distill_from else ""
            say(f"stage {number} of {config.stages}: {stage.out_dir}{teacher}")
        results.append(train_one(stage))
        if results[-1].stopped:
            if main and number < config.stages:
                say(f"the whole chain goes on with: bardlet train --resume --out_dir={out}")
            break
    return dataclasses.replace(results[-1], train_s=sum(result.train_s for result in results))


def stage_of(config: TrainConfig, number: int) -> TrainConfig:
    """The run that is stage `number` of a chain, from 1 on. Raises UsageError where stage_options
    does not fit it.
    """
    changes: dict[str, object] = {"seed": config.seed + number - 1}
    if number < config.stages:
        usual = {name: FIELDS[name].default for name in ("stages", "stage_iters", "stage_options")}
        changes |= {"out_dir": folder_of(config, number), **usual}
    if number > 1:
        changes |= {
            "distill_from": folder_of(config, number - 1),
            "max_iters": config.stage_iters or config.max_iters,
        }
    elif not config.distill_from:
        changes |= NO_TEACHER
    own = options_of(config, number)
    stage = dataclasses.replace(config, **changes | own)
    if own and (problems := contradictions(stage)):
        raise UsageError(f"stage {number}: {'; '.join(problems)}", "Mend stage_options")
    return stage


def options_of(config: TrainConfig, number: int) -> dict[str, Value]:
    """What stage_options names for a stage: `4: distill_from=2,3 max_iters=900; 5: ...`.

    Numbers in distill_from are stages before it. Raises UsageError where it says something else.
    """
    own: dict[str, Value] = {}
    for part in filter(str.strip, config.stage_options.split(";")):
        stage, colon, options = part.partition(":")
        if not colon or stage.strip() not in map(str, range(1, config.stages + 1)):
            raise UsageError(
                f"stage_options: {part.strip()!r} does not begin with a stage, from 1 to "
                f"{config.stages}, and a colon",
                "For example: --stage_options='3: distill_from=1,2 max_iters=900'",
            )
        if int(stage) != number:
            continue
        for name, _, value in (word.partition("=") for word in options.split()):
            try:
                own[name] = coerce(name, value)
            except ValueError as error:
                raise UsageError(
                    f"stage_options, stage {number}: {error}", "Options are name=value"
                ) from None
            if name in SHARED:
                raise UsageError(
                    f"stage_options: {name} is that of the whole chain", f"Give --{name} for all"
                )
    if "distill_from" in own:
        names = str(own["distill_from"]).split(",")
        before = set(map(str, range(1, number)))
        own["distill_from"] = ",".join(
            folder_of(config, int(name)) if name in before else name for name in names
        )
    return own


def in_runs_of_the_first(config: TrainConfig) -> float:
    """The time of all stages, in times of the first: a teacher's forward pass is a third more."""
    stages = [stage_of(config, number) for number in range(1, config.stages + 1)]
    teachers = [len(list(filter(None, stage.distill_from.split(",")))) for stage in stages]
    times = [s.max_iters * (1 + t / 3) for s, t in zip(stages, teachers, strict=True)]
    return sum(times) / times[0]


def folder_of(config: TrainConfig, number: int) -> str:
    """The folder of a stage before the last."""
    return str(Path(config.out_dir) / "stages" / str(number))


def origin(out: Path) -> str:
    """What a chain began from, which the command that goes on with it does not say."""
    options = tomllib.loads(read_text(out / "config.toml"))
    return str(options.get("init_from", "scratch"))


def is_finished(run: Path) -> bool:
    """Whether a stage has come to its end."""
    return bool(run_folder.checkpoints(run)) and run_folder.finished(resume.newest_valid(run))
