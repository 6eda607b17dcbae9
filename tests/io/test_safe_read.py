"""Files that others may have made: what reading one takes."""

from __future__ import annotations

import errno
import tracemalloc
from pathlib import Path

import pytest

from bardlet.io.safe_read import MAX_BYTES, read_text


def test_a_small_file_takes_no_more_memory_than_it_has(tmp_path: Path) -> None:
    """Not as much as the largest may have: where memory is short, that is more than there is."""
    (tmp_path / "small").write_bytes(b"to be\r\nor not")
    tracemalloc.start()
    try:
        assert read_text(tmp_path / "small") == "to be\nor not"
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES / 64
    finally:
        tracemalloc.stop()


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "five").write_bytes(b"to be")
    assert read_text(tmp_path / "five", max_bytes=5) == "to be"
    with pytest.raises(OSError, match="more than 4 bytes") as refused:
        read_text(tmp_path / "five", max_bytes=4)
    assert refused.value.errno == errno.EFBIG
