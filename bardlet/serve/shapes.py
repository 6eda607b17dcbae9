"""Answers in the shapes of OpenAI's API."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from bardlet.serve.completion import Completion, Request, TokenLogprob
from bardlet.serve.engine import Event
from bardlet.serve.model import Model
from bardlet.serve.schema import Options

IMPOSSIBLE = -9999.0
Echo = tuple[str, list[TokenLogprob | int]]  # a prompt's text and log-probabilities


class Chunks(Protocol):
    """The shape of a stream: the chunks before, during and after what is written."""

    def first(self) -> list[dict[str, Any]]: ...

    def chunk(self, event: Event) -> dict[str, Any]: ...

    def last(self, completions: Sequence[Completion]) -> list[dict[str, Any]]: ...


class Pieces:
    """The text of tokens, one after the other, and where each begins in the answer's text."""

    def __init__(self, pieces: Sequence[bytes], offset: int = 0) -> None:
        self.pieces, self.offset = pieces, offset

    def legacy(self, logprobs: Sequence[TokenLogprob | int], top: int) -> dict[str, Any]:
        """The log-probabilities of a completion; an id stands for a token without one."""
        texts, values, tops, offsets = [], [], [], []
        for each in logprobs:
            token = each if isinstance(each, int) else each.token
            text = self.text(token)
            texts.append(text)
            offsets.append(self.offset)
            self.offset += len(text)
            values.append(None if isinstance(each, int) else finite(each.logprob))
            tops.append(None if isinstance(each, int) else self.top(each, top))
        return {
            "tokens": texts, "token_logprobs": values, "top_logprobs": tops,
            "text_offset": offsets,
        }  # fmt: skip

    def top(self, each: TokenLogprob, top: int) -> dict[str, float | None]:
        """The likeliest tokens and the one that was taken, by their texts."""
        wanted = [*each.top[:top], (each.token, each.logprob)]
        return {self.text(token): finite(logprob) for token, logprob in reversed(wanted)}

    def chat(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The log-probabilities of a chat completion."""

        def one(token: int, logprob: float) -> dict[str, Any]:
            # clients want a number: OpenAI's own for a token that is out of question
            number = logprob if math.isfinite(logprob) else IMPOSSIBLE
            return {"token": self.text(token), "logprob": number,
                    "bytes": list(self.pieces[token])}  # fmt: skip

        content = [
            {**one(each.token, each.logprob), "top_logprobs": [one(*other) for other in each.top]}
            for each in logprobs
        ]
        return {"content": content, "refusal": None}

    def text(self, token: int) -> str:
        return self.pieces[token].decode("utf-8", errors="replace")


def finite(logprob: float) -> float | None:
    """A log-probability as JSON has it: null for -inf and NaN."""
    return logprob if math.isfinite(logprob) else None


def sse(value: dict[str, Any]) -> str:
    """A server-sent event, with the name that it has in `type`, if any."""
    name = f"event: {value['type']}\n" if "type" in value else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False)}\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens of the prompts and of all that was written."""
    return {
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }  # fmt: skip


class Legacy:
    """The shape of /v1/completions."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(
        self, name: str, model: Model, body: Options, requests: list[Request], per: int
    ) -> None:
        """`per`: how many texts of `requests` each prompt has."""
        self.body, self.requests, self.per = body, requests, per
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": name,
        }  # fmt: skip
        self.pieces = model.tokenizer.tokens()
        self.echoes: list[Echo] = [("", [])] * len(requests)  # what stands before each text
        self.offsets: dict[int, Pieces] = {}
        longest = max(len(request.prompt) for request in requests)
        self.truncated = longest > model.context
        self.began = time.perf_counter()

    def whole(self, completions: Sequence[Completion], n: int) -> dict[str, Any]:
        """The answer with its best n choices of each prompt."""
        choices = []
        for start in range(0, len(completions), self.per):
            group = range(start, start + self.per)
            if self.per > n:  # the highest mean log-probability first
                group = sorted(group, key=lambda i: -mean(completions[i].logprobs))[:n]
            for i in group:
                choices.append(self.choice(len(choices), i, completions[i]))
        took = time.perf_counter() - self.began
        written = sum(len(completion.tokens) for completion in completions)
        return {
            **self.head, "object": self.kind, "choices": choices, "usage": self.usage(completions),
            "truncated": self.truncated,
            "timings": {"seconds": took, "tokens_per_s": written / took if took else 0.0},
        }  # fmt: skip

    def choice(self, index: int, i: int, completion: Completion) -> dict[str, Any]:
        echo, before = self.echoes[i]
        top = getattr(self.body, "logprobs", None)
        told = None
        if top is not None:
            told = Pieces(self.pieces).legacy([*before, *completion.logprobs], top)
        return {
            "index": index, "text": echo + completion.text, "logprobs": told,
            "finish_reason": completion.finish_reason,
        }  # fmt: skip

    def usage(self, completions: Sequence[Completion]) -> dict[str, int]:
        prompts = sum(len(request.prompt) for request in self.requests[:: self.per])
        return usage(prompts, sum(len(completion.tokens) for completion in completions))

    # --- streams

    def first(self) -> list[dict[str, Any]]:
        """The chunks before anything is written: what `echo` asks for."""
        echoes = enumerate(self.echoes)
        return [self.event(i, text, before, None) for i, (text, before) in echoes if text or before]

    def chunk(self, event: Event) -> dict[str, Any]:
        """The chunk of an event."""
        return self.event(event.index, event.text, event.logprobs, event.finish_reason)

    def event(
        self, i: int, text: str, logprobs: Sequence[TokenLogprob | int], finish: str | None
    ) -> dict[str, Any]:
        top, told = getattr(self.body, "logprobs", None), None
        if top is not None and logprobs:
            told = self.offsets.setdefault(i, Pieces(self.pieces)).legacy(logprobs, top)
        choice = {"index": i, "text": text, "logprobs": told, "finish_reason": finish}
        return {**self.head, "object": self.kind, "choices": [choice], **self.slid(finish)}

    def slid(self, finish: str | None) -> dict[str, Any]:
        """What the chunk that ends a text says besides: whether the prompt's beginning was left
        out.
        """
        return {} if finish is None else {"truncated": self.truncated}

    def last(self, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        """The chunks after all is written: the usage, where it is asked for."""
        options = self.body.stream_options
        if options is None or not options.include_usage:
            return []
        numbers = {"choices": [], "usage": self.usage(completions)}
        return [{**self.head, "object": self.kind, **numbers}]


class Chat(Legacy):
    """The shape of /v1/chat/completions."""

    kind, prefix = "chat.completion", "chatcmpl"

    def choice(self, index: int, i: int, completion: Completion) -> dict[str, Any]:
        told = Pieces(self.pieces).chat(completion.logprobs) if self.asks else None
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        return {
            "index": index, "message": message, "logprobs": told,
            "finish_reason": completion.finish_reason,
        }  # fmt: skip

    @property
    def asks(self) -> bool:
        return bool(getattr(self.body, "logprobs", False))

    def first(self) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        return [self.delta(i, role, None, None) for i in range(len(self.requests))]

    def chunk(self, event: Event) -> dict[str, Any]:
        told = Pieces(self.pieces).chat(event.logprobs) if self.asks and event.logprobs else None
        content = {"content": event.text} if event.text else {}
        return self.delta(event.index, content, told, event.finish_reason)

    def delta(
        self, i: int, delta: dict[str, Any], told: dict[str, Any] | None, finish: str | None
    ) -> dict[str, Any]:
        choice = {"index": i, "delta": delta, "logprobs": told, "finish_reason": finish}
        kind = "chat.completion.chunk"
        return {**self.head, "object": kind, "choices": [choice], **self.slid(finish)}

    def last(self, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        return [{**one, "object": "chat.completion.chunk"} for one in super().last(completions)]


def mean(logprobs: Sequence[TokenLogprob]) -> float:
    return sum(each.logprob for each in logprobs) / max(1, len(logprobs))
