"""Texts that an engine writes as answers of HTTP: at once, or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request as Asked
from fastapi.responses import StreamingResponse

from bardlet.errors import BardletError
from bardlet.serve.completion import Completion, Request, TokenLogprob
from bardlet.serve.engine import Engine, Job
from bardlet.serve.events import Gone, Refused, called, failed, left, reason, submitted
from bardlet.serve.guard import error_body
from bardlet.serve.shapes import Chunks, Echo, sse

PING_S = 15.0  # a comment on a silent stream, so that nothing between takes it for dead
STALL_S = 300.0  # without any token: the request is ended


async def written(engine: Engine, requests: list[Request], asked: Asked) -> list[Completion]:
    """The completions of requests, once all are whole; Gone where the client leaves first."""
    job, box = submitted(engine, requests, whole=True)
    gone = asyncio.ensure_future(left(asked))
    gone.add_done_callback(lambda task: task.cancelled() or box.put(Gone()))
    try:
        open_texts, tokens = len(job.completions), -1
        while open_texts:
            event = await box.get(STALL_S)
            if event is None:
                before, tokens = tokens, sum(len(each.tokens) for each in job.completions)
                if tokens == before or not tokens:
                    raise Refused(504, "no token for too long", "stall")
            elif isinstance(event, Gone | BardletError):
                raise event
            elif isinstance(event, BaseException):
                raise failed(event)
            else:
                open_texts -= event.finish_reason is not None
    finally:
        gone.cancel()
        engine.cancel(job)
    return job.completions


class Stream(StreamingResponse):
    """Server-sent events of a job, which ends with the answer, however that ends."""

    def __init__(self, engine: Engine, job: Job, lines: AsyncIterator[str]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self.engine, self.job = engine, job

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:  # a client that left before the first line never had `lines` begin
            self.engine.cancel(self.job)


async def streamed(engine: Engine, requests: list[Request], answer: Chunks) -> Stream:
    """The texts of requests as server-sent events, as they are written."""
    job, box = submitted(engine, requests)  # before the headers: what is busy says so

    async def lines() -> AsyncIterator[str]:
        open_texts, silent = len(job.completions), 0.0
        for first in answer.first():
            yield sse(first)
        while open_texts:
            event = await box.get(PING_S)
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

    return Stream(engine, job, lines())


async def echo(engine: Engine, prompt: tuple[int, ...], top: int | None) -> Echo:
    """A prompt's own text, and with `top` its log-probabilities, for what `echo` asks for."""
    model = engine.model
    behind = len(model.behind) if prompt[: len(model.behind)] == model.behind else 0
    text = model.tokenizer.decode(list(prompt[behind:]))
    if top is None:
        return text, []
    # the first token has no log-probability, but behind an end of text, which is not shown
    return text, [*([] if behind else prompt[:1]), *await scored(engine, prompt, top)]


async def scored(engine: Engine, tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """`scored` of an engine's model, which writes texts between two windows."""
    model, size = engine.model, engine.model.context
    logprobs: list[TokenLogprob] = []
    for begin in range(0, len(tokens) - 1, size):
        window = tokens[begin : begin + size + 1]
        logprobs += await called(engine, lambda w=window: model.scored(w, top))
    return logprobs
