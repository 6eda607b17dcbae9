"""Conversations with a model: prompts of messages by its template, and what ends an answer."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.chat import ChatTemplate, Messages
from bardlet.errors import UsageError
from bardlet.interop.chat_template import own_template
from bardlet.interop.verify import Trained
from bardlet.serve.completion import Request

ROOM = 4  # an answer has this part of the context at least, one in so many, or what it asks for
HINT = (
    "Finetune it on conversations: bardlet prepare CHATS.jsonl --tokenizer RUN, then bardlet train "
    "chat-sft --init_from=RUN --dataset=CHATS"
)


class Asked(Protocol):
    """What is asked of a model here, see `serve.model.Model`."""

    trained: Trained
    tokenizer: Tokenizer

    @property
    def context(self) -> int: ...

    @property
    def of_pairs(self) -> bool: ...

    def prompt(self, text: str) -> tuple[int, ...]: ...

    def request(self, prompt: str | Sequence[int], **options: Any) -> Request: ...


class NoRoomError(UsageError):
    """The last message does not fit the context."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The tokens that an answer goes on from, and how many messages found no room in them."""

    ids: tuple[int, ...]
    dropped: int = 0


class Conversations:
    """A model and its template; UsageError for a model without one."""

    def __init__(self, model: Asked) -> None:
        self.model = model
        self.template = template_of(model)
        if self.template is None and not model.of_pairs:
            raise UsageError("this model was trained on text and has no chat template", HINT)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer: every special one, none of which belongs into a text."""
        return tuple(self.model.tokenizer.special().values()) if self.template else ()

    def prompt(self, messages: Messages, max_new_tokens: int = 0) -> Prompt:
        """The prompt of some messages, the oldest of which are left out where they do not fit
        beside an answer of `max_new_tokens` or, where that is much, a part of the context.

        A system message stays. UsageError for messages that the template does not take, or of which
        the last does not fit.
        """
        model, template = self.model, self.template
        if template is None:
            if [message["role"] for message in messages] != ["user"]:
                raise UsageError(
                    "this model was trained on single questions: messages is one of role user"
                )
            return Prompt(ids=model.prompt(messages[0]["content"]))
        limit = model.context - min(max_new_tokens or model.context, model.context // ROOM)
        first = messages[:1] if messages and messages[0]["role"] == "system" else messages[:0]
        rest = list(messages[len(first) :])
        if not rest:
            raise UsageError("there is no message of a user to answer")

        def encode(begin: int) -> list[int]:
            return template.encode([*first, *rest[begin:]], prompt=True)[0].tolist()

        ids, dropped = encode(0), 0
        if len(ids) > limit:
            # a question is left out with all that follows it, up to the next
            begins = [i for i, message in enumerate(rest) if i and message["role"] == "user"]
            fits = bisect.bisect_left(begins, True, key=lambda begin: len(encode(begin)) <= limit)
            dropped = begins[min(fits, len(begins) - 1)] if begins else 0
            ids = encode(dropped)
        if len(ids) > limit:
            raise NoRoomError(
                f"the last message and what stands before it are {len(ids):,} tokens; the "
                f"context of {model.context} has room for {limit} beside an answer",
                "Shorten it, or the system message",
            )
        return Prompt(ids=tuple(ids), dropped=dropped)

    def request(self, messages: Messages, **options: Any) -> tuple[Request, Prompt]:
        """The request for an answer, with the options of `Model.request`, and its prompt."""
        prompt = self.prompt(messages, options.get("max_new_tokens", 0))
        return self.model.request(prompt.ids, ends=self.ends, **options), prompt


def template_of(model: Asked) -> ChatTemplate | None:
    """The model's own template; None where it has none."""
    source = own_template(model.trained)
    return ChatTemplate(source, model.tokenizer) if source else None
