"""A chain of runs: each learns from the one before (born-again networks, arXiv:1805.04770).

The last stage is the run in out_dir; the others are runs of their own in out_dir/stages/, numbered
from 1. A chain that is stopped anywhere goes on by the same command, or by --resume.
"""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

from bardlet.config import FIELDS, TrainConfig, to_toml
from bardlet.io.atomic import write_text
from bardlet.io.safe_read import read_text
from bardlet.io.terminal import say
from bardlet.run import run_folder
from bardlet.system import distributed
from bardlet.train import Result
from bardlet.training import resume

NO_TEACHER = {name: FIELDS[name].default for name in ("distill_weight", "distill_temperature")}


def train_chain(config: TrainConfig, train_one: Callable[[TrainConfig], Result]) -> Result:
    """Train the stages of `config` that are not finished, one after another.

    What is returned is of the last one, or of the one that was stopped; its `train_s` counts all
    stages of this session.
    """
    out, main = Path(config.out_dir), distributed.here().main
    if config.eval_only or config.stages == 1:
        return train_one(config)
    begun = (out / "stages").is_dir() and not config.fresh
    if begun and config.init_from == "resume" and not run_folder.checkpoints(out):
        config = dataclasses.replace(config, init_from=origin(out))
    if resume.resume_iteration(config) >= 0:
        if config.init_from != "resume":
            return train_one(stage_of(config, config.stages))
        # its options are the last stage's already; the folder may have been moved since
        return train_one(
            dataclasses.replace(config, distill_from=folder_of(config, config.stages - 1))
        )
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
    """The run that is stage `number` of a chain, from 1 on."""
    changes: dict[str, object] = {"seed": config.seed + number - 1}
    if number < config.stages:
        changes |= {"out_dir": folder_of(config, number), "stages": 1, "stage_iters": 0}
    if number > 1:
        changes |= {
            "distill_from": folder_of(config, number - 1),
            "max_iters": config.stage_iters or config.max_iters,
        }
    elif not config.distill_from:
        changes |= NO_TEACHER
    return dataclasses.replace(config, **changes)


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
