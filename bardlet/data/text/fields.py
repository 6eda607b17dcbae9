"""The fields of a record of JSON or of a table: values by name, and which of them are text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ABSENT = object()  # the value of a field that is not there


def field_of(record: Any, key: str) -> Any:
    """The value of a field, "doc.text" being the text of doc; of a list of records the values of
    all; ABSENT where there is none.
    """
    if isinstance(record, list):
        values = [field_of(part, key) for part in record]
        return ABSENT if ABSENT in values else values
    if not isinstance(record, dict):
        return ABSENT
    if key in record:
        return record[key]
    head, _, rest = key.partition(".")
    return field_of(record.get(head), rest) if rest else ABSENT


def text_fields(record: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yields the names of the fields of a record that are text, in records within it too."""
    for name, value in record.items():
        if isinstance(value, dict) and not before:
            yield from text_fields(value, f"{name}.")
        elif joined(value) is not None:
            yield f"{before}{name}"


def joined(value: Any) -> str | None:
    """The text that a value is, or that a list has as its lines; None for anything else."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def size_of(value: Any) -> int:
    """The bytes of all texts in a value of JSON or a row, in UTF-8."""
    size, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return size
