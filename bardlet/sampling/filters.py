"""The choice of a token from a model's logits: pure functions, applied in one order.

The order is transformers': bias, penalties, temperature, top_k, top_p, min_p.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bardlet.errors import UsageError

# Below it a temperature is 0: logits divided by it pass float32's end, while any two that differ
# are so far apart that the likeliest alone is left.
COLDEST = 1e-30


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from its logits, in the order of `filtered`.

    The defaults are nanoGPT's; the others are off. Raises UsageError for what cannot be.
    """

    temperature: float = 0.8  # 0: the likeliest
    top_k: int = 200  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # token and what is added; -100 excludes it

    def __post_init__(self) -> None:
        infinity = float("inf")
        bounds = {  # lowest and highest, and whether the lowest is allowed
            "temperature": (0, infinity, True), "top_k": (0, infinity, True),
            "top_p": (0, 1, False), "min_p": (0, 1, True),
            "repetition_penalty": (0, infinity, False),
            "presence_penalty": (-infinity, infinity, False),
            "frequency_penalty": (-infinity, infinity, False),
        }  # fmt: skip
        problems = []
        for name, (low, high, closed) in bounds.items():
            value = getattr(self, name)
            if not (low <= value if closed else low < value) or value == infinity or value > high:
                allowed = f"{'at least' if closed else 'above'} {low}" if low != -infinity else ""
                allowed += " and at most 1" if high == 1 else ""
                problems.append(f"{name}={value} must be {allowed or 'a finite number'}")
        if wrong := [bias for _, bias in self.logit_bias if not -infinity < bias < infinity]:
            problems.append(f"logit_bias has {wrong[0]}, which is not a finite number")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def degree(self) -> float:
        """The temperature, 0 where it is so near that the likeliest alone is left."""
        return self.temperature if self.temperature >= COLDEST else 0.0

    @property
    def counts(self) -> bool:
        """Whether the tokens that stand already change the choice."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0)

    @functools.cached_property
    def plain(self) -> bool:
        """Whether temperature and top_k alone decide, which the compiled core applies itself."""
        return self == Sampling(temperature=self.temperature, top_k=self.top_k)


def choose(
    logits: Tensor, uniform: Tensor, sampling: Sampling, prompt: Tensor | None = None,
    written: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One token of each row: logits (B, V) float32, uniform (B,) in [0, 1) -> (B,) int64.

    prompt and written (B, V) count each token in a row's prompt and behind it, for the penalties.
    """
    logits = filtered(logits, sampling, prompt, written)
    return pick(logits, uniform) if sampling.degree else logits.argmax(dim=-1)


def filtered(
    logits: Tensor, sampling: Sampling, prompt: Tensor | None = None, written: Tensor | None = None
) -> Tensor:
    """Logits (B, V) as `sampling` changes them; those that cannot be drawn are at -inf.

    At a temperature of 0 the last filters are left out: they keep the likeliest.
    """
    if sampling.logit_bias:
        logits = with_bias(logits, sampling.logit_bias)
    if sampling.counts and prompt is not None and written is not None:
        logits = less_repetition(logits, prompt + written, sampling.repetition_penalty)
        logits -= written * sampling.frequency_penalty
        logits -= (written > 0) * sampling.presence_penalty
    if not sampling.degree:
        return logits
    logits = keep_top_k(logits / sampling.temperature, sampling.top_k)
    return keep_min_p(keep_top_p(logits, sampling.top_p), sampling.min_p)


def with_bias(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Logits (B, V) with a number added to those of some tokens."""
    logits = logits.clone()
    for token, number in bias:
        logits[:, token] += number
    return logits


def less_repetition(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) of tokens with counts (B, V) above 0 divided by `penalty`, negative ones
    multiplied by it (CTRL, arXiv:1909.05858)."""
    less = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(counts > 0, less, logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (B, V) with all but the k largest of each row at -inf, ties with the k-th kept."""
    if not 0 < k < logits.size(-1):
        return logits
    cutoff = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < cutoff, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits (B, V) with all at -inf but the fewest likeliest that have `p` of the probability
    together (nucleus sampling, arXiv:1904.09751)."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probability = ordered.softmax(-1)
    above = probability.cumsum(-1) - probability >= p  # those before it have p already
    return logits.masked_fill(above.gather(-1, order.argsort(-1)), float("-inf"))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Logits (B, V) with those at -inf whose probability is below `p` times the likeliest's
    (arXiv:2407.01082)."""
    if p <= 0:
        return logits
    probability = logits.softmax(-1)
    return logits.masked_fill(probability < p * probability.amax(-1, keepdim=True), float("-inf"))


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from softmax(logits) (B, V) by inverting its cumulative sum at uniform (B,): (B,)."""
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)  # (B, V), float64: it ends at 1
    # scaled by the real end, so that rounding never points past the last likely token
    threshold = uniform[:, None].double() * cumulative[:, -1:]  # (B, 1)
    chosen = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return chosen.clamp_max(logits.size(-1) - 1)  # NaN from diverged weights is after all others
