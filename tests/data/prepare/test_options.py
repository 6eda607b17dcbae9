"""Options that `prepare` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import made

from bardlet.data.prepare import options
from bardlet.errors import DataError


def test_more_files_than_a_manifest_can_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(50):
        (tmp_path / "in" / f"{i:02d}\u660e.txt").write_text(f"text {i}", encoding="utf-8")
    size = (made(tmp_path / "d", tmp_path / "in").folder / "manifest.json").stat().st_size
    monkeypatch.setattr(options, "MAX_BYTES", size - 2500)  # of which the rest has less
    with pytest.raises(DataError, match=r"50 files are more than .* name\. Pack"):
        made(tmp_path / "e", tmp_path / "in")
    monkeypatch.setattr(options, "MAX_BYTES", size + 200)
    made(tmp_path / "e", tmp_path / "in")
