"""A server in a thread, over a real socket, for the tests that ask one."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from support import tiny_model

from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.interop.verify import Trained
from bardlet.run.state import DatasetRef, RunState
from bardlet.serve.app import create
from bardlet.serve.engine import Engine
from bardlet.serve.guard import Guard
from bardlet.serve.model import Model
from bardlet.system.device import choose

if TYPE_CHECKING:
    import openai

HOSTS = ["127.0.0.1", "localhost"]


def byte_model(*, pairs: bool = False, **changes: object) -> Model:
    """Random weights that write random bytes, of which few are UTF-8; of `pairs` as of a chat."""
    gpt = tiny_model("llama", vocab_size=257, **changes)
    dataset = DatasetRef(name="", hash="", pairs=pairs)
    state = RunState(iter=0, tokens=0, dataset=dataset, scaler={})
    trained = Trained(name="bytes", model=gpt, tokenizer=ByteTokenizer(), state=state)
    return Model(trained, choose("cpu", "float32"))


class Served:
    """A server in a thread, with its engine at hand."""

    def __init__(
        self, model: Model, *, streams: int = 8, queue: int = 64,
        options: dict[str, Any] | None = None, **guard: Any,
    ) -> None:  # fmt: skip
        """`options` are the application's."""
        self.engine = Engine(model, streams, queue)
        app = create({"play": lambda: self.engine}, max_tokens=20_000, **(options or {}))
        self.app = app
        limits = {"hosts": HOSTS, "key": "", "origins": [], "max_body": 1 << 20, **guard}
        config = uvicorn.Config(Guard(app, **limits), log_level="error", lifespan="off")
        self.server, self.socket = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        run = {"target": self.server.run, "kwargs": {"sockets": [self.socket]}}
        self.thread = threading.Thread(**run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.engine.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, body and headers of an answer; JSON is read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, {"content-type": "application/json", **names})
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(raw), answer.headers
        return answer.status, raw, answer.headers

    def client(self) -> openai.OpenAI:
        """OpenAI's client of the server, which asks once."""
        import openai

        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)

    def held(self) -> threading.Event:
        """Have the engine's thread wait for the event that is returned."""
        event, reached = threading.Event(), threading.Event()
        self.engine.call(lambda: (reached.set(), event.wait(60)), lambda result: None)
        reached.wait(60)
        return event

    def idle(self) -> bool:
        """Whether every text is out of the engine, within a minute."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.engine.load == (0, 0) and len(self.engine.completer.writer.free) == (
                self.engine.streams
            ):
                return True
            time.sleep(0.01)
        return False


def post(body: dict[str, Any]) -> bytes:
    """The bytes of a request for a completion."""
    text = json.dumps(body)
    head = ["POST /v1/completions HTTP/1.1", "Host: localhost", "content-type: application/json"]
    return "\r\n".join([*head, f"content-length: {len(text)}", "", text]).encode()
