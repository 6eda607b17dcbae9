"""Pickles of plain values, as nanoGPT's meta.pkl is, read without Python's unpickler, and written.

A pickle is a program. Only the instructions that build dicts, lists, strings and integers are known
here; what looks up a name or calls anything has no meaning, so nothing can be run.
"""

from __future__ import annotations

import pickletools
import struct
from typing import Any

from bardlet.errors import DataError

MAX_BYTES = 64 << 20  # a vocabulary of a million characters takes less
SKIPPED = {"PROTO", "FRAME"}
VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
STORES, LOADS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


def read(data: bytes, name: str) -> Any:
    """The value of a pickle of dicts, lists, strings and integers; `name` is for messages.

    Raises DataError where it is damaged, too large, or holds anything else.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{name} is not a description of a vocabulary: it has {len(data):,} bytes")
    stack: list[Any] = []
    marks: list[int] = []  # where in the stack the items of a container begin
    memory: dict[int, Any] = {}
    try:
        for code, argument, _ in pickletools.genops(data):
            if code.name == "STOP":
                (value,) = stack
                return value
            step(code.name, argument, stack, marks, memory, name)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise DataError(f"{name} is damaged: {error or type(error).__name__}") from None
    raise DataError(f"{name} is damaged: it ends too early")


def step(
    code: str, argument: Any, stack: list[Any], marks: list[int], memory: dict[int, Any], name: str
) -> None:
    """Follow one instruction of a pickle."""
    if code in VALUES:
        stack.append(argument)
    elif code in EMPTY:
        stack.append(EMPTY[code]())
    elif code == "MARK":
        marks.append(len(stack))
    elif code == "MEMOIZE":
        memory[len(memory)] = stack[-1]
    elif code in STORES:
        memory[int(argument)] = stack[-1]
    elif code in LOADS:
        stack.append(memory[int(argument)])
    elif code in ("SETITEM", "APPEND"):
        count = 2 if code == "SETITEM" else 1
        fill(stack, len(stack) - count)
    elif code in ("SETITEMS", "APPENDS", "DICT", "LIST"):
        start = marks.pop()
        if code in ("DICT", "LIST"):
            stack.insert(start, {} if code == "DICT" else [])
            start += 1
        fill(stack, start)
    elif code not in SKIPPED:
        raise DataError(
            f"{name} holds more than dicts, lists, strings and integers: {code}",
            "It could run code, so it is not read",
        )


def fill(stack: list[Any], start: int) -> None:
    """Move what lies from `start` on into the list, or by turns as keys and values into the dict,
    that lies below it.
    """
    if not 0 < start <= len(stack):
        raise ValueError("its instructions do not fit each other")
    container, items = stack[start - 1], stack[start:]
    del stack[start:]
    if isinstance(container, dict):
        container.update(zip(items[::2], items[1::2], strict=True))
    else:
        container.extend(items)


def write(value: Any) -> bytes:
    """A pickle, protocol 2, of dicts, lists, strings and integers below 2^31."""
    return b"\x80\x02" + encoded(value) + b"."


def encoded(value: Any) -> bytes:
    if isinstance(value, dict):
        items = b"".join(encoded(k) + encoded(v) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(encoded, value)) + b"e"
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(raw)) + raw
    return b"J" + struct.pack("<i", value)
