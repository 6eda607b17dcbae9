"""The rule over every reader: what does not reach the dataset is counted and said."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corpora import made, texts_of

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.text.counts import REASONS
from bardlet.data.text.records import Reading
from bardlet.errors import DataError


def text(path: Path) -> None:
    (path / "good.txt").write_text("of good.txt", encoding="utf-8")
    (path / "empty.txt").write_text(" \n", encoding="utf-8")
    (path / "latin.txt").write_bytes(b"caf\xe9 of latin.txt")
    (path / "picture").write_bytes(bytes(range(256)))
    (path / "lines").write_text('{"a": 1}\n', encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (path / ".hidden.txt").write_text("secret", encoding="utf-8")
    (path / "data/old").mkdir(parents=True)
    for name in ("manifest.json", "tokenizer.json"):
        (path / "data/old" / name).write_text("{}", encoding="utf-8")


def jsonl(path: Path) -> None:
    lines = [b'{"text": "of a.jsonl"}', b'{"text', b'{"body": "x"}', b'{"text": "\\ud800"}', b"[1]",
             b'{"text": null}', b'{"text": "caf\xe9"}', b'{"text": ""}']  # fmt: skip
    (path / "a.jsonl").write_bytes(b"\n".join([*lines, lines[0]]) + b"\n")


def json_array(path: Path) -> None:
    values: list[Any] = [{"text": "of a.json"}, {"text": 5}, {}, "also of a.json", " ", ["x"]]
    (path / "a.json").write_text(json.dumps(values), encoding="utf-8")


def table(path: Path) -> None:
    rows = "1,of a.csv\n2,Hello, world\n3\n4,\n5,of a.csv\n"
    (path / "a.csv").write_text(f"id,text\n{rows}", encoding="utf-8")


def parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    raw = [b"of a.parquet", b"caf\xe9", None, b""]
    buffers = pyarrow.array(raw, pyarrow.binary()).buffers()
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(raw), buffers)
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"text": column}), path / "a.parquet"
    )


def compressed(path: Path) -> None:
    (path / "a.txt.gz").write_bytes(gzip.compress(b"of a.txt.gz") + b"more")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path / "a.zip", "w") as archive:
        archive.writestr("in/good", "of a.zip")
        archive.writestr("in/broken.txt", "?" * 50)
        for name in (".git/x.txt", "__MACOSX/x.txt", "tokenizer.json", "in/b.zip", "in/c.parquet"):
            archive.writestr(name, "{}")
        archive.writestr("in/picture.png", bytes(range(256)))
        link = zipfile.ZipInfo("in/link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../x")
    raw = (path / "a.zip").read_bytes()
    (path / "a.zip").write_bytes(raw.replace(b"?" * 50, b"!" * 50))


def tarred(path: Path) -> None:
    with tarfile.open(path / "a.tar.gz", "w:gz") as archive:
        for name, raw in (("./a/good.txt", b"of a.tar.gz"), ("a/.x", b"xy"), ("a/p", bytes(300))):
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"a/{kind.decode()}.txt")
            entry.type, entry.linkname = kind, "./a/good.txt"
            archive.addfile(entry)


READERS: list[tuple[Callable[[Path], None], list[str], dict[str, tuple[int, int]]]] = [
    (text, ["of good.txt", '{"a": 1}\n'], {
        "hidden": (1, 6), "own": (1, 4), "vocabulary": (1, 2), "not_text": (1, 256),
        "json_as_text": (1, 0), "damaged": (1, 17), "empty": (1, 2)}),
    (jsonl, ["of a.jsonl"], {"unread": (6, 76), "empty": (1, 0), "duplicates": (1, 10)}),
    (json_array, ["of a.json", "also of a.json"], {"unread": (3, 1), "empty": (1, 1)}),
    (table, ["of a.csv"], {"unread": (2, 13), "empty": (1, 0), "duplicates": (1, 8)}),
    (parquet, ["of a.parquet"], {"unread": (2, 4), "empty": (1, 0)}),
    (compressed, ["of a.txt.gz\n"], {"damaged": (1, 0), "uncompared": (1, 0)}),
    (zipped, ["of a.zip"], {
        "hidden": (2, 4), "vocabulary": (1, 2), "packed": (2, 4), "not_text": (1, 256),
        "links": (1, 0), "unread": (1, 50)}),
    (tarred, ["of a.tar.gz"], {
        "hidden": (1, 2), "linked": (1, 0), "links": (1, 0), "not_text": (2, 300)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("write", "texts", "counts"), READERS, ids=[r[0].__name__ for r in READERS]
)
def test_what_is_missing_is_said_by_count(
    write: Callable[[Path], None], texts: list[str], counts: dict[str, tuple[int, int]],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder)
    (folder / "other.txt").write_text("of other.txt", encoding="utf-8")
    said: list[str] = []
    options = {"skip_unreadable": True, "distinct": True, "split": "position"}
    dataset = made(tmp_path / "d", folder, say=said.append, **options)
    pairs = zip(texts_of(dataset, "train"), texts_of(dataset, "val"), strict=True)
    found = [train + val for train, val in pairs]
    assert sorted(found) == sorted([*texts, "of other.txt"])
    manifest = dataset.manifest
    assert {r: (c["number"], c["bytes"]) for r, c in manifest["counts"].items()} == counts
    for reason, (number, _) in counts.items():
        form = REASONS[reason][number != 1]
        assert [n for n in manifest["notes"] if n.startswith(f"{number:,} {form}")], reason
    if {"unread", "damaged"} & set(counts):
        with pytest.raises(DataError):
            made(tmp_path / "e", folder)


def test_all_of_it_in_several_processes(tmp_path: Path) -> None:
    total: dict[str, tuple[int, int]] = {}
    for write, _, counts in READERS:
        write(tmp_path)
        for reason, (number, size) in counts.items():
            before = total.get(reason, (0, 0))
            total[reason] = (before[0] + number, before[1] + size)
    options = {"skip_unreadable": True, "distinct": True, "workers": 2, "split": "position"}
    manifest = made(tmp_path / "out" / "d", tmp_path, **options).manifest
    assert {r: (c["number"], c["bytes"]) for r, c in manifest["counts"].items()} == total
    assert list(manifest["counts"]) == [reason for reason in REASONS if reason in total]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a.txt", "--sample", "10M"], "--sample has no effect: no source is on the hub"),
        (["a.txt", "--text_key", "body"], "--text_key has no effect: plain text has no fields"),
        (["a.txt", "--distinct"], "--distinct has no effect: the source is one document"),
        (["a.txt", "--ext", ".md"], "--ext has no effect: no source is a folder"),
        (["a.csv", "--document_separator", "blank"], "--document_separator has no effect"),
        (["a.txt", "--text_key=b", "--prompt_key=a", "--response_key=b"], "--text_key has no eff"),
        (["a.txt", "--prompt_key=a", "--response_key=b"], "--prompt_key has no effect"),
    ],
)
def test_an_option_without_effect_is_said(
    arguments: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("words of a text\n" * 30, encoding="utf-8")
    rows = "".join(f"row {i}\n" for i in range(30))
    (tmp_path / "a.csv").write_text(f"text\n{rows}", encoding="utf-8")
    code = cli.main(["prepare", *arguments, "--out", "d", "--json"])
    shown = capsys.readouterr()
    assert why in shown.err
    if not code:
        assert [note for note in json.loads(shown.out)["notes"] if note.startswith(why)]
        assert Dataset(Path("d")).manifest["notes"] == json.loads(shown.out)["notes"]


def test_bytes_that_are_replaced_are_counted_in_every_reader(tmp_path: Path) -> None:
    write = [text, jsonl, parquet]
    for reader in write:
        reader(tmp_path)
    options = {"skip_unreadable": True, "split": "position", "reading": Reading(errors="replace")}
    dataset = made(tmp_path / "d", tmp_path, **options)
    assert dataset.manifest["counts"]["replaced"]["number"] == 3
    assert "damaged" not in dataset.manifest["counts"]


def test_rows_of_the_hub_that_have_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "of the hub"}, {"text": None, "url": "abc"}, {"text": " "}, {"body": "xy"}]
    hub = SimpleNamespace(load_dataset=lambda *names, **options: iter(rows * 2))
    monkeypatch.setitem(sys.modules, "datasets", hub)
    options = {"skip_unreadable": True, "distinct": True, "split": "position"}
    manifest = made(tmp_path / "d", "hf://me/texts", **options).manifest
    counts = {"unread": (4, 10), "empty": (2, 2), "duplicates": (1, 10)}
    assert {r: (c["number"], c["bytes"]) for r, c in manifest["counts"].items()} == counts


def test_options_of_a_merge_have_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps({"text": f"{i} and more"}) + "\n" for i in range(60))
    Path("b.jsonl").write_text(lines, encoding="utf-8")
    common = ["prepare", "b.jsonl", "--tokenizer=byte", "--split=document", "--distinct"]
    for i in (1, 2):
        assert cli.main([*common, f"--part={i}/2", f"--out=p{i}"]) == 0
    capsys.readouterr()
    command = ["prepare", "--merge", "p1", "p2", "--out=d", "--tokenizer=gpt2", "--val_fraction=.5"]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    why = "has no effect with --merge: the parts have theirs"
    assert sorted(shown.err.splitlines()) == [f"--tokenizer {why}", f"--val_fraction {why}"]
    within = "--distinct has dropped duplicates within each part, not between parts"
    assert within in Dataset(Path("d")).manifest["notes"]
