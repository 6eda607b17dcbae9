"""The suffixes of a text in order: where any string stands in it is one range of them."""

from __future__ import annotations

import numpy as np

WIDE = 7  # bytes that the first sort compares: 9 bits each, for 256 values and the end


def suffix_array(text: bytes) -> np.ndarray:
    """Where the suffixes of a text begin, in the order of the suffixes: (N,) int32.

    By doubling (Manber and Myers 1993): an order by the first k bytes, and that of what stands k
    bytes on, give the order by 2k. Only suffixes that are still equal are sorted again.
    """
    n, k = len(text), WIDE
    key = first_bytes(text)
    order = np.argsort(key)
    equal = equal_to_last(key[order])
    rank = np.zeros(n, dtype=np.int64)
    while equal.any():
        start = np.flatnonzero(~equal)  # of each group of suffixes that are equal so far
        rank[order] = start[np.cumsum(~equal) - 1]
        sizes = np.diff(np.append(start, n))
        at = np.flatnonzero(np.repeat(sizes > 1, sizes))
        suffix = order[at]
        behind = suffix + k
        # 0 for the end of the text, which comes before everything
        second = np.where(behind < n, rank[np.minimum(behind, n - 1)] + 1, 0)
        key = rank[suffix] * (n + 1) + second
        by_key = np.argsort(key)
        order[at] = suffix[by_key]
        equal = np.zeros(n, dtype=bool)
        equal[at] = equal_to_last(key[by_key])
        k *= 2
    return order.astype(np.int32)


def first_bytes(text: bytes) -> np.ndarray:
    """The first bytes of each suffix as one number, 0 for what is behind the end: (N,) int64."""
    n = len(text)
    values = np.zeros(n + WIDE, dtype=np.int64)
    values[:n] = np.frombuffer(text, dtype=np.uint8)
    values[:n] += 1
    key = np.zeros(n, dtype=np.int64)
    for i in range(WIDE):
        key = (key << 9) | values[i : i + n]
    return key


def equal_to_last(keys: np.ndarray) -> np.ndarray:
    """Whether each of sorted keys (N,) is that before it: (N,) bool."""
    equal = np.zeros(len(keys), dtype=bool)
    np.equal(keys[1:], keys[:-1], out=equal[1:])
    return equal
