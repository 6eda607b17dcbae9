"""Bugs that other servers have or had, each a test: numbers are those of the list at the end.

1-3 a client that leaves; 4-5 errors that end a server; 6 a stall behind pings; 7-9 stop strings;
10 bytes that are not UTF-8; 11-12 log-probabilities; 13 usage in streams; 14 prompts that are too
long; 15 seeds; 16-18 who may ask; 19 memory; 20 threads; 21 the context's edge. What is not here
is in test_server.py (12, 15, 17, 18), test_stop.py and test_model.py (7-9, 15).
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import math
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from serve_support import Served, byte_model, post
from support import PLAY

from bardlet.serve import answers, events
from bardlet.serve.completion import Completion, TokenLogprob
from bardlet.serve.engine import Job
from bardlet.serve.events import Box
from bardlet.serve.model import Model
from bardlet.serve.shapes import Pieces

LONG = {"prompt": "All:", "max_tokens": 20_000}


@pytest.fixture(scope="module")
def served_bytes() -> Iterator[Served]:
    one = Served(byte_model())
    yield one
    one.close()


def connect(served: Served, body: dict[str, Any]) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    raw.sendall(post(body))
    return raw


def reset(raw: socket.socket) -> None:
    """Close with a reset, as a process that is killed does: the next write to it fails."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


# --- 1, 2, 3, 5: clients that leave


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("close", [socket.socket.close, reset])
def test_gone_before_the_first_token(served: Served, stream: bool, close: Any) -> None:
    """Its place is free although nothing was ever sent to it, and no token is written for it."""
    event = served.held()
    raw = connect(served, {**LONG, "stream": stream})
    until = time.monotonic() + 60
    while served.engine.load == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    assert served.engine.load == (0, 1)
    close(raw)
    time.sleep(0.1)
    event.set()
    assert served.idle()


def test_gone_while_its_prompt_is_scored(served: Served) -> None:
    """Before the answer as a stream is begun, which then never is."""
    event = served.held()
    raw = connect(served, {**LONG, "echo": True, "logprobs": 0, "stream": True})
    time.sleep(0.2)
    reset(raw)
    time.sleep(0.1)
    event.set()
    time.sleep(0.1)
    assert served.idle()


@pytest.mark.parametrize("stream", [True, False])
def test_gone_in_the_middle(served: Served, stream: bool) -> None:
    raw = connect(served, {**LONG, "max_tokens": 6000, "stream": stream, "n": 3})
    until = time.monotonic() + 60
    while served.engine.load[0] < 3 and time.monotonic() < until:
        time.sleep(0.01)
    if stream:
        assert b"200 OK" in raw.recv(1000)
    reset(raw)
    assert served.idle()
    assert served.ask("POST", "/v1/completions", {"prompt": "All:"})[0] == 200


# --- 4: errors that are no Exception


def test_what_is_cancelled_does_not_end_the_engine(served: Served) -> None:
    def cancelled(*values: Any) -> Any:
        raise asyncio.CancelledError

    results: list[Any] = []
    served.engine.call(cancelled, results.append)
    served.engine.call(lambda: None, cancelled)
    served.engine.submit(Job([served.engine.model.request("All:")], cancelled))
    assert served.ask("POST", "/v1/completions", {"prompt": "All:"})[0] in (200, 500)
    assert served.ask("POST", "/v1/completions", {"prompt": "All:"})[0] == 200
    assert isinstance(results[0], asyncio.CancelledError) and served.idle()


# --- 6: a stall


def test_a_stall_is_pinged_and_then_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PING_S", 0.05)
    monkeypatch.setattr(answers, "STALL_S", 0.2)
    event = served.held()
    try:
        status, answer, _ = served.ask("POST", "/v1/completions", {**LONG, "stream": True})
        lines = answer.decode().split("\n\n")
        assert status == 200 and lines[:3] == [": ping"] * 3
        assert json.loads(lines[3].removeprefix("data: "))["error"]["code"] == "stall"
        status, answer, _ = served.ask("POST", "/v1/completions", LONG)
        assert (status, answer["error"]["code"]) == (504, "stall")
    finally:
        event.set()
    assert served.idle()


def test_a_long_text_is_no_stall(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is sent before it is whole, its tokens count.

    The time is up after each token, and the next one comes only then.
    """
    writer = served.engine.completer.writer
    step, wanted, silences = writer.step, threading.Semaphore(1), list[int]()

    def awaited(*args: Any) -> Any:
        wanted.acquire(timeout=1)
        return step(*args)

    def submitted(*args: Any, **options: Any) -> tuple[Job, Box]:
        job, box = events.submitted(*args, **options)
        get = box.get

        async def until_a_token(seconds: float) -> Any:
            while not box.events:
                tokens = sum(len(each.tokens) for each in job.completions)
                if tokens > sum(silences[-1:]):
                    silences.append(tokens)
                    wanted.release()
                    return None
                await asyncio.sleep(0.001)
            return await get(seconds)

        monkeypatch.setattr(box, "get", until_a_token)
        return job, box

    monkeypatch.setattr(writer, "step", awaited)
    monkeypatch.setattr(answers, "submitted", submitted)
    body = {"prompt": "All:", "max_tokens": 20, "logprobs": 0}
    assert served.ask("POST", "/v1/completions", body)[0] == 200
    assert len(silences) > 9


# --- 7, 8, 9: stop strings, on every endpoint that has them


def test_a_stop_string_across_tokens_is_never_begun(served_bytes: Served) -> None:
    """Of every two and three characters of a text; what only looked like one comes in the end."""
    model = served_bytes.engine.model
    text = model.generate("To be", max_new_tokens=40, temperature=0).text
    options: dict[str, Any] = {"prompt": "To be", "max_tokens": 40, "temperature": 0}
    for length in (2, 3):
        stop = text[10 : 10 + length]
        stream = served_bytes.client().completions.create(
            model="play", **options, stop=stop, stream=True
        )
        pieces = [chunk.choices[0].text for chunk in stream]
        assert "".join(pieces) == text[: text.index(stop)]
    late = served_bytes.client().completions.create(
        model="play", **options, stop=text[-2:] + "\0", stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in late) == text


# --- 10: bytes


def test_bytes_that_are_no_text_are_replaced(served_bytes: Served) -> None:
    """In streams as in whole answers, and never a part of a character."""
    model = served_bytes.engine.model
    for seed in range(2):
        options: dict[str, Any] = {"prompt": "\u4f60\u597d", "max_tokens": 60, "seed": seed}
        whole = served_bytes.client().completions.create(model="play", logprobs=2, **options)
        ids = model.generate(
            "\u4f60\u597d", max_new_tokens=60, seed=seed, temperature=1.0, top_k=0
        ).tokens
        expected = model.tokenizer.decode(ids)
        text = whole.choices[0].text
        assert expected.startswith(text) and len(expected) - len(text) <= 1 and "\ufffd" in text
        stream = served_bytes.client().completions.create(model="play", stream=True, **options)
        assert "".join(chunk.choices[0].text for chunk in stream) == text
    wanted = "\u4f60\u597d \U0001f600"
    bias = {str(byte): -100 for byte in range(257) if byte not in [*wanted.encode()]}
    stream = served_bytes.client().completions.create(
        model="play",
        prompt=wanted,
        max_tokens=50,
        logit_bias=bias,
        stream=True,  # type: ignore
    )
    for chunk in stream:
        chunk.choices[0].text.encode()  # no half of a pair


def test_text_that_cannot_be_encoded_is_refused(served: Served, served_bytes: Served) -> None:
    """A lone surrogate, as JSON may have it; and the message itself can be sent."""
    for one in (served, served_bytes):
        for body in (
            {"prompt": "\ud800"}, {"prompt": "All:", "stop": "\ud800"}, {"prompt": ["A", "\udfff"]},
            {"prompt": "A", "model": "\ud800"}, {"prompt": "A", "user": "\ud800"},
            {"prompt": "A", "\ud800": 1}, {"prompt": "A", "metadata": {"\ud800": "\ud800"}},
            {"prompt": "A", "logit_bias": {"\ud800": 1}},
        ):  # fmt: skip
            status, answer, _ = one.ask("POST", "/v1/completions", {"max_tokens": 2, **body})
            assert status in (200, 400, 404), (status, answer, body)
        for path, body in (("/tokenize", {"content": "\ud800"}), ("/tokenize", {"\ud800": 1})):
            assert one.ask("POST", path, body)[0] in (200, 400)
        assert one.ask("GET", "/v1/models/%ED%A0%80")[0] == 404


# --- 11: log-probabilities that JSON has no number for


def test_an_impossible_token_is_null() -> None:
    pieces = Pieces([b"a", b"b"])
    never = TokenLogprob(0, -math.inf, ((1, 0.0), (0, -math.inf)))
    legacy = pieces.legacy([never], 2)
    assert legacy["token_logprobs"] == [None] and legacy["top_logprobs"] == [{"a": None, "b": 0.0}]
    chat = pieces.chat([never])["content"][0]
    assert chat["logprob"] == -9999.0 and chat["top_logprobs"][0]["logprob"] == 0.0
    json.dumps([legacy, chat], allow_nan=False)


def test_a_model_whose_logits_are_no_numbers_is_answered() -> None:
    """As one that was trained too fast, with log-probabilities and without, whole and streamed."""
    model = byte_model()
    with torch.no_grad():
        model.gpt.lm_head.weight.fill_(math.nan)
    one = Served(model)
    try:
        for options in ({}, {"logprobs": 2}, {"temperature": 0, "logprobs": 0}, {"top_p": 0.5}):
            for stream in (False, True):
                body = {"prompt": "A", "max_tokens": 3, "stream": stream, **options}
                status, answer, _ = one.ask("POST", "/v1/completions", body)
                text = json.dumps(answer) if isinstance(answer, dict) else answer.decode()
                assert status in (200, 500) and "NaN" not in text, (status, text)
        assert one.idle()
    finally:
        one.close()


# --- 13, 14: usage, and prompts that are too long


def test_every_chunk_is_whole(served: Served) -> None:
    """The usage comes when asked for alone, with the id and model of the others."""
    for chat_usage in (None, {"include_usage": True}):
        stream = served.client().completions.create(
            model="play", prompt="All:", max_tokens=20, n=2, stream=True,
            stream_options=chat_usage,  # type: ignore
        )  # fmt: skip
        chunks = list(stream)
        assert {(chunk.id, chunk.model, chunk.object) for chunk in chunks} == {
            (chunks[0].id, "play", "text_completion")
        }
        assert [bool(chunk.usage) for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
        assert bool(chunks[-1].usage) == bool(chat_usage)
        assert (chunks[-1].choices == []) == bool(chat_usage)


def test_a_prompt_that_is_too_long_is_said(served: Served) -> None:
    """Its end counts, which is declared; what passes all bounds is refused by OpenAI's name."""
    for text, truncated in (("All:", False), (PLAY[:200], True)):
        body = {"prompt": text, "max_tokens": 3, "temperature": 0}
        status, answer, _ = served.ask("POST", "/v1/completions", body)
        assert (status, answer["truncated"]) == (200, truncated)
        _, raw, _ = served.ask("POST", "/v1/completions", {**body, "stream": True})
        last = raw.decode().split("\n\n")[-3]
        assert json.loads(last.removeprefix("data: "))["truncated"] is truncated
    with pytest.raises(openai.BadRequestError, match="are more than 20,000") as error:
        served.client().completions.create(model="play", prompt="All:" * 5001)
    assert error.value.code == "context_length_exceeded"


# --- 16: the key on every route


def test_no_route_passes_by_the_key(model: Model) -> None:
    one = Served(model, key="secret", options={})
    try:
        paths = {re.sub(r"{[^}]*}", "play", path) for path in one.app.openapi()["paths"]}
        assert {"/v1/models", "/v1/models/play", "/v1/completions"} <= paths
        paths |= {"/openapi.json", "/docs", "/redoc", "/metrics"}
        pages = {"/", "/health", *(path for path in paths if path.startswith("/web/"))}
        for path in sorted(paths | {"//health", "/health/", "/HEALTH", "/health/../v1/models"}):
            for method in ("GET", "POST", "HEAD"):
                status = one.ask(method, path)[0]
                assert status == 401 or path in pages, (method, path, status)
        for path in ("/web/../v1/models", "/web/%2e%2e/v1/models", "/web//v1/models"):
            assert one.ask("GET", path)[0] in (400, 401, 404)
        assert one.ask("GET", "/health")[0] == 200
        key = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
               "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
        assert one.ask("GET", "/v1/models", **key)[0] in (400, 401, 403, 426)
    finally:
        one.close()


def test_a_body_without_an_end_is_bounded(model: Model) -> None:
    """One in parts, which no header tells the length of."""
    one = Served(model, max_body=1000)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)
        parts = iter([b'{"prompt": "', *[b"A" * 100] * 30, b'"}'])
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/completions", parts, headers, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "request_too_large"
        connection.close()
        assert one.idle()
    finally:
        one.close()


# --- 19: memory


def test_nothing_is_kept_of_a_request(served: Served) -> None:
    """However it ended: whole, streamed, refused, or left by its client."""

    def alive() -> int:
        gc.collect()
        return sum(type(each) in (Completion, Job) for each in gc.get_objects())

    assert served.idle()
    before = alive()
    for i in range(10):
        served.ask("POST", "/v1/completions", {"prompt": "All:", "stream": bool(i % 2)})
        served.ask("POST", "/v1/completions", {"prompt": "All:", "top_p": 0})
        served.ask("POST", "/v1/completions", {"prompt": "All:", "echo": True, "logprobs": 1})
        reset(connect(served, {**LONG, "stream": bool(i % 2)}))
    assert served.idle()
    until = time.monotonic() + 60
    while (alive() > before or served.engine.jobs) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive() <= before and not served.engine.jobs and not served.engine.orders


def test_an_idle_engine_keeps_no_job(served: Served) -> None:
    served.ask("POST", "/v1/completions", {"prompt": "All:", "max_tokens": 7})
    assert served.idle()
    until = time.monotonic() + 60

    def kept() -> list[Job]:
        gc.collect()
        jobs = [each for each in gc.get_objects() if type(each) is Job]
        return [j for j in jobs if j.completions[0].request.max_new_tokens == 7]

    while kept() and time.monotonic() < until:
        time.sleep(0.05)
    assert not kept()


# --- 20: more threads than processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds processes")
def test_more_threads_than_processors(folder: Path) -> None:
    """Where a process is bound to one of them: the core and torch must not wait for the others."""
    code = (
        "import os, sys, torch; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "torch.set_num_threads(8)\nimport bardlet\n"
        "print(bardlet.load(sys.argv[1]).generate('All:', max_new_tokens=60, seed=1))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder / "run")], capture_output=True, text=True,
        timeout=240, check=True, env={**os.environ, "OMP_NUM_THREADS": "8",
                                      "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert len(result.stdout) > 50


# --- 21: the context's edge


@pytest.mark.parametrize("length", [1, 30, 31, 32, 33, 34, 64, 65])
def test_a_text_across_the_contexts_edge_ends(model: Model, length: int) -> None:
    """Whatever its prompt's length beside the context of 32, and the same one token at a time."""
    prompt = PLAY[100 : 100 + length]
    fast = model.generate(prompt, max_new_tokens=70, seed=3)
    slow = model.generate(prompt, max_new_tokens=70, seed=3, logprobs=0)
    assert len(fast.tokens) == 70 and fast.finish_reason == "length"
    assert fast.tokens == slow.tokens
