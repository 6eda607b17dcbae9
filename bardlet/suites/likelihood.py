"""How likely a model finds the end of a sequence: what every multiple choice and cloze comes to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bardlet.data.dataset.loader import first_seen
from bardlet.interop.verify import Trained
from bardlet.model import GPT
from bardlet.serve.model import without_padding
from bardlet.system.device import Machine
from bardlet.system.memory import MicroBatcher


@dataclass(frozen=True)
class Span:
    """A sequence of which the tokens from `start` on are scored; `start` is at least 1."""

    tokens: tuple[int, ...]  # one more than the context at most: the last is not an input
    start: int

    @property
    def scored(self) -> int:
        return len(self.tokens) - self.start


@dataclass(frozen=True)
class Likelihood:
    """What a model makes of a span."""

    logprob: float  # natural, of all scored tokens together
    greedy: bool  # whether each scored token is the likeliest in its place
    tokens: int  # scored


class Scorer:
    """A model that scores spans, many side by side."""

    def __init__(self, trained: Trained, machine: Machine, batch_size: int = 16) -> None:
        """`batch_size` contexts' worth of tokens are computed at once; memory running out halves
        it. The model moves to the machine's device.
        """
        self.trained, self.machine = trained, machine
        self.gpt: GPT = trained.model.eval()
        without_padding(self.gpt, trained.tokenizer.vocab_size)
        self.gpt.to(machine.device)
        self.micro_batcher = MicroBatcher(batch_size * self.context)

    @property
    def context(self) -> int:
        """How many tokens the model sees at once."""
        return self.gpt.config.block_size

    def score(
        self, spans: Sequence[Span], done: Callable[[int], None] = lambda count: None
    ) -> list[Likelihood]:
        """The likelihood of each span, whatever stands beside it. `done` is called with the
        number of spans whenever some are scored.
        """
        result: dict[int, Likelihood] = {}
        # of one length together, so that little is padding; the longest first, so that memory
        # runs out at once or not at all
        order = sorted(range(len(spans)), key=lambda i: -len(spans[i].tokens))
        while len(result) < len(order):
            rest = order[len(result) :]
            some = rest[: max(1, self.micro_batcher.size // (len(spans[rest[0]].tokens) - 1))]
            scored = self.tokens([spans[i] for i in some])
            for i, (logprobs, likeliest) in zip(some, scored, strict=True):
                result[i] = Likelihood(logprobs.sum().item(), bool(likeliest.all()), len(logprobs))
            done(len(some))
        return [result[i] for i in range(len(spans))]

    def tokens(
        self, spans: Sequence[Span], end_of_text: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each span, the longest first, the log-probability of every scored token, (n,) float64
        on the CPU, and whether it is the likeliest, (n,) bool.

        Attention stays behind the last `end_of_text`, where one is named.
        """
        return self.micro_batcher.run(functools.partial(self.in_parts, spans, end_of_text))

    def in_parts(
        self, spans: Sequence[Span], end_of_text: int | None, size: int
    ) -> list[tuple[Tensor, Tensor]]:
        """The same, `size` inputs at once."""
        result: list[tuple[Tensor, Tensor]] = []
        while spans:
            n = max(1, size // (len(spans[0].tokens) - 1))
            result += self.at_once(spans[:n], end_of_text)
            spans = spans[n:]
        return result

    @torch.inference_mode()
    def at_once(
        self, spans: Sequence[Span], end_of_text: int | None
    ) -> list[tuple[Tensor, Tensor]]:
        """The same in one batch."""
        T = max(len(span.tokens) for span in spans) - 1
        idx = torch.zeros(len(spans), T, dtype=torch.int64)  # (B, T)
        for row, span in enumerate(spans):
            idx[row, : len(span.tokens) - 1] = torch.tensor(span.tokens[:-1])
        counts = [span.scored for span in spans]
        rows = torch.repeat_interleave(torch.arange(len(spans)), torch.tensor(counts))  # (N,)
        columns = torch.cat([torch.arange(s.start - 1, len(s.tokens) - 1) for s in spans])  # (N,)
        targets = torch.cat([torch.tensor(span.tokens[span.start :]) for span in spans])  # (N,)
        logits = self.logits(idx, first_seen(idx, end_of_text), rows, columns, targets)  # (N, V)
        targets = targets.to(logits.device)
        logprobs = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]  # (N,)
        likeliest = logits.argmax(-1) == targets  # (N,)
        parts = zip(
            logprobs.double().cpu().split(counts), likeliest.cpu().split(counts), strict=True
        )
        return list(parts)

    def logits(
        self, idx: Tensor, first: Tensor | None, rows: Tensor, columns: Tensor, targets: Tensor
    ) -> Tensor:
        """The logits behind some places of idx (B, T) alone: (N, V); `first` is GPT.forward's."""
        device = self.machine.device

        def chosen(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0][rows.to(device), columns.to(device)].unsqueeze(0),)  # (1, N, C)

        # the head is most of a small model's work, and most places of a prompt are not scored
        hook = self.gpt.lm_head.register_forward_pre_hook(chosen)
        try:
            with self.machine.autocast():
                seen = None if first is None else first.to(device)
                logits, _ = self.gpt(idx.to(device), targets.to(device), first=seen)
        finally:
            hook.remove()
        return logits[0]
