"""Preferences in records: a prompt with the answer that was chosen and the one that was rejected.

Both are whole conversations, or answers to a `prompt`, as lists of turns or as text: the forms that
trl and the data sets of the hub have. A pair that teaches no preference is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from bardlet.data.text import conversations
from bardlet.data.text.conversations import Turn
from bardlet.data.text.counts import Omission
from bardlet.errors import DataError

Pair = tuple[tuple[Turn, ...], tuple[Turn, ...]]  # the conversation chosen, and the one rejected
PROMPT = "prompt"
QUESTIONS = ("question", "instruction", "input")  # that are a prompt where there is none
MORE = (PROMPT, "system", *QUESTIONS)  # fields that are read where a record has them


def pair_of(record: Mapping[str, Any], chosen: Any, rejected: Any, place: str) -> Pair:
    """The conversations of a record, prompt included; empty ones where it has no such answer.

    DataError where a part of it is not text, or the prompt of a text is not there.
    """
    return whole(record, chosen, place), whole(record, rejected, place)


def whole(record: Mapping[str, Any], answer: Any, place: str) -> tuple[Turn, ...]:
    """The turns of an answer with those of its prompt before them."""
    if answer is None or answer in ("", []):
        return ()
    if isinstance(answer, list):
        turns = conversations.turns_of(record, "answer", answer, place)
    else:
        turns = [("assistant", conversations.text_of(answer, place))]
    prompt = record.get(PROMPT)
    if isinstance(prompt, list):
        asked = conversations.turns_of(record, PROMPT, prompt, place)
        return tuple(turns if turns[: len(asked)] == asked else asked + turns)
    if turns[0][0].lower() not in conversations.ANSWERS:
        return tuple(turns)  # the prompt is in it
    return (*asked_in_text(record, place), *turns)


def asked_in_text(record: Mapping[str, Any], place: str) -> list[Turn]:
    """The turns before an answer by the texts of a record; DataError where it has none."""
    names = [PROMPT] if record.get(PROMPT) is not None else QUESTIONS
    asked = [conversations.text_of(record.get(name) or "", place) for name in names]
    question = "\n\n".join(text for text in asked if text.strip())
    if not question:
        raise DataError(
            f"{place}: {PROMPT!r} is not there, which the answers are to",
            "It is a text or a list of turns, or the answers begin with the user's turn; "
            "--skip_unreadable leaves such pairs out",
        )
    system = conversations.text_of(record.get("system") or "", place)
    return [*([("system", system)] if system.strip() else []), ("user", question)]


def shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """How many turns two conversations have in common from their beginning: the prompt."""
    return sum(
        1 for _ in takewhile(lambda two: two[0] == two[1], zip(chosen, rejected, strict=False))
    )


def checked(pair: Pair) -> tuple[Pair, tuple[Omission, ...]]:
    """The pair with roles by their usual names, or none and why it is left out."""
    size = sum(len(t.encode("utf-8", "surrogatepass")) for turns in pair for _, t in turns)
    named: list[tuple[Turn, ...]] = []
    for turns in pair:
        if not any(text.strip() for role, text in turns if role.lower() in conversations.ANSWERS):
            return ((), ()), (Omission("unpaired", 1, size),)
        kept, omitted = conversations.checked(list(turns))
        if omitted:
            return ((), ()), (omitted[0]._replace(bytes=size), *omitted[1:])
        named.append(kept)
    chosen, rejected = named
    if chosen == rejected:
        return ((), ()), (Omission("equal_answers", 1, size),)
    prompt = shared(chosen, rejected)
    rest = [turns[prompt:] for turns in (chosen, rejected)]
    if not all(rest):  # one of them ends where the other goes on
        return ((), ()), (Omission("unpaired", 1, size),)
    if not prompt or any(turns[0][0] != "assistant" for turns in rest):
        return ((), ()), (Omission("other_prompts", 1, size),)
    return (chosen, rejected), ()
