"""The routes of the HTTP API: OpenAI's completions and what small models are asked for besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as Asked
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

import bardlet
from bardlet.errors import BardletError
from bardlet.serve import embeddings, looking, pages, responses, runs, texts
from bardlet.serve.engine import Engine
from bardlet.serve.events import Gone, Refused, reason
from bardlet.serve.guard import error_body
from bardlet.serve.schema import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    described,
)  # fmt: skip
from bardlet.serve.server import Server, checked, encoding


def create(
    models: dict[str, Callable[[], Engine]], *, max_tokens: int,
    sizes: Mapping[str, float] | None = None, metrics: bool = False,
) -> FastAPI:  # fmt: skip
    """The application for engines by name, each made when it is first asked for.

    `max_tokens` bounds what one request may send and have written, `sizes` are the bytes that
    models need, and `metrics` has them counted for Prometheus.
    """
    app = FastAPI(title="bardlet", version=bardlet.__version__)
    server = Server(models, max_tokens, sizes)
    answer_errors(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        running, waiting = server.load()
        return {"status": "ok", "running": running, "waiting": waiting}

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": [server.described(name) for name in models]}

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        server.named(name)
        return server.described(name)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, asked: Asked) -> JSONResponse | StreamingResponse:
        body.check()
        return await server.complete(body, asked)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, asked: Asked) -> JSONResponse | StreamingResponse:
        return await server.chat(body, asked)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        tokenizer = (await server.engine(body.model)).model.tokenizer
        content = body.content
        ids = await encoding(len(content), lambda: tokenizer.encode(content).tolist())
        if not body.with_pieces:
            return {"tokens": ids}
        pieces = tokenizer.tokens()
        return {"tokens": [{"id": token, "piece": readable(pieces[token])} for token in ids]}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        model = (await server.engine(body.model)).model
        return {"content": model.tokenizer.decode(list(checked(model, body.tokens)))}

    for module in (responses, embeddings, looking, texts):
        app.include_router(module.router(server))
    for module in (pages, runs):
        app.include_router(module.router())
    if metrics:  # whose package only those need who ask for it
        from bardlet.serve.metrics import router

        app.include_router(router(server.engines))
    app.state.server = server
    return app


def answer_errors(app: FastAPI) -> None:
    """Answer what goes wrong in OpenAI's shape of errors, with nothing of the machine in it."""

    @app.exception_handler(Refused)
    async def refused(asked: Asked, error: Refused) -> JSONResponse:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        headers = {"retry-after": "1"} if error.status in (429, 503) else None
        return JSONResponse(error_body(str(error), kind, error.code), error.status, headers)

    @app.exception_handler(Gone)
    async def gone(asked: Asked, error: Gone) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(BardletError)
    async def wrong(asked: Asked, error: BardletError) -> JSONResponse:
        return JSONResponse(error_body(str(error), "invalid_request_error"), 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(asked: Asked, error: RequestValidationError) -> JSONResponse:
        text = described(list(error.errors()))
        return JSONResponse(error_body(text, "invalid_request_error"), 400)

    @app.exception_handler(400)  # such as a body that cannot be parsed
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nothing(asked: Asked, error: Any) -> JSONResponse:
        text = str(error.detail)
        if error.status_code in (404, 405):
            text = f"there is no {asked.method} {asked.url.path}"
        return JSONResponse(error_body(text, "invalid_request_error"), error.status_code)

    @app.exception_handler(Exception)
    async def failed(asked: Asked, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(reason(error), "server_error"), 500)


def readable(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes where they are a part of a character."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
