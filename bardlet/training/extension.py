"""What becomes of a run that is resumed at its end: it is extended, or why it is not is said."""

from __future__ import annotations

import dataclasses

from bardlet.config import TrainConfig
from bardlet.errors import UsageError
from bardlet.run.state import RunState
from bardlet.training.schedule import learning_rate


def extend(config: TrainConfig, saved: RunState) -> tuple[RunState, list[str]]:
    """The state that a run goes on from, and what is to be said of how it goes on.

    More iterations than the run was to have are a wish to train on: evaluations without progress
    are counted anew, and the learning rate follows the options for so many. UsageError where the
    rate would be zero.
    """
    planned = int(saved.option("max_iters", config.max_iters))
    patience, since_best = config.patience, saved.guards.since_best
    if saved.iter >= config.max_iters and saved.scores is None:
        return saved, []  # it was stopped before its last evaluation, which is made now
    if saved.iter >= config.max_iters:
        return saved, [
            f"{config.out_dir} has done {saved.iter:,} iterations, max_iters={config.max_iters}: "
            "nothing is left to train. Train it on with --resume --max_iters=MORE or --budget=TIME"
        ]
    lines = []
    if 0 < patience <= since_best:
        stopped = f"no progress in {since_best} evaluations (patience={patience})"
        if config.max_iters <= planned:
            return saved, [
                f"{config.out_dir} stopped early after {saved.iter:,} iterations: {stopped}. Train "
                f"it on with --resume --patience=0, or --max_iters above {config.max_iters}"
            ]
        lines.append(f"it had stopped early, with {stopped}: they are counted anew")
        guards = dataclasses.replace(saved.guards, since_best=0)
        saved = dataclasses.replace(saved, guards=guards)
    if config.max_iters != planned:
        lines.append(schedule(config, saved.iter, planned))
    return saved, lines


def schedule(config: TrainConfig, it: int, planned: int) -> str:
    """How the learning rate goes on from iteration `it` of a run that was to have `planned`.

    UsageError where it is zero from there on.
    """
    before = learning_rate(dataclasses.replace(config, max_iters=planned), max(0, it - 1))
    rate, last = learning_rate(config, it), learning_rate(config, config.max_iters - 1)
    if rate == last == 0:
        raise UsageError(
            f"the learning rate is 0 from iteration {config.lr_decay_iters:,} on "
            "(lr_decay_iters, min_lr), so that going on trains nothing",
            f"Let it fall until the new end: --max_iters={config.max_iters} "
            f"--lr_decay_iters={config.max_iters}",
        )
    goes = f"{planned:,} iterations become {config.max_iters:,}: the learning rate "
    if rate == last:
        restart = f"; --lr_decay_iters={config.max_iters} restarts it" * config.decay_lr
        return f"{goes}stays at {rate:.3g}{restart}"
    if rate > before * 1.01:
        return f"{goes}restarts at {rate:.3g} (it was {before:.3g}) and falls to {last:.3g}"
    return f"{goes}goes on from {rate:.3g} to {last:.3g}"
