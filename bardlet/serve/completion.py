"""Completions: prompts of tokens to text, many side by side, each with its own end.

A completion ends at the tokenizer's end of text, at a stop string, or after `max_new_tokens`. The
same request gives the same text alone and beside others.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import UsageError
from bardlet.model import GPT
from bardlet.native.quantised import rounding_cache
from bardlet.native.speculation import Guesser
from bardlet.sample import Text, Writer, check
from bardlet.sampling.filters import Sampling
from bardlet.serve.stop import StopStrings

DEFAULT = Sampling()
MAX_TOP = 20  # alternatives of a token whose log-probabilities are given


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for: a prompt of token ids, at least one, and how it is gone on with."""

    prompt: tuple[int, ...]
    sampling: Sampling = DEFAULT
    max_new_tokens: int = 500
    seed: int = 1337
    number: int = 0  # of the sample, among those of a seed
    stop: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()  # tokens that end it, beside the end of text
    logprobs: int | None = None  # how many alternatives of each token; None: no log-probabilities

    def __post_init__(self) -> None:
        check(1, self.max_new_tokens, self.seed)
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP:
            raise UsageError(f"logprobs={self.logprobs} must be from 0 to {MAX_TOP}")


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural log-probability, and the likeliest in its place.

    They are the model's own, before temperature and every other filter.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the likeliest first


@dataclass(eq=False)
class Completion:
    """What a request has got so far."""

    request: Request
    text: str = ""  # what may be shown
    tokens: list[int] = field(default_factory=list)  # without an end of text
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None  # "stop" or "length"; None while it is written

    def __str__(self) -> str:
        return self.text


class Completer:
    """Up to `streams` completions by one model side by side; the others wait their turn."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, streams: int,
        dtype: torch.dtype = torch.float32, weights: str = "auto", guesser: Guesser | None = None,
        cache: str = "auto",
    ) -> None:  # fmt: skip
        self.writer = Writer(
            model, streams, dtype, weights=weights, guesser=guesser, cache=cache
        )  # fmt: skip
        self.tokenizer = tokenizer
        self.waiting: deque[Completion] = deque()
        self.running: list[Run] = []

    def add(self, completion: Completion) -> Completion:
        """A new completion, which `step` writes from now on."""
        request = completion.request
        vocab = self.writer.model.config.vocab_size
        if not request.prompt or not all(0 <= token < vocab for token in request.prompt):
            raise UsageError(f"a prompt is at least one token, each from 0 to {vocab - 1}")
        if wrong := [token for token, _ in request.sampling.logit_bias if not 0 <= token < vocab]:
            raise UsageError(f"logit_bias of token {wrong[0]}, which is not from 0 to {vocab - 1}")
        if request.max_new_tokens == 0:
            completion.finish_reason = "length"
        else:
            self.waiting.append(completion)
        return completion

    def remove(self, completion: Completion) -> None:
        """Stop writing a completion that nobody waits for."""
        if completion in self.waiting:
            self.waiting.remove(completion)
        for run in [run for run in self.running if run.completion is completion]:
            self.end(run)

    def step(self) -> list[tuple[Completion, str]]:
        """Write the next tokens of all that run: each with the text that may be shown since.

        Empty when nothing is left to write.
        """
        while self.waiting and self.writer.free:
            completion = self.waiting.popleft()
            asked = completion.request
            prompt = torch.tensor(asked.prompt, dtype=torch.int64)
            text = self.writer.add(
                prompt, asked.sampling, asked.max_new_tokens, asked.seed, asked.number
            )
            self.running.append(Run(completion, text, self.tokenizer))
        if not self.running:
            return []
        running = list(self.running)
        asking = [run for run in running if run.completion.request.logprobs is not None]
        chosen, logits = self.writer.step(
            [run.text for run in running], [run.text for run in asking]
        )
        shown = []
        for run, tokens in zip(running, chosen.T.tolist(), strict=True):
            before = len(run.completion.text)
            run.feed(tokens, logits[asking.index(run)] if run in asking else None)
            shown.append((run.completion, run.completion.text[before:]))
            if run.completion.finish_reason:
                self.end(run)
        return shown

    def end(self, run: Run) -> None:
        self.writer.remove(run.text)
        self.running.remove(run)


class Run:
    """A completion that is being written."""

    def __init__(self, completion: Completion, text: Text, tokenizer: Tokenizer) -> None:
        self.completion, self.text = completion, text
        self.ends = {tokenizer.end_of_text, *completion.request.ends}
        self.stream = tokenizer.stream()
        self.shown = StopStrings(completion.request.stop)

    def feed(self, tokens: Sequence[int], logits: Tensor | None) -> None:
        """Take in new tokens, and the logits (V,) that a single one was chosen from."""
        completion, asked = self.completion, self.completion.request
        tokens = list(tokens)
        if not self.ends.isdisjoint(tokens):
            completion.finish_reason = "stop"
            tokens = list(itertools.takewhile(lambda token: token not in self.ends, tokens))
        # one at a time where a text may end within: the token that ends it is its last
        for part in [[token] for token in tokens] if asked.stop else [tokens]:
            completion.tokens += part
            completion.text += self.shown.feed(self.stream.feed(part))
            if self.shown.stopped:
                completion.finish_reason = "stop"
                break
        if logits is not None and tokens:
            completion.logprobs.append(logprob(logits, tokens[0], asked.logprobs or 0))
        if len(completion.tokens) == asked.max_new_tokens and not completion.finish_reason:
            completion.finish_reason = "length"
        if completion.finish_reason:  # a character that the last token only begins is left out
            completion.text += self.shown.end()


def logprob(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """The log-probability of a token by logits (V,), and those of the `top` likeliest."""
    logprobs = logits.double().log_softmax(-1)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    return TokenLogprob(
        token, logprobs[token].item(), tuple(zip(ids.tolist(), values.tolist(), strict=True))
    )


def complete(
    model: GPT, tokenizer: Tokenizer, requests: Sequence[Request], *, streams: int,
    dtype: torch.dtype = torch.float32, weights: str = "auto", guesser: Guesser | None = None,
    cache: str = "auto",
) -> list[Completion]:  # fmt: skip
    """The completion of each request, `streams` side by side."""
    completer = Completer(model, tokenizer, streams, dtype, weights, guesser, cache)
    completions = [completer.add(Completion(request)) for request in requests]
    while completer.step():
        pass
    return completions


@torch.inference_mode()
def prompt_logprobs(
    model: GPT, tokens: Sequence[int], top: int = 0, cache: str = "auto"
) -> list[TokenLogprob]:
    """The log-probability of each token after the first, by the model as its weights are, with keys
    and values in the format `cache` of native/quantised.py.

    In windows of the context one after the other, as evaluation has them: the token that begins a
    window is predicted from the whole window before it.
    """
    size, device = model.config.block_size, model.lm_head.weight.device
    ids = torch.tensor(tokens, dtype=torch.int64)
    result = []
    for begin in range(0, len(ids) - 1, size):
        window = ids[begin : begin + size + 1]
        logits, _ = model.eval()(
            window[None, :-1].to(device), window[None, 1:].to(device),
            cache=rounding_cache(model, 1, cache),
        )  # fmt: skip
        for row, token in zip(logits[0].float().cpu(), window[1:].tolist(), strict=True):
            result.append(logprob(row, token, top))
    return result


def mean_loss(logprobs: Sequence[TokenLogprob]) -> float:
    """Nats per token."""
    return -math.fsum(one.logprob for one in logprobs) / len(logprobs)
