"""Conversations in records: the forms that are read, and what is left out by which reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bardlet.data.text import conversations
from bardlet.data.text.records import Reading, of_record
from bardlet.errors import DataError

TURNS = (("system", "Be short."), ("user", "Hi?"), ("assistant", "Ho."))


def as_openai(turns: Any = TURNS) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def read(record: Any, key: str = "messages") -> Any:
    return of_record(record, "it, line 1", Reading(messages_key=key))


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({"messages": as_openai()}, "messages"),
        ({"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be short."}]},
                       *as_openai(TURNS[1:])], "id": 7}, "messages"),
        ({"conversations": [{"from": "system", "value": "Be short."},
                            {"from": "human", "value": "Hi?"},
                            {"from": "gpt", "value": "Ho."}]}, "conversations"),
        ({"instruction": "Hi?", "output": "Ho.", "system": "Be short.", "input": ""},
         "instruction"),
    ],
)  # fmt: skip
def test_the_forms_in_use_are_known_by_their_keys(record: Any, key: str) -> None:
    assert conversations.key_of(record) == key
    piece = read(record, key)
    assert piece.turns == TURNS
    assert piece.text == "Be short.\nHi?\nHo."


def test_an_instruction_with_an_input_is_one_question() -> None:
    piece = read({"instruction": "Add.", "input": "1 2", "output": "3"}, "instruction")
    assert piece.turns == (("user", "Add.\n\n1 2"), ("assistant", "3"))


@pytest.mark.parametrize("record", [{"text": "a", "messages": as_openai()}, {"messages": "a"}, "a",
                                    {"messages": []}, {"instruction": "a"}, [1]])  # fmt: skip
def test_what_is_no_conversation_by_itself(record: Any) -> None:
    assert conversations.key_of(record) == ""


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("user", "a")], "unanswered"),
        ([("tool", "a"), ("assistant", "b")], "other_roles"),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "other_roles"),
        ([("user", " \n"), ("assistant", "b")], "empty_turns"),
        ([("user", "a"), ("assistant", "")], "empty_turns"),
        ([("user", "a"), ("assistant", "b")] * 50_000, "long_conversations"),
    ],
)
def test_what_teaches_no_answer_is_left_out_and_counted(turns: Any, reason: str) -> None:
    piece = read({"messages": as_openai(turns)})
    assert piece.notice and not piece.turns
    assert piece.omitted[0].reason == reason
    assert piece.omitted[0].bytes > 0


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": 3}, "it, line 1: 'messages' is not a list of turns"),
        ({}, "it, line 1: 'messages' is not there"),
        ({"messages": ["a"]}, "it, line 1, turn 1 is not an object with role and content"),
        ({"messages": [{"content": "a"}]}, "it, line 1, turn 1 has no role"),
        ({"messages": [{"role": "user", "content": 3}]},
         "it, line 1, turn 1: its content is not text"),
        ({"messages": [{"role": "user"}]}, "it, line 1, turn 1: its content is not text"),
    ],
)  # fmt: skip
def test_what_is_not_text_is_named(record: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(record)
    assert error.value.message == message


def test_one_line_of_a_file_decides(tmp_path: Path) -> None:
    from bardlet.data.text.first_record import messages_key
    from bardlet.data.text.sources import Asked, find

    def key(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        asked = Asked(encoding="utf-8", errors="strict")
        return messages_key(find([str(tmp_path / name)], asked=asked), "utf-8")

    line = json.dumps({"messages": as_openai()})
    assert key("a.jsonl", f"\n{line}\n{line}\n") == "messages"
    assert key("b.json", f"[{line}]") == "messages"
    assert key("c.csv", "instruction,output\na,b\n") == "instruction"
    assert key("d.jsonl", '{"text": "a"}\n') == ""
    assert key("e.jsonl", "{nothing\n") == ""
    assert key("f.txt", line) == ""
