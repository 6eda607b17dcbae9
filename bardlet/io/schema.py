"""Frozen dataclasses out of JSON files that others may have made, and back.

A shape is a type, None, a tuple of alternatives, a list with the shape of every element, or a dict
with those of its keys, where `key?` may be missing and `...` stands for all others. A dataclass
gives the shape of its file: keys that it does not have are not looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
LONGEST = 4096  # characters of a name
VERSIONED = {"format_version?": int}


def read(cls: type[T], document: object) -> T:
    """The dataclass `cls` out of a JSON object; ValueError where a value has another type.

    A field is read from the key of its name, or from `key` of its metadata (None: from none). Its
    type is bool, int, float, str, a union of those and None, a dataclass, a Sequence or a Mapping
    from str of them, or object, which is taken as it is. A field with a default may be missing.
    """
    check(document, shape_of(cls))
    return value_of(cls, document)


def to_json(value: object) -> Any:
    """The JSON of a dataclass that `read` reads back; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = (
            (key_of(field), getattr(value, field.name)) for field in dataclasses.fields(value)
        )
        return {key: to_json(part) for key, part in entries if key and part is not None}
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(part) for part in value]
    return value


def key_of(field: dataclasses.Field[Any]) -> str | None:
    """The JSON key of a field; None where it is not in the file."""
    return field.metadata.get("key", field.name)


def has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


@functools.cache
def shape_of(kind: Any) -> Any:
    """The shape of a type, as `read` has it."""
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return {
            key + "?" * has_default(field): shape_of(hint)
            for field, hint in fields_of(kind)
            if (key := key_of(field))
        }
    if origin in (Union, types.UnionType):
        return tuple(None if part is types.NoneType else shape_of(part) for part in args)
    if origin is not None:
        return {...: shape_of(args[1])} if issubclass(origin, Mapping) else [shape_of(args[0])]
    return kind


def value_of(kind: Any, document: Any) -> Any:
    """A checked JSON value as its type has it."""
    origin, args = get_origin(kind), get_args(kind)
    if document is None or kind is object:
        return document
    if dataclasses.is_dataclass(kind):
        parts = ((field.name, key_of(field), hint) for field, hint in fields_of(kind))
        return kind(**{  # pyright: ignore[reportCallIssue]
            name: value_of(hint, document[key]) for name, key, hint in parts if key in document
        })  # fmt: skip
    if origin in (Union, types.UnionType):
        return value_of(next(part for part in args if fits(document, shape_of(part))), document)
    if origin is not None and issubclass(origin, Mapping):
        return {key: value_of(args[1], part) for key, part in document.items()}
    if origin is not None:
        return tuple(value_of(args[0], part) for part in document)
    return document


@functools.cache
def fields_of(cls: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a dataclass with their types."""
    hints = get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def check(value: object, shape: object, name: str = "it") -> None:
    """Raise ValueError where a JSON value is not of `shape`."""
    if shape is object:
        return
    if isinstance(shape, tuple):
        if not any(fits(value, one) for one in shape):
            check(value, shape[0], name)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")
        for i, element in enumerate(value):
            check(element, shape[0], f"{name}[{i}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        for key in shape:
            if key is not ... and not key.endswith("?") and key not in value:
                raise ValueError(f"{name} has no {key}")
        for key, part in value.items():
            known = next((k for k in (key, f"{key}?", ...) if k in shape), None)
            if known is not None:
                check(part, shape[known], f"{name}.{key[:100]}")
    elif not is_a(value, shape):
        raise ValueError(f"{name} has an invalid value {str(value)[:100]!r}")


def fits(value: object, shape: object) -> bool:
    try:
        check(value, shape)
    except ValueError:
        return False
    return True


def is_a(value: object, kind: object) -> bool:
    """Whether a value is of a type: int and float within 64 bits, int at least 0, str LONGEST."""
    match value:
        case None:
            return kind is None
        case bool():
            return kind is bool
        case int():
            low = 0 if kind is int else -1 << 63
            return kind in (int, float) and low <= value < 1 << 63
        case str():
            return kind is str and len(value) <= LONGEST
    return isinstance(kind, type) and isinstance(value, kind)
