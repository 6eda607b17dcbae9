"""Between an engine's thread and the event loop: events in a queue, and clients that leave."""

from __future__ import annotations

import asyncio

from fastapi import Request as Asked

from bardlet.serve.completion import Request
from bardlet.serve.engine import Busy, Engine, Event, Job

Events = asyncio.Queue[Event | BaseException]


class Refused(Exception):  # noqa: N818
    """An answer in OpenAI's shape of errors."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.code = status, code
        super().__init__(message)


class Gone(Exception):  # noqa: N818
    """The client has left."""


def submitted(engine: Engine, requests: list[Request]) -> tuple[Job, Events]:
    """Requests that an engine writes from now on, and the queue in which their events come."""
    loop, events = asyncio.get_running_loop(), Events()

    def tell(event: Event | BaseException) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    job = Job(requests, tell)
    try:
        engine.submit(job)
    except Busy:
        raise Refused(429, "too many texts are waiting", "queue_full") from None
    except RuntimeError as error:
        raise Refused(503, str(error)) from None
    return job, events


async def within(
    events: Events, seconds: float, gone: asyncio.Future[None] | None = None
) -> Event | BaseException | None:
    """The next event, None where none comes in time; Gone where the client leaves first."""
    get = asyncio.ensure_future(events.get())
    try:
        watched = {get} if gone is None else {get, gone}
        await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if get.done():
            return get.result()
        if gone is not None and gone.done():
            raise Gone
        return None
    finally:
        get.cancel()


async def left(asked: Asked) -> None:
    """Returns when the client has gone."""
    while (await asked.receive())["type"] != "http.disconnect":
        pass
