"""Stop strings: found across pieces, never shown in part, and nothing lost at the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bardlet.serve.stop import StopStrings

SHORT = st.text("abX", max_size=30)


def shown(pieces: list[str], strings: list[str]) -> tuple[str, bool]:
    stop = StopStrings(strings)
    text = "".join(map(stop.feed, pieces))
    return text + stop.end(), stop.stopped


@given(SHORT, st.lists(st.text("abX", max_size=4), max_size=3), st.integers(1, 5))
def test_text_ends_before_the_first_stop_string(text: str, strings: list[str], size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    places = [text.find(string) for string in strings if string and string in text]
    got, stopped = shown(pieces, strings)
    assert stopped == bool(places)
    if not places:
        assert got == text
    elif size == 1:  # the first that is complete ends the text
        ends = {text.find(s) + len(s): text.find(s) for s in sorted(strings, key=len)
                if s and s in text}  # fmt: skip
        assert got == text[: ends[min(ends)]]
    else:
        assert any(got == text[:place] for place in places)


@given(SHORT, st.integers(1, 3))
def test_what_is_held_back_is_the_beginning_of_a_stop_string(text: str, size: int) -> None:
    stop, seen = StopStrings(["abX", "XX"]), ""
    for i in range(0, len(text), size):
        seen += stop.feed(text[i : i + size])
        if stop.stopped:
            break
        assert text.startswith(seen)
        assert text[: i + size][len(seen) :] in ("", "a", "ab", "X")


@pytest.mark.parametrize(
    ("pieces", "strings", "text"),
    [(["he", "llo\n", "\nB"], ["\n\n"], "hello"), (["a\n"], ["\n\n"], "a\n"),
     (["User", ":"], ["User:"], ""), (["ab"], [], "ab"), (["ab"], [""], "ab"),
     (["aab", "c"], ["abc"], "a"), (["aaa", "ab"], ["aab"], "aa")],
)  # fmt: skip
def test_by_hand(pieces: list[str], strings: list[str], text: str) -> None:
    assert shown(pieces, strings)[0] == text
