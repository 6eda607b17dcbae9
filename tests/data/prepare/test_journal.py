"""A preparation that is killed goes on to the same bytes."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import contents, words

from bardlet.data.prepare.journal import StagingFolder

CHILD = """
import sys
from pathlib import Path
from bardlet.data.prepare import journal, units
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import documents, sources
from bardlet.data.text.records import Reading
if __name__ == "__main__":
    units.UNIT, units.WINDOW, documents.PIECE, journal.EVERY_S = 20_000, 2000, 5000, 0.0
    out, workers, *given = sys.argv[1:]
    prepare(sources.find(given), Path(out), tokenizer="byte", workers=int(workers), distinct=True,
            shard_tokens=77_777, say=lambda line: print(line, flush=True),
            reading=Reading(prompt_key="prompt", response_key="text"))
"""


def corpus_of_pairs(folder: Path) -> list[str]:
    pairs = [{"prompt": f"p{i}", "text": words(100, i % 900)} for i in range(2500)]
    raw = "".join(json.dumps(pair) + "\n" for pair in pairs).encode()
    (folder / "a.jsonl").write_bytes(raw)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(raw[: raw.index(b"\n", len(raw) // 3) + 1]))
    return [str(folder / "a.jsonl"), str(folder / "b.jsonl.gz")]


def test_what_a_kill_while_noting_leaves_is_not_published(tmp_path: Path) -> None:
    place = StagingFolder(tmp_path / "d", "key")
    place.open()
    for name in (".journal.json.77.tmp", "seen-3.bin", "val-00000.mask.raw", "val-00000.bin"):
        (place.folder / name).touch()
    place.note({"units": 1})
    place.publish({"hash": ""})
    assert sorted(contents(tmp_path / "d")) == ["manifest.json", "val-00000.bin"]


def noted_units(folder: Path) -> int:
    """How many units the journal of a preparation into `folder` has: -1 where there is none."""
    try:
        text = (folder.parent / f".{folder.name}.partial.tmp" / "journal.json").read_text()
    except FileNotFoundError:
        return -1
    return json.loads(text)["units"]


def kill_and_go_on(folder: Path, times: int, workers: int) -> None:
    """Prepare, killed `times` times, some units on; the result is that of an undisturbed run."""
    given = corpus_of_pairs(folder)
    script = folder / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    killed, whole = folder / "killed", folder / "whole"

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(out), str(workers), *given]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finished(out: Path) -> bytes:
        said, err = start(out).communicate(timeout=120)
        assert out.is_dir(), err.decode()
        return said

    finished(whole)
    generator = random.Random(times + workers)
    for _ in range(times):
        process, before = start(killed), noted_units(killed)
        beyond = before + generator.randint(1, 30)
        while process.poll() is None and noted_units(killed) < beyond:
            time.sleep(0.001)
        process.kill()
        said, _ = process.communicate()
        assert (b"going on with" in said) == (before >= 0)
        if killed.exists():  # it was done before; what is left of the kills happens to a new one
            assert contents(killed) == contents(whole)
            shutil.rmtree(killed)
    before = noted_units(killed)
    assert (b"going on with" in finished(killed)) == (before >= 0)
    assert contents(killed) == contents(whole)
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["killed", "whole"]


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_preparation_goes_on_to_the_same_bytes(workers: int, tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, 2, workers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_kills(workers: int, tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, 20, workers)
