"""Between an engine's thread and the event loop: events, waiting for them, clients that leave."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from fastapi import Request as Asked

from bardlet.errors import BardletError
from bardlet.serve.completion import Request
from bardlet.serve.engine import Busy, Closed, Engine, Event, Job


class Refused(Exception):  # noqa: N818
    """An answer in OpenAI's shape of errors."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.code = status, code
        super().__init__(message)


class Gone(Exception):  # noqa: N818
    """The client has left."""


class Mail:
    """What other threads have for one event loop: all that waits is brought by one wakeup."""

    loops: ClassVar[Any] = weakref.WeakKeyDictionary()  # each one's, by the loop

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Mail:
        return cls.loops.setdefault(loop, cls())

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[Any], None], Any]] = deque()
        self.called = False  # the loop, which has not come yet

    def send(self, loop: asyncio.AbstractEventLoop, take: Callable[[Any], None], what: Any) -> None:
        """Have the loop call take(what); nothing where it is closed."""
        self.waiting.append((take, what))
        if not self.called and not loop.is_closed():
            self.called = True
            loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        self.called = False  # first: what comes from here on calls again
        while self.waiting:
            take, what = self.waiting.popleft()
            take(what)


class Box:
    """Events for one coroutine, in their order."""

    def __init__(self) -> None:
        self.events: deque[Event | BaseException] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def put(self, event: Event | BaseException) -> None:
        self.events.append(event)
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def get(self, seconds: float) -> Event | BaseException | None:
        """The next event; None where none comes in time."""
        if not self.events:
            loop = asyncio.get_running_loop()
            self.waiter = loop.create_future()
            timer = loop.call_later(seconds, self.wake)
            try:
                await self.waiter
            finally:
                timer.cancel()
                self.waiter = None
        return self.events.popleft() if self.events else None


def submitted(engine: Engine, requests: list[Request], *, whole: bool = False) -> tuple[Job, Box]:
    """Requests that an engine writes from now on, and where their events come; see Job."""
    loop, box = asyncio.get_running_loop(), Box()
    mail = Mail.of(loop)
    job = Job(requests, lambda event: mail.send(loop, box.put, event), whole=whole)
    try:
        engine.submit(job)
    except Busy:
        raise Refused(429, "too many texts are waiting", "queue_full") from None
    except Closed as error:
        raise failed(error) from None
    return job, box


async def called(engine: Engine, work: Callable[[], Any]) -> Any:
    """The result of other work with an engine's model, done by its thread between two steps."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    mail = Mail.of(loop)

    def take(result: Any) -> None:
        if not done.done():
            done.set_result(result)

    engine.call(work, lambda result: mail.send(loop, take, result))
    result = await done
    if isinstance(result, BardletError):
        raise result
    if isinstance(result, BaseException):
        raise failed(result)
    return result


def failed(error: BaseException) -> Refused:
    """The answer to a request that an error ended."""
    if isinstance(error, Closed):
        return Refused(503, str(error), "shutting_down")
    return Refused(500, reason(error))


def reason(error: BaseException) -> str:
    """What a client is told of an error: nothing of the machine."""
    known = isinstance(error, BardletError | Closed)
    return str(error) if known else "the server failed on this request"


async def left(asked: Asked) -> None:
    """Returns when the client has gone."""
    while (await asked.receive())["type"] != "http.disconnect":
        pass
