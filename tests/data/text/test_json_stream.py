"""A long text of JSON, a value at a time: as `json` reads it whole, wherever the blocks end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bardlet.data.text import json_stream
from bardlet.data.text.json_stream import values
from bardlet.errors import DataError

STRINGS = st.text(max_size=8)
RECORDS = st.lists(
    st.one_of(
        STRINGS,
        st.dictionaries(
            STRINGS,
            st.recursive(
                st.one_of(
                    STRINGS,
                    st.integers(),
                    st.floats(allow_nan=False, allow_subnormal=False),
                    st.none(),
                ),
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=5,
            ),
            max_size=4,
        ),
    ),
    max_size=6,
)


def found(text: str, *sizes: int) -> list[Any]:
    """The values of `text`, which comes in blocks of these sizes, then of three characters."""
    blocks: list[str] = []
    for size in [*sizes, *[3] * len(text)]:
        if text:
            blocks.append(text[:size])
        text = text[size:]
    return list(values(iter(blocks), "a.json"))


@given(
    records=RECORDS, indent=st.sampled_from([None, 2]), ascii=st.booleans(),
    sizes=st.lists(st.integers(1, 40), max_size=5),
)  # fmt: skip
def test_an_array_and_lines_give_their_records(
    records: list[Any], indent: int | None, ascii: bool, sizes: list[int]
) -> None:
    array = json.dumps(records, indent=indent, ensure_ascii=ascii)
    assert found(array, *sizes) == records
    assert found(f"\n {array} \n{array}", *sizes) == records * 2
    alone = "\n".join(json.dumps(record, indent=indent, ensure_ascii=ascii) for record in records)
    assert found(alone, *sizes) == records


@pytest.mark.parametrize("text", ["", " \n", "[]", " [ ] "])
def test_nothing_in_it(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('["a", "b"', "record 3 is not JSON: Expecting value"),
        ('["a"] x', "record 2 is not JSON: Expecting value"),
        ('{"a": 1,}', "record 1 is not JSON"),
        ('{"a": "b', "record 1 is not JSON: Unterminated string"),
        ("[" + '{"a":' * 100_000, "record 1 is not JSON: maximum recursion"),
        ("]", "record 1 is not JSON"),
    ],
)
def test_what_is_no_json_is_named(text: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        found(text, len(text))
    assert f"a.json, {problem}" in caught.value.message


def test_a_block_without_text_is_not_the_end() -> None:
    assert list(values(iter(["", '["a"', "", "", ', "b', "", '"]', ""]), "a.json")) == ["a", "b"]


def test_a_mistake_is_found_without_reading_on() -> None:
    blocks = iter(['[{"text" "a"}, ' + '"b", ' * 20, *['"c", '] * 100])
    with pytest.raises(DataError, match="record 1 is not JSON: Expecting ':' delimiter"):
        list(values(blocks, "a.json"))
    assert len(list(blocks)) == 100


def test_a_value_may_not_be_longer_than_fits_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_CHARACTERS", 50)
    with pytest.raises(DataError, match="record 2 has more than 50 characters"):
        found(json.dumps(["a" * 40, "b" * 60]))
