"""The iterations of a run as they are read, judged and logged: at once, or one iteration late.

A GPU computes an iteration while the one before it is read, so that it never waits for the host.
A loss that is not finite then stops the run one iteration later, and still before anything is
saved, evaluated or sampled: all of that waits for `Steps.settle`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from bardlet.training.setup import Training


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one iteration gives, over all processes; reading it waits for the device."""

    iter: int
    lr: float
    read: Callable[[], Sequence[float]]  # the three below, and of pairs two more
    counted: bool = True  # whether a target of the batch counts

    @property
    def loss(self) -> float:
        """Before the step; NaN where no target of the batch counts."""
        return self.read()[0]

    @property
    def grad_norm(self) -> float:
        return self.read()[1]

    @property
    def stop(self) -> bool:
        """Whether a process was asked to stop."""
        return bool(self.read()[2])

    @property
    def pairs(self) -> dict[str, float]:
        """The reward margin and the accuracy of a batch of pairs; empty of another one."""
        return dict(zip(("reward_margin", "accuracy"), self.read()[3:], strict=False))


class Steps:
    """Reads each iteration of a run, the newest one when the next has been queued or on demand."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.train_s = 0.0  # of the iterations that were read
        self.seconds: list[float] = []  # of those since the last log line
        self.waits: list[float] = []  # in which their batches were fetched
        self.unread: tuple[StepResult, float] | None = None  # and the wait for its batch
        self.since = 0.0  # when the last one was read, or the first one began

    def add(self, step: StepResult, began: float, waiting: float) -> bool:
        """Take in the iteration begun at `began`; return whether one read asked to stop.

        `waiting` is the part of its seconds in which its batch was fetched.
        """
        if self.unread is None:
            self.since = began
        stop = self.settle()
        self.unread = step, waiting
        return stop if self.t.late else self.settle()

    def settle(self) -> bool:
        """Read the iteration that was not yet; return whether a process was asked to stop.

        Raises TrainingError where a guard does.
        """
        if self.unread is None:
            return False
        (step, waiting), self.unread = self.unread, None
        loss, grad_norm, stop, *_ = step.read()
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.waits.append(waiting)
        self.train_s += now - self.since
        self.since = now
        t, it = self.t, step.iter
        if t.late and step.counted:
            t.guards.stop_if_not_finite(it, loss, grad_norm, late=True)
            t.guards.stop_if_dead(it, loss, grad_norm)
            t.guards.should_step(it, loss)  # says so of a spike; one to be skipped is not late
        if it % t.config.log_interval == 0:
            t.log.iteration(
                it, loss=loss, seconds=fmean(self.seconds), waiting=fmean(self.waits), lr=step.lr,
                flops=t.flops_per_iter, peak_flops=t.peak_flops, grad_norm=grad_norm,
                tokens=t.tokens_per_iter, tokens_seen=t.tokens(it + 1),
                pairs=step.pairs,
            )  # fmt: skip
            self.seconds.clear()
            self.waits.clear()
        t.log.advance(it, loss)
        return bool(stop)
