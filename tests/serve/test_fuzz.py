"""Whatever is asked is answered: never an internal error, never a hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_support import Served, byte_model

from bardlet.serve.app import create
from bardlet.serve.engine import Engine

ANSWERED = {200, 400, 404, 405, 411, 413, 415, 429}
SLOWEST = 60.0  # seconds; a hang is longer
quick = settings(max_examples=8, suppress_health_check=list(HealthCheck))
long = settings(quick, derandomize=False)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> None:
    """hypothesis draws them, and a run that was trained in this thread has them taken for 0."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    """Our own description of an application whose texts are short."""
    engine = Engine(byte_model(pairs=True, block_size=64), 8, 64)
    yield schemathesis.openapi.from_asgi(
        "/openapi.json", create({"play": lambda: engine}, max_tokens=40)
    )
    engine.close()


def described(schema: Any, method: str, path: str) -> Any:
    return next(
        each.ok() for each in schema.get_all_operations()
        if (each.ok().method.upper(), each.ok().path.replace(":path", "")) == (method, path)
    )  # fmt: skip


def ask_what_is_described(schema: Any, method: str, path: str, options: settings) -> None:
    @options
    @given(case=described(schema, method, path).as_strategy())
    def ask(case: Any) -> None:
        began = time.monotonic()
        answer = case.call()
        assert answer.status_code in ANSWERED, (answer.status_code, answer.text, case.body)
        assert time.monotonic() - began < SLOWEST
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()


def test_what_our_description_allows_is_answered(schema: Any) -> None:
    for path in RIGHT:
        ask_what_is_described(schema, "POST", path, quick)


@pytest.mark.slow
def test_much_of_what_our_description_allows_is_answered(schema: Any) -> None:
    """Of every operation that the description has."""
    for each in schema.get_all_operations():
        operation = each.ok()
        method, path = operation.method.upper(), operation.path.replace(":path", "")
        ask_what_is_described(schema, method, path, settings(long, max_examples=500))


# what is in a body: right and wrong values of right and wrong types, in right and wrong places
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.text(max_size=5)
    | st.floats() | st.sampled_from(["user", "Hi", "input_text", "play", "0", "\ud800", "A" * 300]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "0", "format", "include_usage"]), inner,
        max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip
NAMES = (
    "prompt", "messages", "input", "model", "max_tokens", "max_completion_tokens",
    "max_output_tokens", "temperature", "top_p", "top_k", "min_p", "n", "stop", "logprobs",
    "top_logprobs", "echo", "logit_bias", "seed", "best_of", "stream", "stream_options", "content",
    "tokens", "with_pieces", "encoding_format", "dimensions", "instructions", "include", "text",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "x",
)  # fmt: skip
RIGHT = {
    "/v1/completions": {"prompt": "Hi", "max_tokens": 3},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 3}, "/v1/embeddings": {"input": "Hi"},
    "/tokenize": {"content": "Hi"}, "/detokenize": {"tokens": [1]},
}  # fmt: skip


def ask_anything(served_chat: Served, options: settings) -> None:
    @options
    @given(
        st.sampled_from(list(RIGHT)), st.dictionaries(st.sampled_from(NAMES), anything, max_size=3),
        st.binary(max_size=30) | st.none(),
    )  # fmt: skip
    def ask(path: str, changes: dict[str, Any], raw: bytes | None) -> None:
        began = time.monotonic()
        body = {**RIGHT[path], **changes}
        status, answer, _ = served_chat.ask("POST", path, body if raw is None else raw)
        assert status in ANSWERED, (path, status, answer, body)
        assert time.monotonic() - began < SLOWEST

    ask()
    assert served_chat.idle()


def test_any_body_is_answered(served_chat: Served) -> None:
    ask_anything(served_chat, settings(quick, max_examples=60))


@pytest.mark.slow
def test_very_many_bodies_are_answered(served_chat: Served) -> None:
    ask_anything(served_chat, settings(long, max_examples=20_000))


def test_deep_and_endless_bodies_are_refused(served_chat: Served) -> None:
    for body in (
        b"[" * 100_000, b'{"prompt":' * 50_000, b'{"seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "A", "temperature": 1e999}', b'{"prompt": "A", "temperature": NaN}',
        b'{"prompt": "A", "temperature": -Infinity}', b"\xff\xfe", b"", b"null", b'"prompt"',
        b'{"prompt": "A", "prompt": 3}',
    ):  # fmt: skip
        status, answer, _ = served_chat.ask("POST", "/v1/completions", body)
        assert status == 400 and "error" in answer, (body[:30], status, answer)
