"""Sources that are damaged or hostile: refused, or left out and reported."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import random
import tarfile
import zipfile
from pathlib import Path

import corpora
import pytest
from corpora import FORMATS, TEXTS, jsonl, lines, made, texts_of, words

from bardlet import cli
from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.text import compression
from bardlet.errors import DataError


def test_an_unreadable_file_is_an_error_or_reported(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i:02d}.txt").write_text(text, encoding="utf-8")
    (folder / "07.txt").write_bytes(b"caf\xe9")
    (folder / "z.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS))[:-40])
    with pytest.raises(DataError, match=r"07\.txt is not utf-8: byte 0xe9 at offset 3"):
        made(tmp_path / "d", folder)
    assert not (tmp_path / "d").exists()
    dataset = made(tmp_path / "d", folder, skip_unreadable=True)
    notes = "\n".join(dataset.manifest["notes"])
    assert "not all read: 07.txt: 07.txt is not utf-8" in notes
    assert "not all read: z.jsonl.gz: cannot read z.jsonl.gz" in notes
    assert TEXTS[8] in texts_of(dataset, "train") + texts_of(dataset, "val")


def test_one_bad_record_is_an_error_or_left_out(tmp_path: Path) -> None:
    """In every format; the rest of the file is kept."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts: list[str | None] = [*TEXTS]
    texts[7] = None
    values = [{"text": text} for text in texts]
    (tmp_path / "a.json").write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "c.parquet")
    rows = "".join(f'{i},"{text}"\n' if text else f"{i}\n" for i, text in enumerate(texts))
    (tmp_path / "d.csv").write_text("id,text\n" + rows, encoding="utf-8")
    for name in ("a.json", "b.jsonl", "c.parquet", "d.csv"):
        with pytest.raises(DataError, match=r"'text' is not text\. Name the text with --text_key"):
            made(tmp_path / "d", tmp_path / name)
        dataset = made(tmp_path / "d", tmp_path / name, skip_unreadable=True)
        assert sum(s["documents"] for s in dataset.manifest["splits"].values()) == 59, name
        assert dataset.manifest["counts"]["unread"]["number"] == 1


def test_a_damaged_file_of_an_archive_is_an_error_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i, text in enumerate(TEXTS):
            archive.writestr(f"{i:02d}.txt", text + " \xe9" * (i == 5))
    raw = path.read_bytes()
    broken = raw.replace(TEXTS[3].encode(), b"?" * len(TEXTS[3].encode()))  # its checksum stays
    path.write_bytes(broken.replace(" \xe9".encode(), b" \xff\xff"))
    with pytest.raises(DataError, match=r"cannot read a\.zip/03\.txt: it is damaged: Bad CRC"):
        made(tmp_path / "d", path)
    dataset = made(tmp_path / "d", path, skip_unreadable=True)
    found = texts_of(dataset, "train") + texts_of(dataset, "val")
    assert sorted(found) == sorted(TEXTS[:3] + TEXTS[4:5] + TEXTS[6:])
    size = len((TEXTS[3] + TEXTS[5] + " ??").encode())
    note = f"2 documents that could not be read were left out ({size} bytes)"
    assert note in dataset.manifest["notes"]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are others there")
def test_what_cannot_be_opened_in_a_folder_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    (folder / "folder.txt").mkdir(parents=True)
    (folder / "folder.txt" / "inside.txt").write_text("inside", encoding="utf-8")
    (folder / "good.txt").write_text("good", encoding="utf-8")
    (folder / "empty.txt").touch()
    (folder / "broken.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    command = ["prepare", str(folder), "--out", str(tmp_path / "d"), "--tokenizer=byte"]
    assert cli.main(command) == 1
    assert f"cannot read {folder / 'broken.txt'}: No such file" in capsys.readouterr().err
    assert cli.main([*command, "--skip_unreadable"]) == 0
    said = capsys.readouterr().err
    dataset = Dataset(tmp_path / "d")
    assert dataset.manifest["notes"] == [
        "not read: broken.txt: No such file or directory",
        "not read: pipe.txt: not a regular file",
        "2 inputs could not be read to their end",
        "1 empty document was left out",
    ]
    assert all(note in said for note in dataset.manifest["notes"])
    assert texts_of(dataset, "train") == ["insid", "goo"]


@pytest.mark.parametrize("split", ["document", "position"])
@pytest.mark.usefixtures("small_units")
def test_what_can_be_read_of_a_damaged_file_is_a_document(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bardlet.data.text.decoding.BLOCK", 10_000)
    whole = "".join(random.Random(0).choices("abcdefgh ", k=700_000))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(whole.encode())[:-3000])
    jsonl(tmp_path / "b.jsonl", TEXTS)
    given = [tmp_path / "a.txt.gz", tmp_path / "b.jsonl"]
    with pytest.raises(DataError, match=r"a\.txt\.gz: it is damaged"):
        made(tmp_path / "d", *given, split=split)
    dataset = made(tmp_path / "d", *given, split=split, skip_unreadable=True)
    note, *_ = dataset.manifest["notes"]
    assert note.startswith("not all read: a.txt.gz: cannot read a.txt.gz: it is damaged")
    train, val = (texts_of(dataset, split) for split in SPLITS)
    if split == "document":
        assert len(train + val) == 61 and set(TEXTS) <= set(train + val)
        [damaged] = [t for t in train + val if t not in TEXTS]
    else:
        assert len(train) == len(val) == 61
        damaged = train[0] + val[0]
    assert 500_000 < len(damaged) < 700_000
    assert damaged[-1] == "\n" and whole.startswith(damaged[:-1])


@pytest.mark.parametrize("place", [100, 17_000, -5])
@pytest.mark.parametrize("split", ["position", "document"])
@pytest.mark.usefixtures("small_units")
def test_a_text_of_which_a_part_cannot_be_read_begins_and_ends(
    split: str, place: int, tmp_path: Path
) -> None:
    text = words(6000)
    raw = text.encode()
    (tmp_path / "a.txt").write_bytes(raw[:place] + b"\xff" + raw[place:])
    jsonl(tmp_path / "b.jsonl", TEXTS)
    given = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    dataset = made(tmp_path / "d", *given, split=split, skip_unreadable=True)
    train, val = (texts_of(dataset, split) for split in SPLITS)
    if split == "position":
        found = [first + second for first, second in zip(train, val, strict=True)]
    else:
        found = train + val
    assert len(found) == 61 and set(TEXTS) <= set(found)
    [damaged] = [document for document in found if document not in TEXTS]
    left = dataset.manifest["counts"]["damaged"]
    assert left["number"] == 1 and 3000 < left["bytes"] < 10_000
    added = 0 if place == 17_000 else 1  # a line end for the part
    assert len(damaged.encode()) == len(raw) + 1 - left["bytes"] + added


def test_nothing_that_can_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS))[:10])
    with pytest.raises(DataError, match=r"nothing could be read: cannot read a\.jsonl\.gz: it is"):
        made(tmp_path / "d", tmp_path / "a.jsonl.gz", skip_unreadable=True)


@pytest.mark.parametrize("left", [1, 30, 0.5, -1])
def test_a_cut_file_of_zstandard_is_damaged(left: float, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    text = "".join(random.Random(0).choices("abcdefgh ", k=300_000))
    first, second = (zstandard.compress(part.encode()) for part in (text[:99], text[99:]))
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    (tmp_path / "a.txt.zst").write_bytes(first + skipped + second)
    whole = made(tmp_path / "d", tmp_path / "a.txt.zst")
    shown = [whole.tokenizer.decode(whole.splits[s].read(0, 10**6)) for s in SPLITS]
    assert "".join(shown) == text
    cut = int(left * len(second)) if isinstance(left, float) else left
    (tmp_path / "b.txt.zst").write_bytes(first + skipped + second[:cut])
    with pytest.raises(DataError, match=r"b\.txt\.zst: it is damaged: it ends within a frame"):
        made(tmp_path / "e", tmp_path / "b.txt.zst")


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MIN_LIMIT", 1 << 16)
    zeros = bytes(1 << 22)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(zeros))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(zeros))
    names = ["a.txt.gz", "a.txt.xz", "a.zip"]
    with contextlib.suppress(ImportError):
        import zstandard

        (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(zeros))
        names.append("a.txt.zst")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", zeros)
    for name in names:
        with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
            made(tmp_path / "d", tmp_path / name)


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:\\out.txt"])
def test_a_path_out_of_an_archive_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "text")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    for archive_name in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match="lies outside of it"):
            made(tmp_path / "d", tmp_path / archive_name)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"{}\n", "'text' is not there"),
        (b'{"body": "x"}\n', "there are body"),
        (b'{"text": 5}\n', "'text' is not text. Name the text with --text_key; --skip"),
        (b"[1]\n", "is not a record"),
        (b'{"text": "a"}\n{"text\n', "line 2 is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"text": "\\ud800"}\n', "lone surrogate"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(raw: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        made(tmp_path / "d", tmp_path / "a.jsonl")
    assert problem in str(caught.value)
    assert "a.jsonl, line" in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.tgz"])
@pytest.mark.parametrize("tokenizer", ["byte", "char"])
@pytest.mark.usefixtures("small_units")
def test_only_the_lines_that_cannot_be_read_are_left_out(
    tokenizer: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [words(40, i) for i in range(100)]
    rows = [json.dumps({"text": text}).encode() for text in good]
    bad = [b'{"text', b'{"body": 1}', b'{"text": "\\ud800"}', b'{"text": "caf\xe9"}']
    for place, row in zip((70, 50, 20, 10), bad, strict=True):
        rows.insert(place, row)
    monkeypatch.setattr(corpora, "lines", lambda texts: b"\n".join(rows) + b"\n")
    FORMATS[name](tmp_path / name)
    with pytest.raises(DataError, match=r"line 11 is not utf-8: byte 0xe9"):
        made(tmp_path / "d", tmp_path / name, tokenizer=tokenizer)
    dataset = made(tmp_path / "d", tmp_path / name, tokenizer=tokenizer, skip_unreadable=True)
    first, *rest = dataset.manifest["notes"]
    assert first.startswith(f"not all read: {name}: ") and "line 11 is not utf-8" in first
    assert rest == ["4 documents that could not be read were left out (55 bytes)"]
    assert dataset.manifest["counts"] == {"unread": {"number": 4, "bytes": 55, "examples": []}}
    if tokenizer == "byte":
        assert sorted(texts_of(dataset, "train") + texts_of(dataset, "val")) == sorted(good)


@pytest.mark.usefixtures("small_units")
def test_a_bad_line_far_into_a_file_is_named_by_its_byte(tmp_path: Path) -> None:
    before = lines([words(40, i) for i in range(100)])
    (tmp_path / "a.jsonl").write_bytes(before + b'{"text\n' + before)
    place = rf"a\.jsonl, the line at byte {len(before):,} is not JSON"
    with pytest.raises(DataError, match=place):
        made(tmp_path / "d", tmp_path / "a.jsonl")
