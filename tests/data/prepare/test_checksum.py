"""Checksums of huge files, which Ctrl-C does not wait for."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpora import TEXTS, jsonl, made

from bardlet.data.prepare import encoding
from bardlet.data.prepare.merge import merge

SLOW_S = 120.0  # that reading one of the files takes


class Slow(io.RawIOBase):
    """A file whose bytes come slowly; Ctrl-C comes with the first of them where it `interrupts`."""

    interrupts = False

    def __init__(self) -> None:
        self.until = time.monotonic() + SLOW_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.interrupts:
            Slow.interrupts = False
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        buffer[:] = bytes(len(buffer))
        return len(buffer) if time.monotonic() < self.until else 0


@pytest.fixture
def slow_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every file that a thread reads comes slowly; no thread that reads one stays."""
    plain, before = Path.open, set(threading.enumerate())

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        beside = threading.current_thread() is not threading.main_thread()
        if mode == "rb" and beside:
            return io.BufferedReader(Slow())
        return plain(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    began = time.monotonic()
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(SLOW_S)
    assert time.monotonic() - began < SLOW_S / 2


def interrupt(*args: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("slow_reads")
def test_ctrl_c_does_not_wait_for_the_checksum_of_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", TEXTS))


@pytest.mark.usefixtures("slow_reads", "small_units")
def test_ctrl_c_does_not_wait_for_the_checksum_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXTS * 9)
    encode, units = encoding.encode, iter([0, 1])

    def interrupted(*args: Any) -> Any:
        return encode(*args) if next(units, None) is not None else interrupt()

    monkeypatch.setattr(encoding, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "d", path, shard_tokens=99)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_does_not_wait_for_the_check_of_what_is_prepared_again(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", TEXTS))
    request.getfixturevalue("slow_reads")
    monkeypatch.setattr(Slow, "interrupts", True)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "d", tmp_path / "a.jsonl")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_does_not_wait_for_parts_that_are_merged(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    parts = [made(tmp_path / f"{i}", path, part=(i, 2)).folder for i in (1, 2)]
    request.getfixturevalue("slow_reads")
    monkeypatch.setattr(Slow, "interrupts", True)
    with pytest.raises(KeyboardInterrupt):
        merge(parts, tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["1", "2"]
