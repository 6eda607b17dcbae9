"""A sized run kept to its time: the iterations are adjusted once, early, to the measured speed.

Of a chain each stage has its part of the time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from bardlet.config import TrainConfig
from bardlet.planning.recipe import STUDENT_ITERS
from bardlet.planning.sizing import TRAINING
from bardlet.system.distributed import Group, here

MIN_ITERS = 5  # the first of which warms up and does not count
EARLY = 0.06  # of the budget: before the cooldown of any run begins
DIFFERS = 0.15  # of the iterations, below which nothing is changed


@dataclass(kw_only=True)
class Pace:
    """The time that a run was sized for, asked after each iteration until it has decided."""

    budget_s: float
    max_iters: int  # as many as the text is worth, however fast the machine
    say: Callable[[str], None]
    group: Group = field(default_factory=here)
    start: int = 0  # iterations that were done before, of a run that has so much time more
    parts: tuple[float, ...] = (1.0,)  # of the time, of a chain's stages
    stages: list[str] = field(default_factory=list, init=False)  # folders of those that have begun
    first: int = field(default=0, init=False)  # iterations that the first of them has done
    warm: tuple[int, float] | None = field(default=None, init=False)
    decided: bool = field(default=False, init=False)

    def __call__(self, config: TrainConfig, it: int, train_s: float) -> TrainConfig | None:
        """The run with other numbers of iterations, or None where it stays as it is.

        `it` iterations took `train_s` seconds of optimisation in this session.
        """
        if config.out_dir not in self.stages:
            self.stages.append(config.out_dir)
            self.warm, self.decided = None, False
        student = len(self.stages) > 1
        if not student:
            self.first = it
        if self.decided:
            return None
        budget_s = self.budget_s * self.parts[len(self.stages) - 1]
        worth = config.max_iters if student else self.max_iters
        train_s = self.group.of_main(train_s)  # processes that each measured would part
        if self.warm is None:
            self.warm = it, train_s
            return None
        count, seconds = it - self.warm[0], train_s - self.warm[1]
        if count < MIN_ITERS - 1 or train_s < EARLY * budget_s:
            return None
        self.decided = True
        each = seconds / count
        # a slower machine evaluates more slowly too, and a tenth of the time was for that
        planned = config.max_iters - self.start
        slower = each * planned / (TRAINING * budget_s)
        share = max(0.5, 1 - (1 - TRAINING) * max(1.0, slower))
        more = min(worth, int(share * budget_s / each))
        if student:  # which is to be no worse than its teacher, even if that takes longer
            more = max(more, min(worth, math.ceil(STUDENT_ITERS[0] * self.first)))
        iters = max(it, self.start + more)
        if abs(more / planned - 1) < DIFFERS:
            return None
        say = self.say if self.group.main else lambda _: None
        say(
            f"an iteration takes {1000 * each:,.1f} ms here: {iters:,} iterations in place of "
            f"{config.max_iters:,}, for {budget_s:,.0f} s"
        )
        if self.start:
            return dataclasses.replace(config, max_iters=iters)
        evaluations = math.ceil(config.max_iters / config.eval_interval)
        return dataclasses.replace(
            config, max_iters=iters, eval_interval=max(1, math.ceil(iters / evaluations))
        )
