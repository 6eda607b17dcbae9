"""What stands before a server's routes: who may ask, from where, and how much they may send."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN = {"/", "/runs", "/health"}  # what is answered without a key
PAGES = "/web/"  # likewise: the package's own files, which ask for the key themselves


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Guard:
    """ASGI middleware: allowed Host names, an API key, CORS for listed origins, bounded bodies.

    A Host that is not listed is refused, so that a page elsewhere cannot reach a server on
    loopback by a name of its own (DNS rebinding).
    """

    def __init__(
        self, app: Any, *, hosts: Sequence[str], key: str, origins: Sequence[str], max_body: int
    ) -> None:
        self.app, self.key, self.max_body = app, key, max_body
        self.hosts, self.origins = {host.lower() for host in hosts}, set(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there is none, and none passes by the checks
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = Body(receive, self.max_body)
        began = False  # the answer
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        origin = headers.get("origin", "")
        cors = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        allowed = cors if origin in self.origins else []

        async def answer(status: int, body: Message | None, extra: Sequence[Any] = ()) -> None:
            data = b"" if body is None else json.dumps(body).encode()
            head = [(b"content-type", b"application/json"), *allowed, *extra,
                    (b"content-length", str(len(data)).encode())]  # fmt: skip
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": data})

        async def passed(message: Message) -> None:
            nonlocal began
            if body.too_large:  # whatever the application makes of a body that ends early
                if not began:
                    began = True
                    await answer(413, self.too_large())
                return
            if message["type"] == "http.response.start":
                began = True
                if allowed:
                    message = {**message, "headers": [*message["headers"], *allowed]}
            await send(message)

        if host_name(headers.get("host", "")) not in self.hosts:
            await answer(403, error_body("this Host is not allowed: --allow_host lists them",
                                         "invalid_request_error", "host_not_allowed"))  # fmt: skip
        elif scope["method"] == "OPTIONS":  # before the key, which browsers do not send with it
            wanted = headers.get("access-control-request-headers", "")
            await answer(204 if allowed else 403, None, [
                (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
                (b"access-control-allow-headers", wanted.encode("latin-1")),
                (b"access-control-max-age", b"600"),
            ] if allowed else [])  # fmt: skip
        elif self.key and not is_open(scope["path"]) and not self.knows(headers):
            challenge = [(b"www-authenticate", b"Bearer")]
            await answer(401, error_body("the API key is missing or wrong", "invalid_request_error",
                                         "invalid_api_key"), challenge)  # fmt: skip
        elif (size := headers.get("content-length", "0")).isdigit() and int(size) > self.max_body:
            await answer(413, self.too_large())
        else:
            await self.app(scope, body.receive, passed)

    def knows(self, headers: dict[str, str]) -> bool:
        """Whether the key is right, in a time that does not tell how much of it is."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(key.strip().encode(), self.key.encode())
        return scheme.lower() == "bearer" and right

    def too_large(self) -> Message:
        text = f"the request is larger than {self.max_body:,} bytes"
        return error_body(text, "invalid_request_error", "request_too_large")


class Body:
    """A request's body, which ends where it is longer than it may be."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.beneath, self.left, self.too_large = receive, limit, False

    async def receive(self) -> Message:
        message = await self.beneath()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            self.too_large = True
            return {"type": "http.disconnect"}
        return message


def is_open(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in OPEN or path.startswith(PAGES)


def host_name(header: str) -> str:
    """The name of a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()
