"""POST /v1/responses: OpenAI's newer shape of a chat, of which nothing is kept between requests."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as Asked
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from bardlet.errors import UsageError
from bardlet.serve.completion import MAX_TOP, Completion
from bardlet.serve.engine import Event
from bardlet.serve.schema import ChatBody, Chatter, Options
from bardlet.serve.server import Server
from bardlet.serve.shapes import Chat, Pieces

LOGPROBS = "message.output_text.logprobs"


class TextPart(BaseModel):
    """A part of a message; an answer's own parts may be sent back as they came."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] | None = None


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"] = "text"


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: TextFormat | None = None


class ResponsesBody(Options):
    """What is asked for; what would need a memory or tools is refused."""

    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    include: list[Literal["message.output_text.logprobs"]] | None = None
    text: TextOptions | None = None
    truncation: Literal["auto"] | None = None
    store: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    n: int | None = Field(1, ge=1, le=1)

    def chat(self) -> ChatBody:
        """The same as a request for a chat."""
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"seed={self.seed} must be at least 0")
        messages = [Chatter(role="system", content=self.instructions)] if self.instructions else []
        items = [Item(role="user", content=self.input)] if isinstance(self.input, str) else (
            self.input
        )  # fmt: skip
        for item in items:
            text = item.content
            text = text if isinstance(text, str) else "".join(part.text for part in text)
            messages.append(Chatter(role=item.role, content=text))
        common = {name: getattr(self, name) for name in Options.model_fields if name != "n"}
        return ChatBody(
            **common, messages=messages, max_completion_tokens=self.max_output_tokens,
            logprobs=self.scored, top_logprobs=self.top_logprobs,
        )  # fmt: skip

    @property
    def scored(self) -> bool:
        return bool(self.include) or self.top_logprobs is not None


class Response(Chat):
    """The shape of an answer, whole and in events."""

    def __init__(self, asked: ResponsesBody, *chat: Any) -> None:
        super().__init__(*chat)
        self.asked_for = asked
        self.message_id, self.number = f"msg_{uuid.uuid4().hex}", itertools.count()
        self.written = ""
        self.logprobs: list[Any] = []

    def response(self, status: str, output: list[Any], **more: Any) -> dict[str, Any]:
        asked = self.asked_for
        return {
            "id": f"resp_{self.head['id'].rpartition('-')[2]}", "object": "response",
            "created_at": self.head["created"], "model": self.head["model"], "status": status,
            "error": None, "incomplete_details": None, "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens, "output": output,
            "parallel_tool_calls": False, "previous_response_id": None, "store": False,
            "temperature": asked.temperature, "top_p": asked.top_p, "tool_choice": "none",
            "tools": [], "text": {"format": {"type": "text"}}, "truncation": "auto",
            "metadata": asked.metadata or {}, "usage": None, **more,
        }  # fmt: skip

    def part(self, text: str, logprobs: Sequence[Any]) -> dict[str, Any]:
        told = Pieces(self.pieces).chat(logprobs)["content"] if self.asks else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}

    def message(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {
            "type": "message", "id": self.message_id, "role": "assistant", "status": status,
            "content": content,
        }  # fmt: skip

    def whole(self, completions: Sequence[Completion], n: int) -> dict[str, Any]:
        completion = completions[0]
        cut = completion.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        usage = self.usage(completions)
        content = [self.part(completion.text, completion.logprobs)]
        return self.response(
            status, [self.message(status, content)],
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage={
                "input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
                "total_tokens": usage["total_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
            truncated=self.truncated,
        )  # fmt: skip

    # --- streams

    def named(self, kind: str, **values: Any) -> dict[str, Any]:
        return {"type": f"response.{kind}", "sequence_number": next(self.number), **values}

    def within(self, kind: str, **values: Any) -> dict[str, Any]:
        """An event of the only part of the only message."""
        place = {"item_id": self.message_id, "output_index": 0, "content_index": 0}
        return self.named(kind, **place, **values)

    def first(self) -> list[dict[str, Any]]:
        begun = self.response("in_progress", [])
        return [
            self.named("created", response=begun), self.named("in_progress", response=begun),
            self.named("output_item.added", output_index=0, item=self.message("in_progress", [])),
            self.within("content_part.added", part=self.part("", [])),
        ]  # fmt: skip

    def chunk(self, event: Event) -> dict[str, Any]:
        told = self.part("", event.logprobs)["logprobs"]
        return self.within("output_text.delta", delta=event.text, logprobs=told)

    def last(self, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        whole = self.whole(completions, 1)
        item, part = whole["output"][0], whole["output"][0]["content"][0]
        return [
            self.within("output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self.within("content_part.done", part=part),
            self.named("output_item.done", output_index=0, item=item),
            self.named(whole["status"], response=whole),
        ]  # fmt: skip


def router(server: Server) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/responses", response_model=None)
    async def responses(body: ResponsesBody, asked: Asked) -> JSONResponse | StreamingResponse:
        return await server.chat(body.chat(), asked, lambda *chat: Response(body, *chat))

    return routes
