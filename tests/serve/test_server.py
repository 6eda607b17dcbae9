"""The server: OpenAI's own client over a real socket, and what breaks servers."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_support import Served, post
from support import PLAY

import bardlet
from bardlet.cli import main
from bardlet.serve.completion import mean_loss
from bardlet.serve.engine import Engine
from bardlet.serve.model import Model
from bardlet.serve.schema import ChatBody
from bardlet.serve.server import Server


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


def test_models(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["play"]
    assert client.models.retrieve("play").owned_by == "bardlet"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'; there are play"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="All:")


def test_completions_are_pythons(client: openai.OpenAI, model: Model) -> None:
    expected = model.generate("All:", max_new_tokens=30, temperature=1.0, top_k=0, seed=5)
    got = client.completions.create(model="play", prompt="All:", max_tokens=30, seed=5)
    assert got.choices[0].text == expected.text and got.choices[0].finish_reason == "length"
    assert got.choices[0].logprobs is None
    assert got.usage is not None and got.usage.completion_tokens == 30
    assert got.usage.prompt_tokens == len(model.prompt("All:"))
    ids = client.completions.create(
        model="play", prompt=list(model.prompt("All:")), max_tokens=30, seed=5
    )
    assert ids.choices[0].text == expected.text
    several = client.completions.create(
        model="play", prompt=["All:", "First", "All:"], n=2, max_tokens=30, seed=5, temperature=2
    )
    assert [choice.index for choice in several.choices] == list(range(6))
    texts = [choice.text for choice in several.choices]
    assert texts[:2] == texts[4:] and texts[0] != texts[1]
    hot = model.generate_many(["All:"] * 2, max_new_tokens=30, temperature=2, top_k=0, seed=5)
    assert texts[:2] == [completion.text for completion in hot]


def test_streams_are_the_whole_text(client: openai.OpenAI, model: Model) -> None:
    expected = model.generate("All:", max_new_tokens=40, temperature=0, logprobs=2)
    stream = client.completions.create(
        model="play", prompt="All:", max_tokens=40, temperature=0, logprobs=2, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == expected.text
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 40
    told = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    values = [value for each in told for value in each.token_logprobs or []]
    assert values == pytest.approx([each.logprob for each in expected.logprobs], abs=1e-6)
    offsets = [offset for each in told for offset in each.text_offset or []]
    assert offsets == list(range(40))  # a character each
    plain = client.completions.create(model="play", prompt="All:", max_tokens=3, stream=True)
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in plain)


def test_echo_has_the_loss_that_eval_measures(client: openai.OpenAI, model: Model) -> None:
    text = PLAY[:90]  # beyond the context of 32
    got = client.completions.create(
        model="play", prompt=text, max_tokens=0, echo=True, logprobs=1
    ).choices[0]
    assert got.text == text and got.logprobs is not None and got.finish_reason == "length"
    values = got.logprobs.token_logprobs
    assert values is not None and values[0] is None and len(values) == 90
    assert -sum(v for v in values if v is not None) / 89 == pytest.approx(
        mean_loss(model.logprobs(text)), abs=1e-5
    )
    assert got.logprobs.text_offset == list(range(90))
    assert got.logprobs.top_logprobs is not None and got.logprobs.top_logprobs[0] is None
    more = client.completions.create(
        model="play", prompt="All:", max_tokens=5, echo=True, logprobs=0, temperature=0
    ).choices[0]
    assert more.text.startswith("All:") and more.logprobs is not None
    assert len(more.logprobs.tokens or []) == 9
    streamed = client.completions.create(
        model="play", prompt="All:", max_tokens=5, echo=True, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == more.text


def test_best_of_takes_the_likeliest(client: openai.OpenAI) -> None:
    every = client.completions.create(
        model="play", prompt="All:", n=6, max_tokens=8, seed=3, logprobs=0
    ).choices
    means = [sum(c.logprobs.token_logprobs) / 8 for c in every]  # type: ignore[union-attr, arg-type]
    best = client.completions.create(
        model="play", prompt="All:", best_of=6, n=1, max_tokens=8, seed=3
    ).choices
    assert [c.text for c in best] == [every[means.index(max(means))].text]


def test_stop_strings_and_excluded_tokens(client: openai.OpenAI, model: Model) -> None:
    text = model.generate("All:", max_new_tokens=30, temperature=0).text
    stop = text[8:11]
    options: dict[str, Any] = {"model": "play", "prompt": "All:", "temperature": 0}
    got = client.completions.create(**options, max_tokens=30, stop=[stop, "@"]).choices[0]
    assert got.text == text[: text.index(stop)] and got.finish_reason == "stop"
    streamed = client.completions.create(**options, max_tokens=30, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == got.text
    first = int(model.tokenizer.encode(text[0])[0])
    other = client.completions.create(
        **options, max_tokens=1, logit_bias={str(first): -100}, logprobs=3
    )
    assert other.choices[0].text != text[0]
    for options in ({"extra_body": {"top_k": 1}}, {"temperature": 0, "logit_bias": {"0": -100}}):
        sure = client.completions.create(model="play", prompt="All:", logprobs=5, **options)
        values = sure.choices[0].logprobs.token_logprobs  # type: ignore[union-attr]
        assert all(value is not None and math.isfinite(value) for value in values or [])


def test_a_request_without_a_seed_has_its_own(client: openai.OpenAI) -> None:
    texts = {
        client.completions.create(model="play", prompt="All:", max_tokens=20).choices[0].text
        for _ in range(4)
    }
    assert len(texts) > 1


def test_the_same_text_among_63_neighbours(
    served: Served, client: openai.OpenAI, model: Model, folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As from the command and from Python, which write it alone."""

    def ask(i: int) -> str:
        extra: dict[str, Any] = [{}, {"logprobs": 1}, {"top_p": 0.9}, {"stop": "k"}][i % 4]
        got = client.completions.create(
            model="play", prompt=PLAY[i : 2 * i + 1], max_tokens=10 + i % 30, seed=i, **extra
        )
        return got.choices[0].text

    alone = [ask(i) for i in range(0, 64, 7)]
    python = []
    for i in range(0, 64, 7):
        extra: dict[str, Any] = [{}, {"logprobs": 1}, {"top_p": 0.9}, {"stop": "k"}][i % 4]
        options = {"max_new_tokens": 10 + i % 30, "seed": i, "temperature": 1.0, "top_k": 0}
        python.append(model.generate(PLAY[i : 2 * i + 1], **options, **extra).text)
    assert alone == python
    capsys.readouterr()
    words = ["--num_samples=1", "--temperature=1", "--top_k=0", "--dtype=float32", "--json"]
    words += [f"--start={PLAY[28:57]}", "--max_new_tokens=38", "--seed=28"]
    assert main(["sample", str(folder / "run"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == [PLAY[28:57] + python[4]]
    together: dict[int, str] = {}
    threads = [threading.Thread(target=lambda i=i: together.update({i: ask(i)})) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(0, 64, 7)] == alone
    assert served.idle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(served: Served, stream: bool) -> None:
    """Before the first token or after, and its text is not written on."""
    for wait in (0.0, 0.05):
        raw = socket.create_connection(("127.0.0.1", served.port))
        raw.sendall(post({"prompt": "All:", "max_tokens": 20_000, "stream": stream}))
        time.sleep(wait)
        raw.close()
        assert served.idle(), (stream, wait)


def test_a_full_queue_says_so(model: Model) -> None:
    one = Served(model, streams=1, queue=1)
    try:
        body = {"prompt": "All:", "max_tokens": 20_000}
        slow = [socket.create_connection(("127.0.0.1", one.port)) for _ in range(2)]
        for raw in slow:
            raw.sendall(post(body))
        until = time.monotonic() + 60
        while one.engine.load != (1, 1) and time.monotonic() < until:
            time.sleep(0.01)
        event = one.held()  # so that the first does not end meanwhile
        try:
            status, answer, headers = one.ask("POST", "/v1/completions", body)
            assert status == 429 and headers["retry-after"] == "1"
            assert answer["error"]["code"] == "queue_full"
            assert one.ask("GET", "/health")[1] == {"status": "ok", "running": 1, "waiting": 1}
            for raw in slow:
                raw.close()
        finally:
            event.set()
        assert one.idle()
        assert one.ask("POST", "/v1/completions", {**body, "max_tokens": 1})[0] == 200
    finally:
        one.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [({"prompt": 3}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"),
     ({"prompt": "A", "temperature": -1}, "temperature"), ({"prompt": "A", "top_p": 0}, "top_p"),
     ({"prompt": "A", "n": 0}, "n: "), ({"prompt": "A", "max_tokens": -1}, "max_tokens"),
     ({"prompt": "A", "max_tokens": 10**9}, "are more than 20,000"),
     ({"prompt": "A", "suffix": "B"}, "suffix is not supported"),
     ({"prompt": "A", "tools": []}, "tools"), ({"prompt": "A", "grammar": "x"}, "grammar"),
     ({"prompt": "A", "logprobs": 99}, "logprobs"),
     ({"prompt": "A", "best_of": 1, "n": 2}, "best_of"),
     ({"prompt": "\u4e16"}, "alphabet"), ({"prompt": [99999]}, "tokens are from 0"),
     ({"prompt": "A", "logit_bias": {"x": 1}}, "logit_bias"),
     ({"prompt": "A", "logit_bias": {"99999": 1}}, "logit_bias"), ([], ""), (b"{", "")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_in_openais_shape(
    served: Served, body: Any, message: str
) -> None:
    status, answer, _ = served.ask("POST", "/v1/completions", body)
    assert status == 400 and message in answer["error"]["message"], answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert served.idle()


def test_chat_needs_a_template(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="play", messages=[{"role": "user", "content": "Hi"}])


def test_tokens_and_their_pieces(served: Served, model: Model) -> None:
    ids = model.tokenizer.encode("All:").tolist()
    assert served.ask("POST", "/tokenize", {"content": "All:"})[1] == {"tokens": ids}
    pieces = served.ask("POST", "/tokenize", {"content": "Al", "with_pieces": True})[1]["tokens"]
    assert [piece["piece"] for piece in pieces] == ["A", "l"]
    assert served.ask("POST", "/detokenize", {"tokens": ids})[1] == {"content": "All:"}
    assert served.ask("POST", "/detokenize", {"tokens": [99999]})[0] == 400
    for options in ({}, {"echo": True}, {"echo": True, "logprobs": 0}, {"max_tokens": 0}):
        for prompt in ([99999], [ids, [10**18]]):
            status, answer, _ = served.ask("POST", "/v1/completions", {"prompt": prompt, **options})
            assert status == 400 and "tokens are from 0" in answer["error"]["message"]
    assert served.ask("GET", "/nowhere")[1]["error"]["message"] == "there is no GET /nowhere"
    assert served.ask("GET", "/v1/completions")[0] == 405


def test_only_those_who_may_ask_are_answered(model: Model) -> None:
    one = Served(model, key="secret", origins=["https://good.example"], max_body=1000)
    try:
        assert one.ask("GET", "/health")[0] == 200
        for path in ("/v1/models", "/v1/models/play", "/nowhere", "/docs", "/openapi.json"):
            assert one.ask("GET", path)[0] == 401, path
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
            assert one.ask("POST", path, {})[0] == 401, path
        for wrong in ("secret", "Bearer secre", "Bearer secret2", "Basic secret", "Bearer"):
            assert one.ask("GET", "/v1/models", authorization=wrong)[0] == 401
        assert one.ask("GET", "/v1/models", authorization="Bearer secret")[0] == 200
        # a page elsewhere that has made its own name mean this machine
        assert one.ask("GET", "/health", host="evil.example")[0] == 403
        assert one.ask("GET", "/health", host=f"localhost:{one.port}")[0] == 200
        asked = {"origin": "https://good.example", "access_control_request_method": "POST",
                 "access_control_request_headers": "authorization,x-stainless-os"}  # fmt: skip
        status, _, headers = one.ask("OPTIONS", "/v1/completions", **asked)
        assert status == 204 and "x-stainless-os" in headers["access-control-allow-headers"]
        assert headers["access-control-allow-origin"] == "https://good.example"
        status, _, headers = one.ask("OPTIONS", "/v1/completions", origin="https://evil.example")
        assert status == 403 and "access-control-allow-origin" not in headers
        large = {"prompt": "A" * 2000}
        assert one.ask("POST", "/v1/completions", large, authorization="Bearer secret")[0] == 413
    finally:
        one.close()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(["prompt", "max_tokens", "temperature", "top_p", "top_k", "n", "stop",
                         "logprobs", "echo", "logit_bias", "seed", "best_of", "min_p", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-3, 30) | st.text("Al:\n", max_size=5)
            | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.text("01", max_size=2), inner, max_size=2),
        ),
    )
)  # fmt: skip
def test_no_request_is_an_internal_error(served: Served, body: dict[str, Any]) -> None:
    status, answer, _ = served.ask("POST", "/v1/completions", {"prompt": "All:", **body})
    assert status in (200, 400), (status, answer, body)


def test_a_failed_step_ends_its_texts_and_not_the_server(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Served(model)
    try:
        monkeypatch.setattr(one.engine.completer.writer, "step", lambda *a: 1 / 0)
        status, answer, _ = one.ask("POST", "/v1/completions", {"prompt": "All:"})
        assert status == 500 and answer["error"]["message"] == "the server failed on this request"
        assert one.ask("POST", "/v1/completions", {"prompt": "All:"})[0] == 200
    finally:
        one.close()


def test_an_order_that_fails_does_not_end_the_thread(model: Model) -> None:
    """Such as telling a client whose event loop has gone."""
    one = Served(model)
    try:
        one.engine.call(lambda: None, lambda result: 1 / 0)
        assert one.ask("POST", "/v1/completions", {"prompt": "All:"})[0] == 200
        assert one.engine.thread.is_alive()
    finally:
        one.close()


def test_a_model_that_is_loaded_does_not_wait_for_another(model: Model) -> None:
    engine, loading = Engine(model, 1, 1), threading.Event()
    server = Server({"here": lambda: engine, "slow": lambda: loading.wait(60)}, 10)  # type: ignore

    async def ask() -> None:
        await server.engine("here")
        slow = asyncio.ensure_future(server.engine("slow"))
        await asyncio.sleep(0.05)
        try:
            assert await asyncio.wait_for(server.engine("here"), 60) is engine
        finally:
            loading.set()
            await slow

    asyncio.run(ask())
    engine.close()


def test_a_chat_of_no_tokens_is_one() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert ChatBody(**body, max_completion_tokens=0, max_tokens=9).wanted == 0
    assert ChatBody(**body, max_tokens=9).wanted == 9
    assert ChatBody(**body).wanted is None


def test_the_command_serves_until_a_signal(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bardlet", "serve", str(folder / "run"), "--port=0"],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.search(r"serving run at (http://127.0.0.1:\d+/v1)", line)
        assert match, line
        client = openai.OpenAI(base_url=match[1], api_key="none", max_retries=0)
        got = client.completions.create(model="run", prompt="All:", max_tokens=5, temperature=0)
        expected = bardlet.load(folder / "run").generate("All:", max_new_tokens=5, temperature=0)
        assert got.choices[0].text == expected.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    with process.stderr as rest:
        assert "Traceback" not in rest.read()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--port=99999"], "port=99999 must be from 0 to 65535"), (["--streams=0"], "streams=0"),
     (["--host=0.0.0.0"], "is beyond this machine, and there is no API key"),
     (["gone"], "gone")],
)  # fmt: skip
def test_what_cannot_be_served(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [] if words == ["gone"] else [str(folder / "run")]
    assert main(["serve", *runs, *words]) in (1, 2)
    assert message in capsys.readouterr().err
