"""What is handed to another program, and whether that program computes the same with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import CheckpointError
from bardlet.model import GPT
from bardlet.run.state import RunState

Moments = Mapping[str, Mapping[str, Tensor]]  # AdamW's state: parameter -> exp_avg, ... -> tensor
TOLERANCE = 1e-4  # of logits in float32, largest absolute difference
GREEDY_TOKENS = 50


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A checkpoint that is exported, which an exporter leaves as it is."""

    name: str  # the run's
    source: str = ""  # the checkpoint's folder, or where else it was read from
    model: GPT  # float32, on the CPU, in evaluation
    tokenizer: Tokenizer
    state: RunState
    moments: Moments = field(default_factory=dict)  # of an import; a run has its in `source`


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far another program's results are from ours, on the same tokens."""

    program: str  # with its version
    max_difference: float  # of logits, absolute
    tolerance: float
    greedy: int  # greedy tokens that were equal, from the first on
    greedy_wanted: int

    def check(self) -> None:
        """Raise CheckpointError where the other program does not compute the same."""
        if not self.max_difference <= self.tolerance:  # nor for NaN
            raise CheckpointError(
                f"{self.program} computes other logits: they differ by {self.max_difference:.2g}, "
                f"more than {self.tolerance:.2g}",
                "Nothing was written",
            )
        if self.greedy < self.greedy_wanted:
            raise CheckpointError(
                f"{self.program} writes another text: {self.greedy} of {self.greedy_wanted} "
                "likeliest tokens are the same",
                "Nothing was written",
            )

    def __str__(self) -> str:
        return (
            f"{self.program}: logits differ by at most {self.max_difference:.2g} "
            f"(tolerance {self.tolerance:.2g}), {self.greedy} of {self.greedy_wanted} greedy "
            "tokens equal"
        )


def example_ids(model: GPT) -> Tensor:
    """Token ids to compare on, (1, T) int64: the same for the same shape of model."""
    config = model.config
    length = min(64, max(1, config.block_size // 2))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (1, length), generator=generator)


@torch.no_grad()
def compare(
    trained: Trained, program: str, theirs: Callable[[Tensor], Tensor],
    tolerance: float = TOLERANCE,
) -> Comparison:  # fmt: skip
    """Compare `theirs`, ids (1, T) to logits (1, T, V) float32, with the model of ours.

    First on random ids, then on 50 tokens, or as many as the context holds, each the likeliest
    for our model.
    """
    model = trained.model.eval()
    idx = example_ids(model)
    room = min(GREEDY_TOKENS, model.config.block_size - idx.size(1))
    ours = model(idx, idx)[0]
    difference = largest(ours, theirs(idx))
    for _ in range(room if math.isfinite(difference) else 0):
        chosen = ours[:, -1:].argmax(-1)  # (1, 1)
        idx = torch.cat((idx, chosen), dim=1)  # (1, T + 1)
        ours = model(idx)[0]  # (1, 1, V)
    equal = 0
    if idx.size(1) > len(example_ids(model)[0]):
        logits = theirs(idx)
        difference = max(difference, largest(model(idx, idx)[0], logits))
        # (room, V): the logits that each chosen token came from
        equal = greedy_equal(logits[0, -room - 1 : -1], idx[0, -room:], tolerance)
    return Comparison(
        program=program, max_difference=difference, tolerance=tolerance, greedy=equal,
        greedy_wanted=room,
    )  # fmt: skip


def greedy_equal(logits: Tensor, chosen: Tensor, tolerance: float) -> int:
    """How many `chosen` tokens (N,), from the first on, are the likeliest by logits (N, V).

    A token of which another is ahead by less than twice the tolerance is as likely.
    """
    lead = logits.amax(-1) - logits.gather(-1, chosen[:, None])[:, 0]  # (N,)
    return int((lead <= 2 * tolerance).long().cumprod(0).sum())


def largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; infinite for other shapes and for values not finite."""
    if ours.shape != theirs.shape:
        return math.inf
    difference = (ours.float() - theirs.float()).abs().max().item()
    return difference if math.isfinite(difference) else math.inf
