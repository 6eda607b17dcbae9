"""Writes what kind each character is, for the compiled core of tokenizers.

    python docs/generate_unicode.py

The library that encodes without the core is asked, since versions of Unicode differ: tokenizers
0.23 and tiktoken 0.14 have Unicode 16, and Python has the one of its own version.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Regex, pre_tokenizers

from bardlet.data.tokenizers.patterns import LOWER, UPPER

TARGET = Path(__file__).parents[1] / "bardlet" / "data" / "tokenizers" / "unicode_classes.h"
SURROGATES = range(0xD800, 0xE000)
# the bits of words.h
KINDS = {1: UPPER, 2: LOWER, 4: r"\p{N}", 8: r"\s", 16: r"\p{M}"}
OTHER_CASE = {1: 2, 2: 1}
ALTERNATING = 32
HEAD = """\
// What kind each character is, of Unicode 16: made by docs/generate_unicode.py.
#pragma once
#include <cstdint>

// Runs of code points, each its first one << 8 | the bits of words.h, and 32 where capitals and
// small letters take turns.
const uint32_t CLASS_RUNS[] = {
"""


def classes() -> np.ndarray:
    """The bits of every code point, (0x110000,) uint8."""
    chars = "".join(chr(i) for i in range(0x110000) if i not in SURROGATES)
    bits = np.zeros(0x110000, dtype=np.uint8)
    for bit, kind in KINDS.items():
        others = pre_tokenizers.Split(Regex(f"{kind}+"), "removed", invert=True)
        members = "".join([word for word, _ in others.pre_tokenize_str(chars)])
        bits[np.frombuffer(members.encode("utf-32-le"), dtype=np.uint32)] |= bit
    return bits


def runs(bits: list[int]) -> list[int]:
    """The runs of equal bits, and of capitals and small letters in turn."""
    found: list[int] = []
    at = 0
    while at < len(bits):
        end, pair = at + 1, [bits[at], OTHER_CASE.get(bits[at])]
        while end < len(bits) and bits[end] == pair[(end - at) % 2]:
            end += 1
        alternating = ALTERNATING if end - at > 2 else 0
        if not alternating:
            end = at + 1
            while end < len(bits) and bits[end] == bits[at]:
                end += 1
        found.append(at << 8 | alternating | bits[at])
        at = end
    return found


if __name__ == "__main__":
    numbers = [f"0x{run:x}," for run in runs(classes().tolist())]
    lines = [" ".join(numbers[i : i + 9]) for i in range(0, len(numbers), 9)]
    TARGET.write_text(HEAD + "\n".join(lines) + "\n};\n", encoding="utf-8")
