"""What clients send, by OpenAI's names and more: checked, and what is not supported refused."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bardlet.errors import UsageError
from bardlet.serve.completion import MAX_TOP, Request
from bardlet.serve.model import Model

MAX_CHOICES = 128
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Stop = str | Annotated[list[str], Field(max_length=16)] | None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class Options(BaseModel):
    """Options of either endpoint; a field that is not here is refused."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    temperature: float | None = Field(1.0, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    presence_penalty: float | None = Field(0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Stop = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None  # for the service's own books; there are none here
    metadata: dict[str, str] | None = None

    def request(
        self, model: Model, prompt: str | Sequence[int], max_tokens: int, logprobs: int | None,
        seed: int, number: int, ends: Sequence[int] = (),
    ) -> Request:  # fmt: skip
        """A text that is asked for; a BardletError says what of it cannot be."""
        return model.request(
            prompt, max_new_tokens=max_tokens, seed=seed, number=number, stop=self.stop,
            ends=ends,
            logprobs=logprobs, logit_bias=self.logit_bias or {},
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p, top_k=self.top_k, min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )  # fmt: skip

    def seeds(self) -> int:
        """The seed that was asked for, or one of its own for each request without."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed % 2**32


class CompletionBody(Options):
    """POST /v1/completions."""

    prompt: str | Ids | list[str] | list[Ids] = ""
    max_tokens: int | None = Field(16, ge=0)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    echo: bool | None = False
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    suffix: str | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each of the prompts: text or ids."""
        if isinstance(self.prompt, str) or not self.prompt:
            return [self.prompt] if isinstance(self.prompt, str) else []
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return list(self.prompt)  # pyright: ignore[reportReturnType, reportArgumentType]

    def check(self) -> None:
        """Raise UsageError for what fits no completion."""
        if self.suffix:
            raise UsageError("suffix is not supported: the model writes forward only")
        if not self.prompts() or len(self.prompts()) > MAX_CHOICES:
            raise UsageError(f"prompt is a list of 1 to {MAX_CHOICES}")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise UsageError(f"best_of={self.best_of} is below n={self.n}")
        if self.best_of is not None and self.best_of > (self.n or 1) and self.stream:
            raise UsageError("best_of above n cannot be streamed")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Chatter(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def message(self) -> dict[str, str]:
        """The message as templates have it."""
        text = self.content
        text = text if isinstance(text, str) else "".join(part.text for part in text)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(Options):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Chatter], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=0)
    max_completion_tokens: int | None = Field(None, ge=0)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)

    @property
    def wanted(self) -> int | None:
        """How many new tokens are asked for, by the newer name or the older."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer


class TokenizeBody(BaseModel):
    """POST /tokenize."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    content: str
    with_pieces: bool = False


class DetokenizeBody(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


def described(errors: list[Any]) -> str:
    """pydantic's errors in one line."""
    places = [".".join(str(part) for part in error["loc"] if part != "body") for error in errors]
    texts = [f"{place}: {error['msg']}" for place, error in zip(places, errors, strict=True)]
    return "; ".join(dict.fromkeys(texts[:4]))
