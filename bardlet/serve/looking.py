"""What the playground asks of a model: its vocabulary, logits, scores, attention, and tokens.

The model is run between two steps of the texts that are being written, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from bardlet.analysis import attention
from bardlet.errors import UsageError
from bardlet.serve.answers import scored, streamed
from bardlet.serve.completion import MAX_TOP, Completion, TokenLogprob
from bardlet.serve.engine import Event
from bardlet.serve.events import called
from bardlet.serve.model import Model
from bardlet.serve.server import Server, checked, encoding
from bardlet.serve.shapes import finite
from bardlet.web.served import HEADERS

MAX_IDS = 1 << 14  # tokens of a text that is looked at; server_engine.js sends no more
MAX_WEIGHTS = 1 << 24  # attention weights of one answer


class Asking(BaseModel):
    """What is asked of a model; without its name, of the first."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None


class TextBody(Asking):
    text: Annotated[str, Field(max_length=1 << 20)]


class IdsBody(Asking):
    ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_IDS)]


class GenerateBody(IdsBody):
    max_new_tokens: int = Field(100, ge=0, le=100_000)
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int = Field(1337, ge=0, lt=2**32)


class Tokens:
    """The shape of a stream of tokens with what else was likely, for `streamed`."""

    def first(self) -> list[dict[str, Any]]:
        return []

    def chunk(self, event: Event) -> dict[str, Any]:
        return {"tokens": [as_json(one) for one in event.logprobs], "finish": event.finish_reason}

    def last(self, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        return []


def as_json(one: TokenLogprob) -> dict[str, Any]:
    """A token with its log-probability, null where that is not finite, and the likeliest."""
    top = [[token, finite(logprob)] for token, logprob in one.top]
    return {"id": one.token, "logprob": finite(one.logprob), "top": top}


def router(server: Server) -> APIRouter:
    """The routes beneath /bardlet/ that ask the model."""
    routes = APIRouter()

    @routes.get("/bardlet/info")
    async def info(model: str | None = None) -> dict[str, Any]:
        engine = await server.engine(model)
        about = described(server.named(model), engine.model)
        return {**about, "models": list(server.models), "runs": "runs"}  # where the others are

    @routes.get("/bardlet/vocabulary")
    async def vocabulary(model: str | None = None) -> list[str]:
        """The bytes of every token, by id, as characters of the same numbers."""
        tokenizer = (await server.engine(model)).model.tokenizer
        return [piece.decode("latin-1") for piece in tokenizer.tokens()]

    @routes.post("/bardlet/encode")
    async def encode(body: TextBody) -> dict[str, Any]:
        model = (await server.engine(body.model)).model
        ids = await encoding(len(body.text), lambda: list(model.prompt(body.text)))
        return {"ids": ids}

    @routes.post("/bardlet/logits")
    async def logits(body: IdsBody) -> Response:
        """The next token's logits, (V,) float32 in little endian, by the newest part of `ids`."""
        engine = await server.engine(body.model)
        ids = checked(engine.model, body.ids)[-engine.model.context :]

        def compute() -> bytes:
            return binary(last_logits(engine.model, ids))

        return octets(await called(engine, compute))

    @routes.post("/bardlet/score")
    async def score(body: IdsBody) -> list[dict[str, Any]]:
        """What each token of a text was given, the first aside, and the likeliest in its place."""
        engine = await server.engine(body.model)
        ids = checked(engine.model, body.ids)
        rest = await scored(engine, ids, MAX_TOP)
        return [{"id": ids[0], "logprob": None, "top": []}, *map(as_json, rest)]

    @routes.post("/bardlet/attention")
    async def weights(body: IdsBody) -> Response:
        """The weights of each layer and head, (L, H, T, T) float32 in little endian."""
        engine = await server.engine(body.model)
        config, T = engine.model.gpt.config, len(body.ids)
        if config.n_layer * config.n_head * T * T > MAX_WEIGHTS:
            raise UsageError(f"attention over {T} tokens is more than {MAX_WEIGHTS:,} weights")
        ids = checked(engine.model, body.ids)
        weights = await called(
            engine, lambda: binary(attention.trace(engine.model.gpt, ids).attention)
        )
        return octets(weights)

    @routes.post("/bardlet/generate", response_model=None)
    async def generate(body: GenerateBody) -> StreamingResponse:
        """Tokens with their log-probabilities, as they are written."""
        engine = await server.engine(body.model)
        options = body.model_dump(exclude={"model", "ids"})
        server.limit(body.max_new_tokens, 1, [""])
        request = engine.model.request(checked(engine.model, body.ids), **options, logprobs=MAX_TOP)
        return await streamed(engine, [request], Tokens())

    return routes


def described(name: str, model: Model) -> dict[str, Any]:
    """What a page says of a model, and what can be asked of it."""
    config = model.gpt.config
    return {
        "name": name, "family": config.family, "n_layer": config.n_layer,
        "n_head": config.n_head, "n_embd": config.n_embd, "context": config.block_size,
        "vocab_size": config.vocab_size, "tokenizer": model.tokenizer.kind,
        "parameters": model.gpt.num_params(), "end_of_text": model.tokenizer.end_of_text,
        "dataset": model.trained.state.dataset.name.rpartition("/")[2],
        "can": {"attention": True, "evidence": bool(model.trained.state.dataset.name)},
    }  # fmt: skip


@torch.inference_mode()
def last_logits(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """The logits (V,) of the token after ids (T,), float32, as many as the context holds."""
    gpt = model.gpt.eval()
    return gpt(torch.tensor([ids], device=gpt.lm_head.weight.device))[0][0, 0].float().cpu()


def binary(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().astype("<f4").tobytes()


def octets(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream", headers=HEADERS)
