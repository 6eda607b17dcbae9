"""What watches over a run: non-finite losses and gradients, spikes, and the end of learning.

All of it is a function of the losses so far, and its state is saved with a checkpoint: a resumed
run judges as the undisturbed one would.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from bardlet.config import TrainConfig
from bardlet.errors import TrainingError
from bardlet.run.state import GuardState
from bardlet.training.collapse import Collapse
from bardlet.training.log import Log

WINDOW = 128  # iterations that a loss is compared with
MIN_HISTORY = 32  # of them, before any is judged
SPIKE = 6.0  # standard deviations above their mean
MAX_SKIPPED = 10  # consecutive iterations: what lasts is not a spike
DEAD = 20  # consecutive iterations without learning: a healthy run has none


class Guards:
    """Judges each iteration before its step, and each evaluation."""

    def __init__(self, config: TrainConfig, log: Log, vocab_size: int, state: GuardState) -> None:
        """`vocab_size` is the model's, `state` what `state()` was when the run was saved."""
        self.config, self.log = config, log
        self.losses: deque[float] = deque(state.losses, maxlen=WINDOW)
        self.skipped = state.skipped  # consecutive iterations
        self.since_best = state.since_best  # consecutive evaluations without progress
        self.collapse = Collapse(vocab_size, state.collapse)

    def state(self) -> GuardState:
        """What a resumed run has to know."""
        return GuardState(
            losses=tuple(self.losses), skipped=self.skipped, since_best=self.since_best,
            collapse=self.collapse.state(),
        )  # fmt: skip

    def stop_if_not_finite(
        self, it: int, loss: float, grad_norm: float, *, late: bool = False
    ) -> None:
        """Raise TrainingError where the loss or the gradient's norm is not finite.

        `late`: the step was taken; what is saved was saved before it.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {grad_norm}"
        self.log.record(type="event", event="nonfinite", iter=it, loss=loss, grad_norm=grad_norm)
        raise TrainingError(
            f"{what} at iteration {it}{'' if late else ', before its step'}",
            f"{likely_cause(self.losses)}. {self.config.out_dir} keeps its last checkpoint",
        )

    def stop_if_dead(self, it: int, loss: float, grad_norm: float) -> None:
        """Raise TrainingError where nothing has been learnt for DEAD iterations, or only log it."""
        dead = self.collapse.see(it, loss, grad_norm)
        if dead < DEAD or (dead > DEAD and not self.config.guard_dead):
            return
        what = f"the run has stopped learning: {self.collapse.evidence()}"
        self.log.record(type="event", event="dead", iter=it, loss=loss, grad_norm=grad_norm)
        if not self.config.guard_dead:
            self.log.say(f"warning: {what}")
            return
        raise TrainingError(
            f"{what} ({dead} iterations)",
            "Start anew with --fresh and a lower learning_rate (with muon, muon_lr too) or "
            "--dtype=float32; --guard_dead=false trains on",
        )

    def should_step(self, it: int, loss: float) -> bool:
        """Whether to step: not at a spike of the loss, where those are to be skipped."""
        z = z_score(loss, self.losses)
        spike = z > SPIKE
        skip = spike and self.config.skip_spikes and self.skipped < MAX_SKIPPED
        if spike:
            what = "skipped" if skip else "spike"
            self.log.say(
                f"iter {it}: the loss {loss:.4f} is a spike, {z:.1f} standard deviations above the "
                f"last {len(self.losses)}{': no step is taken' if skip else ''}"
            )
            self.log.record(type="event", event=what, iter=it, loss=loss, z=z)
        self.skipped = self.skipped + 1 if skip else 0
        if not skip:
            self.losses.append(loss)
        return not skip

    def update_patience(self, it: int, improved: bool) -> int:
        """Count the evaluations since validation improved, and return how many they are."""
        self.since_best = 0 if improved else self.since_best + 1
        if self.out_of_patience:
            self.log.say(f"stopping early: no progress in {self.since_best} evaluations")
            self.log.record(type="event", event="stopped_early", iter=it)
        return self.since_best

    @property
    def out_of_patience(self) -> bool:
        """Whether validation has not improved for `patience` evaluations."""
        return 0 < self.config.patience <= self.since_best


def z_score(loss: float, before: Sequence[float]) -> float:
    """How many standard deviations a loss lies above those before it; 0 while they are few."""
    if len(before) < MIN_HISTORY:
        return 0.0
    mean = math.fsum(before) / len(before)
    deviation = math.dist(before, [mean] * len(before)) / math.sqrt(len(before))
    return (loss - mean) / max(deviation, 1e-3 * abs(mean), 1e-12)


def likely_cause(losses: Sequence[float]) -> str:
    """What to try after a loss that is not finite, by the losses before it."""
    if not losses:
        return "The first step already fails: look at the weights it began with, and at dtype"
    if len(losses) > 8 and losses[-1] > min(losses) + 1.0:
        return "The loss was rising: lower learning_rate, raise warmup_iters, or set grad_clip=1"
    return "Lower learning_rate, raise warmup_iters, set grad_clip=1, or try --dtype=float32"
