"""A dataset takes the place of another one whole: killed at any step, or two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import TEXTS, contents, jsonl, made
from support import counted, in_child

from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.journal import StagingFolder
from bardlet.data.text.records import Reading
from bardlet.errors import DataError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CHANGES = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "link")  # os functions


PUBLISH = StagingFolder.publish


def counting(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Have publishing call `act` with a running number before each change of what is on disk."""
    watched = counted(act)

    def published(self: StagingFolder, manifest: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name in CHANGES:
                patch.setattr(os, name, watched(getattr(os, name)))
            PUBLISH(self, manifest)

    monkeypatch.setattr(StagingFolder, "publish", published)


def test_a_kill_at_any_step_leaves_the_old_dataset_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = jsonl(tmp_path / "old.jsonl", TEXTS), jsonl(tmp_path / "new.jsonl", TEXTS[:40])
    hashes = [made(tmp_path / name, path).hash for name, path in (("o", old), ("n", new))]
    wanted = contents(tmp_path / "n")
    ends = set()
    moment, folder = 0, tmp_path
    for moment in range(1, 1000):
        folder = tmp_path / f"{moment}"
        made(folder / "d", old)

        def act(count: int, moment: int = moment) -> None:
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        with monkeypatch.context() as patch:
            counting(patch, act)
            code = in_child(lambda: made(folder / "d", new))  # noqa: B023
        if code == 0:
            break
        assert code == -signal.SIGKILL
        there = Dataset(folder / "d").hash if (folder / "d").exists() else ""
        ends.add(there)
        if there:
            assert there in hashes
            Dataset(folder / "d").verify()
            other = [old, new][hashes.index(there)]
            made(folder / "d", other)  # what a kill has left does not come back
            assert Dataset(folder / "d").hash == there
        else:  # between two names: what was there before, or what was to be, comes back
            with pytest.raises(DataError, match="is not there"):
                made(folder / "d", new, reading=Reading(text_key="none"))
            assert Dataset(folder / "d").hash in hashes
        made(folder / "d", new)
        assert contents(folder / "d") == wanted
        assert [path.name for path in folder.iterdir()] == ["d"]
    assert moment > 12
    assert {*hashes, ""} == ends
    assert [path.name for path in folder.iterdir()] == ["d"]


def test_a_second_preparation_at_any_step_of_publishing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = jsonl(tmp_path / "old.jsonl", TEXTS), jsonl(tmp_path / "new.jsonl", TEXTS[:40])
    wanted = contents(made(tmp_path / "n", new).folder)
    made(tmp_path / "d", old)
    script = (
        "import sys\nfrom bardlet import cli\n"
        "for line in sys.stdin:\n"
        f"    code = cli.main(['prepare', {str(new)!r}, '--out', {str(tmp_path / 'd')!r},"
        " '--tokenizer=byte', '--val_fraction=0.2'])\n"
        "    print('code', code, flush=True)\n"
    )
    second = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert second.stdin and second.stdout
    codes = []

    def act(count: int) -> None:
        assert second.stdin and second.stdout
        second.stdin.write("again\n")
        second.stdin.flush()
        while not (line := second.stdout.readline()).startswith("code"):
            assert line
        codes.append(int(line.split()[1]))

    counting(monkeypatch, act)
    dataset = made(tmp_path / "d", new)
    _, err = second.communicate()
    assert contents(dataset.folder) == wanted
    assert len(codes) > 5 and set(codes) == {1}
    assert err.count("another process is preparing") == len(codes)


def test_a_dataset_that_is_replaced_while_it_is_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of the one under the manifest of the other would pass, for they fit each other."""
    made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", TEXTS))
    opened = Dataset.open

    def replaced(self: Dataset, split: str) -> Any:
        if split == "val":
            monkeypatch.setattr(Dataset, "open", opened)
            made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", TEXTS[::-1]))
        return opened(self, split)

    monkeypatch.setattr(Dataset, "open", replaced)
    with pytest.raises(DataError, match="was prepared again while it was opened"):
        Dataset(tmp_path / "d")


def test_the_folder_above_is_flushed_after_each_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", TEXTS))
    steps: list[str] = []
    rename, fsync = os.rename, os.fsync

    def renamed(source: Any, target: Any, **options: Any) -> None:
        steps.append(f"{Path(source).name} -> {Path(target).name}")
        rename(source, target, **options)

    def synced(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == tmp_path.stat().st_ino:
            steps.append("flush")
        fsync(descriptor)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", TEXTS[:40]))
    assert steps == ["d -> .d.replaced.tmp", ".d.partial.tmp -> d", "flush"]
    assert json.loads((tmp_path / "d" / "manifest.json").read_text())["splits"]
