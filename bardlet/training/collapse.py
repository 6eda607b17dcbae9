"""Whether a run has stopped learning for good, by its losses and its gradient's norms.

guards.py asks while it trains, doctor.py afterwards. Weights too large for their number format
leave equal logits everywhere: a norm whose squares overflow gives zeros. Then the loss is ln V
whatever the batch, and there is no gradient that could change it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bardlet.run.state import CollapseState

NO_GRADIENT = 1e-8  # norm of a vanished gradient: healthy runs stay above 0.01
NEAR = 1e-3  # nats from ln V: equal logits come within 1e-6, losses of batches differ by 0.01
LOWER = 0.9  # of ln V: below it a run has learnt, as single letters' frequencies alone are 0.8
RISE = 0.5  # nats above ln V that are a spike worth telling


class Collapse:
    """Follows a run: `count` iterations on end, from `since` on, in which nothing was learnt."""

    def __init__(self, vocab_size: int, state: CollapseState) -> None:
        """`state` is what `state()` was when the run was saved."""
        self.vocab_size = vocab_size
        self.blank = math.log(vocab_size)  # the loss of equal logits, as of an untrained model
        self.lowest = self.blank if state.lowest is None else state.lowest
        self.highest = state.highest  # since the lowest
        self.count, self.since = state.count, state.since
        self.loss = self.grad_norm = math.nan  # the last

    def state(self) -> CollapseState:
        """What a resumed run has to know."""
        return CollapseState(
            lowest=self.lowest, highest=self.highest, count=self.count, since=self.since
        )

    def see(self, it: int, loss: float, grad_norm: float) -> int:
        """Take in iteration `it`, and return `count`.

        A loss of 0 says nothing: no target of its batch counts. A loss near it is all learnt.
        """
        if loss == 0:
            return self.count
        if self.returned(loss) or (grad_norm < NO_GRADIENT and loss > NEAR):
            self.since = self.since if self.count else it
            self.count += 1
        else:
            self.count = 0
        if loss < self.lowest:
            self.lowest, self.highest = loss, loss
        self.highest = max(self.highest, loss)
        self.loss, self.grad_norm = loss, grad_norm
        return self.count

    def returned(self, loss: float) -> bool:
        """Whether a loss is that of equal logits, after others that were clearly lower."""
        return self.lowest < LOWER * self.blank and abs(loss - self.blank) < NEAR

    def evidence(self) -> str:
        """How it shows, in a sentence."""
        if not self.returned(self.loss):
            return f"the gradient's norm is 0 since iteration {self.since}, loss {self.loss:.2f}"
        spike = self.highest > self.blank + RISE
        before = f"after a spike to {self.highest:.1f}" if spike else f"from {self.lowest:.2f}"
        silent = ", and the gradient's norm is 0 since" if self.grad_norm < NO_GRADIENT else ""
        return (
            f"at iteration {self.since} the loss returned to ln {self.vocab_size} = "
            f"{self.blank:.3f} {before}{silent}"
        )


def reread(start: Mapping[str, Any], iters: Sequence[Mapping[str, Any]]) -> Collapse:
    """The same from a run's lines of metrics.jsonl; nothing of one that does not tell its V."""
    vocab_size = start.get("model_vocab_size", start.get("vocab_size", 0))
    collapse = Collapse(vocab_size or 1, CollapseState())
    for line in iters if vocab_size else ():
        loss, norm = line.get("loss"), line.get("grad_norm")
        if loss is not None:
            collapse.see(line["iter"], loss, math.inf if norm is None else norm)
    return collapse
