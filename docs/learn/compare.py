"""Whether an output is as the text has it, by the kind of thing that it is.

exact    counts, ids, sizes, files: every character
losses   what training measured: words and whole numbers equal, decimals within 0.03
shares   what a model thinks: percentages within 5 points, counts not at all; of a table ordered by
         them up to 4 of 10 lines may be others
shape    logs and samples, of which each machine writes others: nothing but the block's `holds`

A block may have a tolerance of its own: training amplifies how a CPU rounds, which moves some
numbers by more than that.
"""

from __future__ import annotations

import re

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?%?")
NATS, POINTS = 0.03, 5.0
RELATIVE = 0.05  # of decimals above 1 that are no loss: lengths, logits
MISSING = 0.4  # of the lines that may differ in words where a table is ordered by shares


def differences(kind: str, there: str, now: str, tolerance: float | None = None) -> list[str]:
    """What of an output `now` is not as the text has it `there`, in words; none where it fits.

    `tolerance` stands in place of 0.03 or 5 points.
    """
    if kind == "exact":
        return [] if there == now else [f"{there!r} is {now!r} now"]
    if kind == "shape":
        return []
    assert kind in ("losses", "shares"), kind
    before, after = by_words(there), by_words(now)
    common = before.keys() & after.keys()
    missing = 1 - len(common) / max(1, len(before))
    if missing > (MISSING if kind == "shares" else 0):
        return [f"other lines: {sorted(before.keys() ^ after.keys())}"]
    return [
        f"{a} is {b} now, of {words!r}"
        for words in sorted(common)
        for a, b in zip(before[words], after[words], strict=True)
        if not close(kind, a, b, tolerance)
    ]


def by_words(text: str) -> dict[str, list[str]]:
    """The numbers of each line, by what it says without them."""
    return {NUMBER.sub("#", re.sub(r"\s+", " ", line)).strip(): NUMBER.findall(line)
            for line in text.splitlines()}  # fmt: skip


def close(kind: str, a: str, b: str, tolerance: float | None) -> bool:
    x, y = (float(n.rstrip("%").replace(",", "")) for n in (a, b))
    if a.endswith("%"):
        return b.endswith("%") and abs(x - y) <= (POINTS if tolerance is None else tolerance)
    if "." not in a:
        return x == y or kind == "shares"
    if abs(x - y) <= (NATS if tolerance is None else tolerance):
        return True
    return kind == "shares" and abs(x - y) <= RELATIVE * max(1, abs(x))
