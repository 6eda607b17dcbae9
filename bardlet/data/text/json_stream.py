"""The values of a long text of JSON, one at a time, in memory that does not grow with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from bardlet.errors import DataError

MAX_CHARACTERS = 1 << 28  # characters of a value, which has to be in memory
GAP = re.compile(r"[ \t\r\n]*")
ESCAPE = 16  # characters; an error so near the end may only be a value cut off


def values(blocks: Iterator[str], name: str) -> Iterator[Any]:
    """Yields the elements of arrays, and the values outside of arrays, of the text in `blocks`.

    That is an array of records, a record alone, and lines of JSON. DataError for what is not JSON.
    """
    decode = json.JSONDecoder().raw_decode
    blocks = filter(None, blocks)  # one of bytes that are left out has no text, and ends nothing
    waiting, at, inside, number = "", 0, False, 1
    while True:
        gap = GAP.match(waiting, at)
        at = gap.end() if gap else at
        sign = waiting[at : at + 1]
        if sign and sign == ("," if inside else "["):
            at, inside = at + 1, True
            continue
        if inside and sign == "]":
            at, inside = at + 1, False
            continue
        try:
            value, at = decode(waiting, at)
        except (ValueError, RecursionError) as error:
            # as much again as there is, or a long value would be begun again for every block
            more = "".join(islice(blocks, 1 + (len(waiting) - at >> 20))) if cut(error) else ""
            if not (more or sign or inside):
                return
            if len(waiting) - at > MAX_CHARACTERS:
                problem = f"has more than {MAX_CHARACTERS:,} characters"
            elif more:
                waiting, at = waiting[at:] + more, 0
                continue
            else:
                problem = f"is not JSON: {getattr(error, 'msg', error)}"
            raise DataError(f"{name}, record {number} {problem}", "Mend or remove it") from None
        yield value
        number += 1


def cut(error: Exception) -> bool:
    """Whether JSON may be wrong for no other reason than that its end is not there yet."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or error.pos >= len(error.doc) - ESCAPE
