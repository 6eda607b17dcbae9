"""One thread that owns a model and writes the texts of all requests, as they come and go.

Between two token steps waiting requests join and those that nobody waits for leave. Events reach a
request through a callback, from the engine's thread.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bardlet.serve.completion import Completer, Completion, Request, TokenLogprob
from bardlet.serve.model import Model


class Busy(Exception):  # noqa: N818
    """The queue is full."""


class Closed(Exception):  # noqa: N818
    """The engine takes no more."""

    def __init__(self) -> None:
        super().__init__("the model is shutting down")


@dataclass(frozen=True)
class Event:
    """What a step has written for one of a job's requests."""

    index: int  # which
    text: str
    logprobs: list[TokenLogprob]
    finish_reason: str | None


class Job:
    """Requests that belong together; `tell` gets their events, or the exception that ended them.

    With `whole` it gets the last event of each text only.
    """

    def __init__(
        self, requests: Sequence[Request], tell: Callable[[Event | BaseException], None],
        *, whole: bool = False,
    ) -> None:  # fmt: skip
        self.completions = [Completion(request) for request in requests]
        self.tell, self.whole, self.began = tell, whole, time.monotonic()


BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass
class Stats:
    """What an engine has done so far."""

    texts: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    failures: int = 0
    # first tokens by their delay: how many up to each of BUCKETS_S, and beyond; all seconds
    delays: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    delays_s: float = 0.0

    def __add__(self, other: Stats) -> Stats:
        delays = tuple(a + b for a, b in zip(self.delays, other.delays, strict=True))
        return Stats(
            self.texts + other.texts, self.prompt_tokens + other.prompt_tokens,
            self.tokens + other.tokens, self.failures + other.failures, delays,
            self.delays_s + other.delays_s,
        )  # fmt: skip

    def first_token(self, seconds: float) -> None:
        at = bisect.bisect_left(BUCKETS_S, seconds)
        self.delays = (*self.delays[:at], self.delays[at] + 1, *self.delays[at + 1 :])
        self.delays_s += seconds


@dataclass(frozen=True)
class Call:
    """Other work, and who gets its result, or the exception that ended it."""

    work: Callable[[], Any]
    done: Callable[[Any], None]

    def __call__(self) -> None:
        try:
            result = self.work()
        except BaseException as error:  # one that is cancelled is no Exception
            result = error
        with contextlib.suppress(BaseException):  # where who asked has gone, nobody suffers
            self.done(result)


class Engine:
    """The thread and what waits for it: at most `queue` texts beside the `streams` written."""

    def __init__(self, model: Model, streams: int, queue: int) -> None:
        self.model, self.streams, self.queue = model, streams, queue
        self.completer, self.stats = self.fresh(), Stats()
        self.jobs: dict[int, tuple[Job, int]] = {}  # by id of the completion
        self.orders: deque[Callable[[], None]] = deque()
        self.wake = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self.thread.start()

    def fresh(self) -> Completer:
        model = self.model
        return model.completer(self.streams)

    def submit(self, job: Job) -> None:
        """Write a job's texts; Busy where more wait than may."""
        with self.wake:
            if self.closed:
                raise Closed
            if len(self.jobs) + len(job.completions) > self.streams + self.queue:
                raise Busy
            # counted at once, so that many who come together do not all find room
            for i, completion in enumerate(job.completions):
                self.jobs[id(completion)] = (job, i)
            self.orders.append(lambda: self.begin(job))
            self.wake.notify()

    def cancel(self, job: Job) -> None:
        """Stop writing a job's texts: their places are for others."""
        self.order(lambda: self.drop(job))

    def call(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Do something else with the model, between two steps; `done` gets result or exception."""

        self.order(Call(work, done))

    def close(self) -> None:
        """End the thread, and every job with an exception."""
        with self.wake:
            self.closed = True
            self.wake.notify()
        self.thread.join()

    @property
    def load(self) -> tuple[int, int]:
        """How many texts are written, and how many wait."""
        running = len(self.completer.running)
        return running, max(0, len(self.jobs) - running)

    # --- the engine's thread

    def order(self, work: Callable[[], None]) -> None:
        with self.wake:
            if not self.closed:
                self.orders.append(work)
                self.wake.notify()
                return
        if isinstance(work, Call):
            work.done(Closed())

    def run(self) -> None:
        while self.turn():
            pass
        for call in [order for order in self.orders if isinstance(order, Call)]:
            with contextlib.suppress(BaseException):
                call.done(Closed())
        self.fail(Closed())

    def turn(self) -> bool:
        """Wait for something to do, and do it; False at the engine's end.

        A call of its own, so that an engine which waits holds none of the last texts.
        """
        with self.wake:
            idle = not self.completer.running and not self.completer.waiting
            while idle and not self.orders and not self.closed:
                self.wake.wait()
            if self.closed:
                return False
            orders, self.orders = self.orders, deque()
        for work in (*orders, self.step):
            try:
                work()
            except BaseException as error:  # of memory, say: those that come must not suffer
                self.stats.failures += 1
                self.fail(error)
                self.completer = self.fresh()
        return True

    def begin(self, job: Job) -> None:
        for i, completion in enumerate(job.completions):
            if id(completion) not in self.jobs:
                continue
            try:
                self.completer.add(completion)
            except Exception as error:
                job.tell(error)
                self.drop(job)
                return
            self.stats.texts += 1
            self.stats.prompt_tokens += len(completion.request.prompt)
            if completion.finish_reason:
                del self.jobs[id(completion)]
                job.tell(Event(i, "", [], completion.finish_reason))

    def drop(self, job: Job) -> None:
        for completion in job.completions:
            if self.jobs.pop(id(completion), None):
                self.completer.remove(completion)

    def step(self) -> None:
        running = [run.completion for run in self.completer.running]
        counts = {id(c): (len(c.logprobs), len(c.tokens)) for c in running}
        for completion, text in self.completer.step():
            scored, tokens = counts.get(id(completion), (0, 0))
            logprobs = completion.logprobs[scored:]
            job, i = self.jobs[id(completion)]
            self.stats.tokens += len(completion.tokens) - tokens
            if not tokens:
                self.stats.first_token(time.monotonic() - job.began)
            if completion.finish_reason:
                del self.jobs[id(completion)]
            if completion.finish_reason or not job.whole:
                job.tell(Event(i, text, logprobs, completion.finish_reason))

    def fail(self, error: BaseException) -> None:
        """End every job with an exception."""
        with self.wake:
            jobs = {id(job): job for job, _ in self.jobs.values()}
            self.jobs = {}
        for job in jobs.values():
            with contextlib.suppress(BaseException):  # such as an event loop that has gone
                job.tell(error)
