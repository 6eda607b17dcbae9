"""What notes the faults of pages notes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import browsing
import pytest
from browsing import Visitor


def test_faults_of_pages_are_noted(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>throw new Error('no')</script>", encoding="utf-8")
    visitor = Visitor(browser)
    visitor((tmp_path / "bad.html").as_uri())
    visitor.close()
    assert visitor.complaints == ["no"]
    with pytest.raises(AssertionError):
        visitor.check()
    asked = ["http://a:1/", "http://a:1/b", "data:,", "http://a:2/", "https://a:1/", "file:///x"]
    assert browsing.outside(asked) == ["http://a:2/", "https://a:1/", "file:///x"]
