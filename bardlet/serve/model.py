"""A trained model with its tokenizer, ready to be asked: what `bardlet.load` returns."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bardlet import native
from bardlet.data.tokenizers.chat import Messages
from bardlet.errors import UsageError
from bardlet.interop.chat_template import of_pairs
from bardlet.interop.load import load_model
from bardlet.interop.verify import Trained
from bardlet.native import quantised
from bardlet.native.speculation import Guesser
from bardlet.sampling.filters import Sampling
from bardlet.serve.chat import Conversations
from bardlet.serve.completion import (
    DEFAULT,
    Completer,
    Completion,
    Request,
    TokenLogprob,
    complete,
    prompt_logprobs,
)  # fmt: skip
from bardlet.serve.draft import guesser, without_padding
from bardlet.system.device import Machine, choose
from bardlet.system.memory import MicroBatcher

MAX_STREAMS = 64  # texts side by side: with more the core is not faster
CHOICE = {field.name for field in dataclasses.fields(Sampling)}


def load(
    source: str | os.PathLike[str],
    *,
    checkpoint: str = "best",
    device: str = "auto",
    dtype: str = "auto",
    weights: str = "auto",
    cache: str = "auto",
    draft: str | os.PathLike[str] = "",
) -> Model:
    """The model of a run, or of any other source that `bardlet import` reads.

    What `bardlet.train` returns is a run.

    `checkpoint` is that of a run: best, last or iter-... `weights` is the format that the compiled
    core keeps weights in: float32, bfloat16, int8 or int4, each half as long to read for a token;
    auto takes the dtype's. `cache` is that of keys and values: int8, or auto for the dtype's.
    `draft` guesses how a text that is written alone goes on, so that it
    comes sooner, and changes no token: a smaller model of the same vocabulary, or "lookup".

    Raises a BardletError where there is no such source, where its files are damaged, or where the
    core does not run the model that `weights`, `cache` or `draft` is for.
    """
    quantised.check(weights, cache)
    trained, machine = load_model(os.fspath(source), checkpoint), choose(device, dtype)
    model = Model(trained, machine, weights, cache)
    if name := os.fspath(draft):
        model.guesser = guesser(name, trained, machine.dtype, weights)
    return model


class Model:
    """A model, its tokenizer, and the machine that it runs on.

    Options of a text, by the commands' names: `max_new_tokens`, `seed`, `stop` (a string or
    several), `logprobs` (how many alternatives of each token) and the fields of Sampling, such as
    `temperature` or `top_p`.
    """

    def __init__(
        self, trained: Trained, machine: Machine, weights: str = "auto", cache: str = "auto"
    ) -> None:
        self.trained, self.machine, self.weights, self.cache = trained, machine, weights, cache
        self.guesser: Callable[[], Guesser | None] = lambda: None
        self.gpt, self.tokenizer = trained.model.eval(), trained.tokenizer
        without_padding(self.gpt, self.tokenizer.vocab_size)
        self.gpt.to(machine.device)
        quantised.check_decoded(self.gpt, weights, cache)
        quantised.round_weights(self.gpt, weights)  # log-probabilities of prompts are those too
        if not native.runs(self.gpt):  # which converts weights itself
            self.gpt.to(machine.dtype)  # half the bytes to read for every token

    @property
    def context(self) -> int:
        """How many tokens the model sees at once."""
        return self.gpt.config.block_size

    def prompt(self, text: str) -> tuple[int, ...]:
        """The tokens that a prompt becomes: behind an end of text where texts are trained on so.

        Raises DataError for a character without an id.
        """
        text = self.as_prompt(text) or self.beginning
        return (*self.behind, *self.tokenizer.encode(text).tolist())

    def as_prompt(self, text: str) -> str:
        """A prompt with the line end behind it that prompts have in a dataset of pairs."""
        ends = not text or text != text.rstrip() or not self.of_pairs
        return text if ends else text + "\n"

    @property
    def of_pairs(self) -> bool:
        """Whether it was trained on prompts with responses."""
        return of_pairs(self.trained.state.dataset)

    @property
    def behind(self) -> tuple[int, ...]:
        """The token that stands before a prompt: the end of the text before it, if any."""
        end = self.trained.state.dataset.end_of_text
        return () if end is None or end >= self.tokenizer.vocab_size else (end,)

    @property
    def beginning(self) -> str:
        """How a text without a prompt begins: with nothing, or on a new line where none ends."""
        if self.behind:
            return ""
        return "\n" if b"\n" in self.tokenizer.tokens() else self.tokenizer.decode([0])

    def generate(self, prompt: str = "", **options: Any) -> Completion:
        """The text that goes on from a prompt; `print` shows it, `.tokens` are its ids."""
        return self.generate_many([prompt], **options)[0]

    def generate_many(self, prompts: Sequence[str], **options: Any) -> list[Completion]:
        """A text for each prompt, side by side: each is as it would be alone.

        A prompt that is there several times gets the samples 0, 1, ... of the seed.
        """
        seen: Counter[str] = Counter()
        requests = []
        for prompt in prompts:
            requests.append(self.request(prompt, number=seen[prompt], **options))
            seen[prompt] += 1
        return self.complete(requests)

    def chat(self, messages: str | Messages, **options: Any) -> Completion:
        """The answer to a message, or to a list of them with `role` and `content`.

        UsageError for a model that was not trained on conversations, or where there is no room for
        the last message.
        """
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        request, _ = self.conversations.request(asked, **options)
        return self.complete([request])[0]

    @functools.cached_property
    def conversations(self) -> Conversations:
        """How prompts are made of messages; UsageError for a model without a template."""
        return Conversations(self)

    def stream(self, prompt: str = "", **options: Any) -> Iterator[str]:
        """The text that goes on from a prompt, as it is written."""
        return self.pieces(Completion(self.request(prompt, **options)))

    def pieces(self, completion: Completion) -> Iterator[str]:
        """The text of a completion, as it is written."""
        completer = self.completer(1)
        completer.add(completion)
        while step := completer.step():
            yield from (piece for _, piece in step if piece)

    def completer(self, streams: int) -> Completer:
        """What writes up to so many texts side by side."""
        return Completer(
            self.gpt, self.tokenizer, streams, self.machine.dtype, self.weights, self.guesser(),
            self.cache,
        )  # fmt: skip

    def logprobs(self, text: str, top: int = 0) -> list[TokenLogprob]:
        """The natural log-probability of each token of a text; minus their mean is the loss.

        The first token has none, but where texts are trained on behind the end of another.
        """
        return self.scored([*self.behind, *self.tokenizer.encode(text).tolist()], top)

    def scored(self, ids: Sequence[int], top: int = 0) -> list[TokenLogprob]:
        """The log-probability of each of some tokens after the first."""
        return prompt_logprobs(self.gpt, ids, top, self.cache)

    def request(self, prompt: str | Sequence[int], **options: Any) -> Request:
        """A prompt with options; UsageError for one that there is not, or that cannot be."""
        known = CHOICE | {"max_new_tokens", "seed", "number", "stop", "logprobs", "ends"}
        if unknown := options.keys() - known:
            raise UsageError(f"no option {min(unknown)}", f"Options are {', '.join(sorted(known))}")
        options = {name: checked(name, value) for name, value in options.items()}
        choice = {name: options.pop(name) for name in CHOICE & options.keys()}
        ids = self.prompt(prompt) if isinstance(prompt, str) else tuple(prompt)
        return Request(prompt=ids, sampling=Sampling(**choice), **options)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """The completion of each request, all side by side, or fewer where memory runs out."""
        if not requests:
            return []

        def some_at_once(size: int) -> list[Completion]:
            return complete(
                self.gpt, self.tokenizer, requests, streams=size, dtype=self.machine.dtype,
                weights=self.weights, guesser=self.guesser(), cache=self.cache,
            )  # fmt: skip

        return MicroBatcher(min(len(requests), MAX_STREAMS)).run(some_at_once)


def checked(name: str, value: Any) -> Any:
    """An option of a text in the type that it has; UsageError for any other."""
    if name == "ends":
        return tuple(value)
    if name == "stop":
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"stop={value!r} is not a text or a list of texts")
        return tuple(texts)
    if name == "logit_bias":
        try:
            pairs = value.items() if isinstance(value, Mapping) else value
            return tuple((int(token), float(bias)) for token, bias in pairs)
        except (ValueError, TypeError):
            raise UsageError(f"logit_bias={value!r} is not a number for each of some ids") from None
    if name == "logprobs" and value is None:
        return None
    fraction = isinstance(getattr(DEFAULT, name, 0), float)
    if isinstance(value, bool) or not isinstance(value, (int, float) if fraction else int):
        raise UsageError(f"{name}={value!r} is not a {'' if fraction else 'whole '}number")
    return value
