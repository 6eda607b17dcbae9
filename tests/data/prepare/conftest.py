"""What the tests of preparing share."""

from __future__ import annotations

import pytest

from bardlet.data.prepare import encoding, units
from bardlet.data.text import decoding, documents


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few kilobytes in blocks of less, so that a small text has many."""
    monkeypatch.setattr(units, "UNIT", 4000)
    monkeypatch.setattr(units, "WINDOW", 2000)
    monkeypatch.setattr(decoding, "NEAR", 50)
    monkeypatch.setattr(encoding, "BLOCK", 900)
    monkeypatch.setattr(documents, "PIECE", 1500)
