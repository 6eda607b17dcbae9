"""The engines by name, and how their texts become answers.

The event loop never waits on a model: every text comes from an engine's thread, through a queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import Request as Asked
from fastapi.responses import JSONResponse, StreamingResponse

from bardlet.errors import BardletError
from bardlet.serve.chat import Conversations, NoRoomError
from bardlet.serve.completion import Completion, Request, prompt_logprobs
from bardlet.serve.engine import Engine
from bardlet.serve.events import Refused, left, submitted, within
from bardlet.serve.guard import error_body
from bardlet.serve.model import Model
from bardlet.serve.schema import ChatBody, CompletionBody
from bardlet.serve.shapes import Chat, Chunks, Echo, Legacy

PING_S = 15.0  # a comment on a silent stream, so that nothing between takes it for dead
STALL_S = 300.0  # without any token: the stream is ended


class Server:
    """The engines by name, and how their texts become answers."""

    def __init__(self, models: dict[str, Callable[[], Engine]], max_tokens: int) -> None:
        self.models, self.max_tokens = models, max_tokens
        self.engines: dict[str, Engine] = {}
        self.talks: dict[str, Conversations] = {}
        self.loading = asyncio.Lock()
        self.created = int(time.time())

    def load(self) -> tuple[int, int]:
        """How many texts are written and how many wait, of all models."""
        loads = [engine.load for engine in list(self.engines.values())]
        return sum(running for running, _ in loads), sum(waiting for _, waiting in loads)

    def described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "bardlet"}

    def named(self, name: str | None) -> str:
        """The model's name; without one, the first's."""
        if name is not None and name not in self.models:
            raise Refused(404, f"there is no model {name!r}; there are {', '.join(self.models)}",
                          "model_not_found")  # fmt: skip
        return name or next(iter(self.models))

    async def engine(self, name: str | None) -> Engine:
        """A model's engine; the model is loaded in a thread when it is first asked for."""
        name = self.named(name)
        if name in self.engines:  # without waiting for another that is being loaded
            return self.engines[name]
        async with self.loading:
            if name not in self.engines:
                self.engines[name] = await asyncio.to_thread(self.models[name])
        return self.engines[name]

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()

    async def complete(
        self, body: CompletionBody, asked: Asked
    ) -> JSONResponse | StreamingResponse:
        """POST /v1/completions."""
        engine = await self.engine(body.model)
        n, best_of, seed = body.n or 1, body.best_of or body.n or 1, body.seeds()
        prompts = body.prompts()
        scored = body.logprobs if best_of == n else body.logprobs or 0
        limit = self.limit(16 if body.max_tokens is None else body.max_tokens, best_of, prompts)
        requests = [
            body.request(engine.model, prompt, limit, scored, seed, number)
            for prompt in prompts for number in range(best_of)
        ]  # fmt: skip
        answer = Legacy(self.named(body.model), engine.model, body, requests, best_of)
        if body.echo:
            known = {each.prompt: await echo(engine, each.prompt, body.logprobs)
                     for each in requests[::best_of]}  # fmt: skip
            answer.echoes = [known[request.prompt] for request in requests]
        if body.stream:
            return await self.streamed(engine, requests, answer, asked)
        completions = await self.written(engine, requests, asked)
        return JSONResponse(answer.whole(completions, n))

    async def chat(self, body: ChatBody, asked: Asked) -> JSONResponse | StreamingResponse:
        """POST /v1/chat/completions."""
        engine = await self.engine(body.model)
        talk = self.conversations(self.named(body.model), engine.model)
        n, seed = body.n or 1, body.seeds()
        limit = self.limit(engine.model.context if body.wanted is None else body.wanted, n, [""])
        top = (body.top_logprobs or 0) if body.logprobs else None
        try:
            prompt = talk.prompt([message.message() for message in body.messages], limit)
        except NoRoomError as error:
            raise Refused(400, str(error), "context_length_exceeded") from None
        except BardletError as error:
            raise Refused(400, str(error), "unsupported_messages") from None
        requests = [
            body.request(engine.model, prompt.ids, limit, top, seed, number, talk.ends)
            for number in range(n)
        ]
        answer = Chat(self.named(body.model), engine.model, body, requests, n)
        answer.truncated = answer.truncated or bool(prompt.dropped)
        if body.stream:
            return await self.streamed(engine, requests, answer, asked)
        return JSONResponse(answer.whole(await self.written(engine, requests, asked), n))

    def conversations(self, name: str, model: Model) -> Conversations:
        """A model's conversations; Refused for a model without a template."""
        if name not in self.talks:
            try:
                self.talks[name] = Conversations(model)
            except BardletError as error:
                text = f"{error.message}: use /v1/completions. {error.hint}"
                raise Refused(400, text, "no_chat_template") from None
        return self.talks[name]

    def limit(self, wanted: int, n: int, prompts: Sequence[object]) -> int:
        """How many tokens each text may have; Refused where all of them together are too many."""
        count = n * len(prompts)
        if wanted * count > self.max_tokens:
            text = f"{wanted} tokens for each of {count} texts are more than {self.max_tokens:,}"
            raise Refused(400, text, "max_tokens_too_large")
        return wanted

    async def written(
        self, engine: Engine, requests: list[Request], asked: Asked
    ) -> list[Completion]:
        """The completions of requests, once all are whole; none where the client leaves."""
        job, events = submitted(engine, requests)
        gone = asyncio.ensure_future(left(asked))
        try:
            open_texts = len(job.completions)
            while open_texts:
                event = await within(events, STALL_S, gone)
                if event is None:
                    raise Refused(504, "no token for too long", "stall")
                if isinstance(event, BardletError):
                    raise event
                if isinstance(event, BaseException):
                    raise Refused(500, reason(event))
                open_texts -= event.finish_reason is not None
        finally:
            gone.cancel()
            engine.cancel(job)
        return job.completions

    async def streamed(
        self, engine: Engine, requests: list[Request], answer: Chunks, asked: Asked
    ) -> StreamingResponse:
        """The same as server-sent events, as they are written."""
        job, events = submitted(engine, requests)  # before the headers: what is busy says so

        async def lines() -> AsyncIterator[str]:
            open_texts, silent = len(job.completions), 0.0
            try:
                for first in answer.first():
                    yield sse(first)
                while open_texts:
                    event = await within(events, PING_S)
                    if event is None:
                        silent += PING_S
                        if silent >= STALL_S:
                            yield sse(error_body("no token for too long", "server_error", "stall"))
                            return
                        yield ": ping\n\n"
                        continue
                    silent = 0.0
                    if isinstance(event, BaseException):
                        yield sse(error_body(reason(event), "server_error"))
                        return
                    open_texts -= event.finish_reason is not None
                    if event.text or event.finish_reason or event.logprobs:
                        yield sse(answer.chunk(event))
                for last in answer.last(job.completions):
                    yield sse(last)
                yield "data: [DONE]\n\n"
            finally:  # also where the client has left
                engine.cancel(job)

        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def echo(engine: Engine, prompt: tuple[int, ...], top: int | None) -> Echo:
    """A prompt's own text, and with `top` its log-probabilities, for what `echo` asks for."""
    model, loop = engine.model, asyncio.get_running_loop()
    behind = len(model.behind) if prompt[: len(model.behind)] == model.behind else 0
    text = model.tokenizer.decode(list(prompt[behind:]))
    if top is None:
        return text, []
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any) -> None:
        loop.call_soon_threadsafe(lambda: done.cancelled() or done.set_result(result))

    engine.call(lambda: prompt_logprobs(model.gpt, prompt, top), tell)
    result = await done
    if isinstance(result, BaseException):
        raise Refused(500, reason(result))
    # the first token has no log-probability, but behind an end of text, which is not shown
    return text, result if behind else [prompt[0], *result]


def reason(error: BaseException) -> str:
    """What a client is told of an error: nothing of the machine."""
    return str(error) if isinstance(error, BardletError) else "the server failed on this request"


def sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
