"""Dataclasses out of JSON: every type that a field may have, and every way to be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bardlet.io import schema


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Outer:
    loss: float
    parts: Sequence[Inner]
    flag: bool = False
    named: Mapping[str, Inner | int] = field(default_factory=dict)
    inner: Inner | None = None
    renamed: str | None = field(default=None, metadata={"key": "other"})
    outside: int | None = field(default=None, metadata={"key": None})
    anything: object = None


WHOLE = {
    "loss": 1, "parts": [{"name": "a", "size": 3}], "flag": True,
    "named": {"x": {"name": "b"}, "y": 2},
    "inner": {"name": "c"}, "other": "d", "anything": [{"deep": -1}], "unknown": -5,
}  # fmt: skip


def test_every_type_is_read_and_written_back() -> None:
    found = schema.read(Outer, WHOLE)
    assert found == Outer(
        loss=1, parts=(Inner(name="a", size=3),), flag=True, named={"x": Inner(name="b"), "y": 2},
        inner=Inner(name="c"), renamed="d", anything=[{"deep": -1}],
    )  # fmt: skip
    document = schema.to_json(found)
    assert "unknown" not in document and "outside" not in document
    assert document["named"] == {"x": {"name": "b", "size": 0}, "y": 2} and document["other"] == "d"
    assert schema.read(Outer, document) == found
    assert schema.to_json(schema.read(Outer, {"loss": 0.5, "parts": []})) == {
        "loss": 0.5, "parts": [], "flag": False, "named": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": "1"}, "it.loss has an invalid value '1'"),
        ({"loss": True}, "it.loss has an invalid value 'True'"),
        ({"loss": 1 << 63}, "it.loss has an invalid value"),
        ({"flag": 1}, "it.flag has an invalid value '1'"),
        ({"parts": {}}, "it.parts is not a list"),
        ({"parts": [3]}, r"it.parts\[0\] is not an object"),
        ({"parts": [{"size": 1}]}, r"it.parts\[0\] has no name"),
        ({"parts": [{"name": "a", "size": -1}]}, r"it.parts\[0\].size has an invalid value '-1'"),
        ({"parts": [{"name": "a" * 5000}]}, r"it.parts\[0\].name has an invalid value"),
        ({"named": {"x": "y"}}, "it.named.x is not an object"),
        ({"inner": []}, "it.inner is not an object"),
        ({"other": 3}, "it.other has an invalid value '3'"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schema.read(Outer, {**WHOLE, **change})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="it has no loss"):
        schema.read(Outer, {"parts": []})
    with pytest.raises(ValueError, match="it is not an object"):
        schema.read(Outer, [])
