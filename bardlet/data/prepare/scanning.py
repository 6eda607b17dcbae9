"""A unit of text to its characters, counted: what is known before there is a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.prepare.encoding import Result, of_part
from bardlet.data.prepare.units import Unit
from bardlet.data.tokenizers.char import count


@dataclass(kw_only=True)
class Scanned:
    """What a first reading of a unit finds: `sizes` of its parts, in characters."""

    sizes: list[int]
    characters: int
    alphabet: np.ndarray  # code points, ascending
    counts: np.ndarray  # how often each is there
    result: Result  # what could not be read


def scan(unit: Unit, spec: EncodeSpec) -> Scanned:
    """The characters of a unit, counted."""
    sizes: list[int] = []
    characters = 0
    counts = np.zeros(128, dtype=np.int64)
    result = Result(splits={})
    for part in unit.parts:
        sizes.append(0)
        for piece in of_part(part, unit, spec, result, divided=True):
            sizes[-1] += len(piece.text)
            characters += len(piece.prompt) + len(piece.text)
            for shown in (piece.prompt, piece.text):
                counts = count(shown, counts)
    alphabet = np.flatnonzero(counts)
    return Scanned(
        sizes=sizes, characters=characters, alphabet=alphabet.astype(np.int32),
        counts=counts[alphabet], result=result,
    )  # fmt: skip
