"""Pairs of answers in records: the forms that they are published in, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest

from bardlet.data.text.conversations import key_of
from bardlet.data.text.preferences import shared
from bardlet.data.text.records import Piece, Reading, of_record
from bardlet.errors import DataError

ASKED, GOOD, BAD = ("user", "q"), ("assistant", "yes"), ("assistant", "no")


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


def read(record: dict[str, Any], keys: str = "chosen,rejected") -> Piece:
    return of_record(record, "it", Reading(messages_key=keys))


FORMS = {
    "text": {"prompt": "q", "chosen": "yes", "rejected": "no"},
    "lists after a prompt": {
        "prompt": turns(ASKED), "chosen": turns(GOOD), "rejected": turns(BAD),
    },
    "whole lists": {"chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, BAD)},
    "whole lists and the prompt again": {
        "prompt": "q", "chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, BAD), "messages": [],
    },
    "a prompt that the lists have too": {
        "prompt": turns(ASKED), "chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, BAD),
    },
    "lists of answers after a text": {"prompt": "q", "chosen": turns(GOOD), "rejected": turns(BAD)},
    "a question": {"question": "q", "system": "", "chosen": "yes", "rejected": "no"},
    "from and value": {
        "chosen": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}],
        "rejected": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "no"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pair(form: str) -> None:
    assert key_of(FORMS[form]) == "chosen,rejected"
    piece = read(FORMS[form])
    assert piece.turns == (ASKED, GOOD) and piece.rejected == (ASKED, BAD)
    assert piece.text == "q\nyes\nq\nno" and not piece.notice


def test_a_system_message_stands_first_and_an_input_follows_the_instruction() -> None:
    record = {"system": "s", "instruction": "i", "input": "j", "chosen": "a", "rejected": "b"}
    assert read(record).turns == (("system", "s"), ("user", "i\n\nj"), ("assistant", "a"))


def test_other_keys_can_be_named() -> None:
    piece = read({"prompt": "q", "good": "yes", "bad": "no"}, "good,bad")
    assert (piece.turns[1], piece.rejected[1]) == (GOOD, BAD)


def test_what_both_have_in_common_is_the_prompt() -> None:
    both = (ASKED, GOOD, ("user", "more"))
    assert shared((*both, GOOD), (*both, BAD)) == 3


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "q", "chosen": "yes", "rejected": None}, "unpaired"),
        ({"prompt": "q", "chosen": " ", "rejected": "no"}, "unpaired"),
        ({"prompt": "q", "chosen": [], "rejected": "no"}, "unpaired"),
        ({"chosen": turns(ASKED, GOOD), "rejected": turns(ASKED)}, "unpaired"),
        ({"chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, GOOD, ASKED, BAD)}, "unpaired"),
        ({"prompt": "q", "chosen": "yes", "rejected": "yes"}, "equal_answers"),
        ({"chosen": turns(ASKED, GOOD), "rejected": turns(("user", "r"), BAD)}, "other_prompts"),
        ({"prompt": "q", "chosen": turns(("tool", "x"), GOOD), "rejected": "no"}, "other_roles"),
    ],
)
def test_a_pair_that_teaches_nothing_is_counted(record: dict[str, Any], reason: str) -> None:
    piece = read(record)
    assert piece.notice and piece.omitted[0].reason == reason and piece.omitted[0].number == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "q", "chosen": "yes"}, "it: 'rejected' is not there"),
        ({"prompt": "q", "rejected": "no"}, "it: 'chosen' is not there"),
        ({"chosen": "yes", "rejected": "no"}, "it: 'prompt' is not there"),
        ({"prompt": "q", "chosen": 5, "rejected": "no"}, "it: its content is not text"),
        ({"prompt": 5, "chosen": "yes", "rejected": "no"}, "it: its content is not text"),
        ({"prompt": "q", "chosen": ["yes"], "rejected": "no"}, "turn 1 is not an object"),
    ],
)
def test_one_that_is_no_pair_says_why(record: dict[str, Any], message: str) -> None:
    if {"chosen", "rejected"} - {*record}:
        assert key_of(record) == "chosen,rejected"  # so that it is not taken for a text
    with pytest.raises(DataError, match=message):
        read(record)
