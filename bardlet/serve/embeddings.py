"""POST /v1/embeddings: the mean of a model's last hidden states over a text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bardlet.errors import UsageError
from bardlet.model import GPT
from bardlet.serve.events import Refused, called
from bardlet.serve.schema import MAX_CHOICES, Ids
from bardlet.serve.server import Server
from bardlet.serve.shapes import usage

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
Lists = Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES)]


class EmbeddingsBody(BaseModel):
    """Texts or token ids, one or several."""

    model_config = ConfigDict(extra="forbid")
    input: Text | Ids | Texts | Lists
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None

    def inputs(self) -> list[str | list[int]]:
        """Each of the inputs: text or ids."""
        one = isinstance(self.input, str) or isinstance(self.input[0], int)
        return [self.input] if one else list(self.input)  # pyright: ignore


@torch.inference_mode()
def embedding(model: GPT, tokens: Sequence[int]) -> Tensor:
    """The mean over tokens (T,) of the states that the head reads: (C,) float32 on the CPU."""
    states: list[Tensor] = []
    hook = model.transformer["ln_f"].register_forward_hook(lambda *call: states.append(call[-1]))
    try:
        model.eval()(torch.tensor([tokens], device=model.lm_head.weight.device))
    finally:
        hook.remove()
    return states[0][0].float().mean(0).cpu()


def router(server: Server) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody) -> dict[str, Any]:
        engine = await server.engine(body.model)
        model, size = engine.model, engine.model.gpt.config.n_embd
        if body.dimensions not in (None, size):
            raise UsageError(f"dimensions={body.dimensions}: this model's embeddings have {size}")
        prompts = await server.encoded(model, body.inputs())
        for i, tokens in enumerate(prompts):
            if len(tokens) > model.context:
                text = f"input {i} has {len(tokens):,} tokens, the context {model.context:,}"
                raise Refused(400, text, "context_length_exceeded")
        data = []
        for i, tokens in enumerate(prompts):  # one at a time: texts are written between
            vector = await called(engine, lambda t=tokens: embedding(model.gpt, t))
            raw = base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")
            value = raw if body.encoding_format == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": i, "embedding": value})
        count = usage(sum(map(len, prompts)), 0)
        del count["completion_tokens"]
        name = server.named(body.model)
        return {"object": "list", "data": data, "model": name, "usage": count}

    return routes
