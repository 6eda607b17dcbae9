"""The engines by name, and how their texts become answers.

The event loop never waits on a model: every text comes from an engine's thread, through a queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request as Asked
from fastapi.responses import JSONResponse, StreamingResponse

from bardlet.errors import BardletError, UsageError
from bardlet.serve.answers import echo, streamed, written
from bardlet.serve.chat import Conversations, NoRoomError
from bardlet.serve.engine import Engine
from bardlet.serve.engines import Engines
from bardlet.serve.events import Refused
from bardlet.serve.model import Model
from bardlet.serve.schema import ChatBody, CompletionBody
from bardlet.serve.shapes import Chat, Legacy

AT_ONCE = 10_000  # characters that are encoded without a thread of their own
T = TypeVar("T")


def conversations_of(model: Model) -> Conversations:
    """A model's conversations; Refused for a model without a template."""
    try:
        return model.conversations
    except BardletError as error:
        text = f"{error.message}: use /v1/completions. {error.hint}"
        raise Refused(400, text, "no_chat_template") from None


async def encoding(characters: int, work: Callable[[], T]) -> T:
    """The result of work that encodes so many characters; clients are served meanwhile."""
    return work() if characters <= AT_ONCE else await asyncio.to_thread(work)


def checked(model: Model, ids: Sequence[int]) -> Sequence[int]:
    """Token ids that the model has; UsageError for others."""
    size = model.tokenizer.vocab_size
    if any(token >= size for token in ids):
        raise UsageError(f"tokens are from 0 to {size - 1}")
    return ids


class Server:
    """The engines by name, and how their texts become answers."""

    def __init__(
        self, models: dict[str, Callable[[], Engine]], max_tokens: int,
        sizes: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.models, self.max_tokens = models, max_tokens
        self.engines = Engines(models, sizes)
        self.created = int(time.time())

    def load(self) -> tuple[int, int]:
        """How many texts are written and how many wait, of all models."""
        loads = [engine.load for engine in self.engines.all()]
        return sum(running for running, _ in loads), sum(waiting for _, waiting in loads)

    def described(self, name: str) -> dict[str, Any]:
        facts = {"id": name, "object": "model", "created": self.created, "owned_by": "bardlet"}
        if engine := self.engines.loaded.get(name):
            facts["checkpoint"] = Path(engine.model.trained.source).name
        return facts

    def named(self, name: str | None) -> str:
        """The model's name; without one, the first's."""
        if name is not None and name not in self.models:
            raise Refused(404, f"there is no model {name!r}; there are {', '.join(self.models)}",
                          "model_not_found")  # fmt: skip
        return name or next(iter(self.models))

    async def engine(self, name: str | None) -> Engine:
        """A model's engine; the model is loaded in a thread when it is first asked for."""
        return await self.engines.get(self.named(name))

    async def encoded(
        self, model: Model, prompts: Sequence[str | list[int]]
    ) -> list[tuple[int, ...]]:  # fmt: skip
        """The tokens of prompts; Refused where all of them together are too many.

        UsageError for ids that the model does not have.
        """
        text = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))

        def encode() -> list[tuple[int, ...]]:
            return [model.prompt(p) if isinstance(p, str) else tuple(p) for p in prompts]

        ids = await encoding(text, encode)
        for prompt in ids:
            checked(model, prompt)
        if (tokens := sum(map(len, ids))) > self.max_tokens:
            text = f"prompts of {tokens:,} tokens are more than {self.max_tokens:,}"
            raise Refused(400, text, "context_length_exceeded")
        return ids

    def close(self) -> None:
        self.engines.close()

    async def complete(
        self, body: CompletionBody, asked: Asked
    ) -> JSONResponse | StreamingResponse:
        """POST /v1/completions."""
        engine = await self.engine(body.model)
        n, best_of, seed = body.n or 1, body.best_of or body.n or 1, body.seeds()
        limit = 16 if body.max_tokens is None else body.max_tokens
        self.limit(limit, best_of, body.prompts())
        prompts = await self.encoded(engine.model, body.prompts())
        scored = body.logprobs if best_of == n else body.logprobs or 0
        requests = [
            body.request(engine.model, prompt, limit, scored, seed, number)
            for prompt in prompts for number in range(best_of)
        ]  # fmt: skip
        answer = Legacy(self.named(body.model), engine.model, body, requests, best_of)
        if body.echo:
            known = {prompt: await echo(engine, prompt, body.logprobs) for prompt in set(prompts)}
            answer.echoes = [known[request.prompt] for request in requests]
        if body.stream:
            return await streamed(engine, requests, answer)
        completions = await written(engine, requests, asked)
        return JSONResponse(answer.whole(completions, n))

    async def chat(
        self, body: ChatBody, asked: Asked, shape: Callable[..., Chat] = Chat
    ) -> JSONResponse | StreamingResponse:  # fmt: skip
        """POST /v1/chat/completions, or another that has the answer in another `shape`."""
        engine = await self.engine(body.model)
        talk = conversations_of(engine.model)
        n, seed = body.n or 1, body.seeds()
        limit = self.limit(engine.model.context if body.wanted is None else body.wanted, n, [""])
        top = (body.top_logprobs or 0) if body.logprobs else None
        try:
            messages = [message.message() for message in body.messages]
            text = sum(len(message["content"]) for message in messages)
            prompt = await encoding(text, lambda: talk.prompt(messages, limit))
        except NoRoomError as error:
            raise Refused(400, str(error), "context_length_exceeded") from None
        except BardletError as error:
            raise Refused(400, str(error), "unsupported_messages") from None
        requests = [
            body.request(engine.model, prompt.ids, limit, top, seed, number, talk.ends)
            for number in range(n)
        ]
        answer = shape(self.named(body.model), engine.model, body, requests, n)
        answer.truncated = answer.truncated or bool(prompt.dropped)
        if body.stream:
            return await streamed(engine, requests, answer)
        return JSONResponse(answer.whole(await written(engine, requests, asked), n))

    def limit(self, wanted: int, n: int, prompts: Sequence[object]) -> int:
        """How many tokens each text may have; Refused where all of them together are too many."""
        count = n * len(prompts)
        if wanted * count > self.max_tokens:
            text = f"{wanted} tokens for each of {count} texts are more than {self.max_tokens:,}"
            raise Refused(400, text, "max_tokens_too_large")
        return wanted
