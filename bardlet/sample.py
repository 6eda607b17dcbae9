"""Text out of a model: prefill and decode with the KV cache, and the choice of each token.

Texts are written side by side, each from its own prompt, in its own context and with random numbers
of its own: none depends on the others beside it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bardlet import native
from bardlet.errors import UsageError
from bardlet.model import GPT
from bardlet.native.decoding import Decoder
from bardlet.native.speculation import Guesser, Pace
from bardlet.sampling.filters import Sampling, choose
from bardlet.sampling.torch_decoder import TorchDecoder

STEPS_AT_ONCE = 16  # of the compiled core: few enough to be read as they come
TOKENS_AT_ONCE = 512  # of all texts together: a new text waits for no more than these
STEPS_WITHOUT_GUESSES = 2  # before guesses are tried again


def generate(
    model: GPT, prompt: Tensor, *, num_samples: int = 1, max_new_tokens: int = 500,
    sampling: Sampling | None = None, seed: int = 1337, use_cache: bool = True,
    dtype: torch.dtype = torch.float32, first: int = 0,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the next token of every sample, (num_samples,) int64 on CPU, max_new_tokens times.

    prompt (P,) int64, at least one token. `first` is the number of the first of these samples,
    where they are a part of more; Writer has `use_cache` and `dtype`.
    """
    check(num_samples, max_new_tokens, seed)
    writer = Writer(model, num_samples, dtype, use_cache)
    numbers = range(first, first + num_samples)
    texts = [
        writer.add(prompt, sampling or Sampling(), max_new_tokens, seed, number)
        for number in numbers
    ]
    while texts[0].left:
        yield from writer.step(texts)[0]


def check(num_samples: int, max_new_tokens: int, seed: int) -> None:
    """Raise UsageError for what cannot be sampled with."""
    problems = []
    if num_samples < 1:
        problems.append(f"num_samples={num_samples} must be at least 1")
    if max_new_tokens < 0:
        problems.append(f"max_new_tokens={max_new_tokens} must be at least 0")
    if num_samples * max_new_tokens > 10**8:
        problems.append(f"num_samples={num_samples} * max_new_tokens={max_new_tokens} > {10**8}")
    if not 0 <= seed < 2**32:
        problems.append(f"seed={seed} must be from 0 to {2**32 - 1}")
    if problems:
        raise UsageError("; ".join(problems))


def uniform_numbers(count: int, seed: int, number: int = 0) -> Tensor:
    """Random numbers in [0, 1): (count,) float32, of sample `number` of a seed."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return torch.rand(count, generator=generator)


@dataclass(eq=False)
class Text:
    """A prompt, and what is written behind it by a Writer."""

    tokens: Tensor  # (P + N,) int64, of which `length` are there
    length: int
    prompt: int  # tokens of it
    sampling: Sampling
    uniform: Tensor  # (N,)
    stream: int
    begin: int = 0  # where its context starts

    @property
    def left(self) -> int:
        """How many tokens it can still get."""
        return len(self.tokens) - self.length

    def counts(self, begin: int, end: int, vocab_size: int) -> Tensor:
        """How often each token stands in tokens[begin:end]: (V,) float32."""
        return torch.bincount(self.tokens[begin:end], minlength=vocab_size).float()


class Writer:
    """Up to `streams` texts that one model writes side by side; each comes and goes by itself.

    Where the compiled core can run the model, it computes in `dtype`, and keeps weights, and keys
    and values, in it or in the formats `weights` and `cache` of native/quantised.py. With
    `use_cache` false, contexts are computed anew for every token by the model as it is: the same
    text, slowly. A `guesser` makes a text that is written alone come sooner, in the core; it
    changes no token.
    """

    def __init__(
        self, model: GPT, streams: int, dtype: torch.dtype = torch.float32, use_cache: bool = True,
        weights: str = "auto", guesser: Guesser | None = None, cache: str = "auto",
    ) -> None:  # fmt: skip
        self.model = model.eval()
        self.decoder: Decoder | TorchDecoder
        if use_cache and native.runs(model):
            self.decoder = Decoder(model, streams, dtype, weights, cache)
        else:
            self.decoder = TorchDecoder(model, use_cache)
        self.guesser, self.pace = guesser, Pace()
        self.free = list(range(streams))[::-1]

    def add(
        self, prompt: Tensor, sampling: Sampling, max_new_tokens: int, seed: int, number: int = 0
    ) -> Text:
        """A text that begins with prompt (P,) int64, at least one token; IndexError when full.

        It is sample `number` of `seed`.
        """
        assert len(prompt), "an empty prompt"
        tokens = torch.empty(len(prompt) + max_new_tokens, dtype=torch.int64)
        tokens[: len(prompt)] = prompt
        uniform = uniform_numbers(max_new_tokens, seed, number)
        return Text(tokens, len(prompt), len(prompt), sampling, uniform, self.free.pop())

    def remove(self, text: Text) -> None:
        """End a text: its stream is for another."""
        self.decoder.forget(text.stream)
        self.free.append(text.stream)

    @torch.inference_mode()
    def step(self, texts: Sequence[Text], logits: Sequence[Text] = ()) -> tuple[Tensor, Tensor]:
        """Write the next tokens of some texts: (k, n) int64 on the CPU, k at least 1.

        Those of them in `logits` have their logits handed out, (m, V) float32 before any filter,
        and k is 1. A text longer than the context goes on with its newest part: as often as the
        context is full, the oldest quarter is forgotten.
        """
        size = self.model.config.block_size
        for text in texts:
            if text.length - text.begin > size:
                text.begin = text.length - max(1, size - size // 4)
                self.decoder.forget(text.stream)
        alone = self.guesser is not None and len(texts) == 1 and not logits
        began = time.perf_counter()
        if alone and not self.pace.rest and len(tokens := self.step_with_guesses(texts[0])):
            self.pace.took(time.perf_counter() - began, len(tokens), guessed=True)
            return tokens[:, None], torch.empty(0, self.model.config.vocab_size)
        contexts = [text.tokens[text.begin :] for text in texts]
        known = [text.length - text.begin for text in texts]
        streams = [text.stream for text in texts]
        # what the core does not choose itself; a text's way does not depend on the others
        here = [text for text in texts if text in logits or not text.sampling.plain]
        k = 1
        if isinstance(self.decoder, Decoder):
            if not here:
                room = (min(text.left, size + 1 - n) for text, n in zip(texts, known, strict=True))
                guesses_next = alone and not self.pace.rest
                max_steps = STEPS_WITHOUT_GUESSES if guesses_next else STEPS_AT_ONCE
                if any(text.length == text.prompt for text in texts):
                    max_steps = 1  # a new text shows its first token before all go on
                k = min(max_steps, max(1, TOKENS_AT_ONCE // len(texts)), *room)
            scores = self.decoder.step(
                contexts, known, streams, self.uniform(texts, k),
                [None if text in here else text.sampling.degree for text in texts],
                [text.sampling.top_k for text in texts],
            )  # fmt: skip
        else:
            here = texts
            scores = self.decoder.logits(contexts, known, streams)
        for text, token in zip(here, self.chosen(scores, here) if len(here) else (), strict=True):
            text.tokens[text.length] = token
        if alone and texts[0].length > texts[0].prompt:  # the first step takes the prompt in too
            self.pace.took(time.perf_counter() - began, k, guessed=False)
        for text in texts:
            text.length += k
        rows = [text.tokens[text.length - k : text.length] for text in texts]
        return torch.stack(rows, dim=1), scores[[text in logits for text in here]]

    def step_with_guesses(self, text: Text) -> Tensor:
        """Write guesses that the model verifies, and one token more: (k,) int64, 0 without any."""
        none, decoder, before = text.tokens[:0], self.decoder, text.length
        base = before - text.begin
        count = min(self.pace.count, text.left - 1, self.model.config.block_size - base)
        if not isinstance(decoder, Decoder) or self.guesser is None or count < 1:
            return none
        sampling, uniform = text.sampling, text.uniform[before - text.prompt :]
        guesses = self.guesser.guess(
            text.tokens[:before], uniform[:count], sampling.degree, sampling.top_k
        )
        count = len(guesses)
        if not count:
            return none
        text.tokens[before : before + count] = guesses
        verified = decoder.verify(
            text.tokens[text.begin :], base + count, text.stream, uniform[: count + 1],
            sampling.degree if sampling.plain else None, sampling.top_k,
        )  # fmt: skip
        for i in range(count + 1):
            token = verified[i] if sampling.plain else self.chosen(verified[i : i + 1], [text])[0]
            text.tokens[text.length] = token
            text.length += 1
            if i < count and token != guesses[i]:
                break
        right = text.length - before - 1
        decoder.rewind(text.stream, base + right)
        self.pace.adjust_count(count, right)
        return text.tokens[before : text.length].clone()

    def uniform(self, texts: Sequence[Text], k: int) -> Tensor:
        """The random numbers of the next k tokens of texts, (k, n)."""
        places = [text.length - text.prompt for text in texts]
        parts = zip(texts, places, strict=True)
        return torch.stack([text.uniform[at : at + k] for text, at in parts], dim=1)

    def chosen(self, logits: Tensor, texts: Sequence[Text]) -> Tensor:
        """A token for each text from logits (n, V): (n,) int64 on the CPU, alike ones together."""
        groups: defaultdict[Sampling, list[int]] = defaultdict(list)
        for i, text in enumerate(texts):
            groups[text.sampling].append(i)
        chosen = torch.empty(len(texts), dtype=torch.int64)
        uniform = self.uniform(texts, 1)[0].to(logits.device)  # (n,)
        for sampling, rows in groups.items():
            counts: list[Tensor] = []
            if sampling.counts:
                V = logits.size(-1)
                some = [texts[i] for i in rows]
                before = torch.stack([text.counts(0, text.prompt, V) for text in some])
                behind = torch.stack([text.counts(text.prompt, text.length, V) for text in some])
                counts = [before.to(logits.device), behind.to(logits.device)]
            # as a rule all are alike: to index would copy the logits, and wait for a GPU
            some_logits, numbers = (
                x if len(rows) == len(x) else x[rows] for x in (logits, uniform)
            )
            chosen[rows] = choose(some_logits, numbers, sampling, *counts).cpu()
        return chosen
