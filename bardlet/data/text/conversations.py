"""Conversations in records: their turns, in the forms that people publish them in.

`messages` with role and content, as OpenAI and transformers have them; `conversations` with from
and value, as ShareGPT; instruction, input and output, as Alpaca. One that teaches no answer is left
out and counted, one that is not text is a problem of its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bardlet.data.text.counts import Omission
from bardlet.errors import DataError

Turn = tuple[str, str]  # role and content
INSTRUCTION = "instruction"  # the key that stands for Alpaca's form
KEYS: dict[str, tuple[str, ...]] = {INSTRUCTION: (INSTRUCTION, "output")}  # required of a form
MORE: dict[str, tuple[str, ...]] = {INSTRUCTION: ("input", "system")}  # and read where they are
PAIR = ("chosen", "rejected", "prompt")  # of a pair of answers, see `preferences`
LISTS = ("messages", "conversations", "conversation")  # keys of lists of turns
ROLE, CONTENT = ("role", "from"), ("content", "value")
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "prompter": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant",
}  # fmt: skip
ANSWERS = tuple(name for name, role in ROLES.items() if role == "assistant")
MAX_TURNS = 1000


def key_of(record: Any) -> str:
    """The key by which a record is a conversation; empty where it is none, or has a `text`."""
    if not isinstance(record, Mapping) or isinstance(record.get("text"), str):
        return ""
    there = [name in record for name in PAIR]
    if sum(there) > 1:  # one that lacks an answer is a pair, too, and its reader says so
        return ",".join(PAIR[:2])
    for name in LISTS:
        turns = record.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            return name
    of_alpaca = all(isinstance(record.get(name), str) for name in KEYS[INSTRUCTION])
    return INSTRUCTION if of_alpaca else ""


def turns_of(record: Mapping[str, Any], key: str, value: Any, place: str) -> list[Turn]:
    """The turns of a record's conversation; `value` is that of its key.

    DataError where it is not a list of turns, or one is not text.
    """
    if key == INSTRUCTION:
        instruction, more, output = (record.get(n, "") for n in (INSTRUCTION, "input", "output"))
        asked = [text_of(part, place) for part in (instruction, more or "")]
        question = "\n\n".join(part for part in asked if part.strip())
        system = text_of(record.get("system") or "", place)
        first = [("system", system)] if system.strip() else []
        return [*first, ("user", question), ("assistant", text_of(output, place))]
    if not isinstance(value, list):
        problem = "is not there" if value is None else "is not a list of turns"
        raise DataError(
            f"{place}: {key!r} {problem}",
            "Name the list with --messages_key; each turn has role and content, or from and value",
        )
    turns = []
    for number, turn in enumerate(value[: MAX_TURNS + 1], start=1):
        if not isinstance(turn, Mapping):
            raise DataError(f"{place}, turn {number} is not an object with role and content")
        role = next((turn[name] for name in ROLE if name in turn), None)
        content = next((turn[name] for name in CONTENT if name in turn), None)
        if not isinstance(role, str):
            raise DataError(f"{place}, turn {number} has no role", "It is under role, or from")
        turns.append((role, text_of(content, f"{place}, turn {number}")))
    return turns


def text_of(content: Any, place: str) -> str:
    """The text of a turn, which may be a list of parts; DataError where it is not text."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        content = "".join(parts) if all(isinstance(p, str) for p in parts) else None  # pyright: ignore
    if not isinstance(content, str):
        raise DataError(
            f"{place}: its content is not text", "--skip_unreadable leaves such conversations out"
        )
    return content


def checked(turns: list[Turn]) -> tuple[tuple[Turn, ...], tuple[Omission, ...]]:
    """The turns with roles by their usual names, or none and why they are left out."""
    size = sum(len(content.encode("utf-8", "surrogatepass")) for _, content in turns)
    unknown = [role for role, _ in turns if role.lower() not in ROLES]
    named = [(ROLES.get(role.lower(), ""), content) for role, content in turns]
    answers = [content for role, content in named if role == "assistant"]
    reason, example = "", ""
    if len(turns) > MAX_TURNS:
        reason = "long_conversations"
    elif unknown:
        reason, example = "other_roles", repr(unknown[0][:40])
    elif not answers:
        reason = "unanswered"
    elif any(role == "system" for role, _ in named[1:]):
        reason, example = "other_roles", "a system message after the first"
    elif not all(content.strip() for role, content in named if role != "system"):
        reason = "empty_turns"
    if reason:
        return (), (Omission(reason, 1, size), *([Omission(reason, 0, 0, example)] * bool(example)))
    return tuple(named), ()
