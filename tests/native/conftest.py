"""The builds of the core, each in its turn."""

from __future__ import annotations

import pytest
from native_support import FOLDER, usable

from bardlet import native


@pytest.fixture(params=usable())
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    core = native.load(FOLDER / f"core-{request.param}.so")
    monkeypatch.setattr(native, "library", lambda: core)
    return request.param
