"""Many sources in any format, in parallel, killed and continued, in parts: what becomes of them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from bardlet import cli
from bardlet.commands import prepare as prepare_command
from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.dataset.stream import HEADER
from bardlet.data.prepare import options, remarks, survey, units
from bardlet.data.prepare.journal import Workplace
from bardlet.data.prepare.merge import merge
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.prepare.remarks import report
from bardlet.data.prepare.workers import starting
from bardlet.data.text import compression, documents, sources
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers import factory
from bardlet.errors import DataError, UsageError

WORDS = "to be or not d\u00e9j\u00e0 vu \u4e2d\u6587\u3002 it's \U0001f600 THE question: whether\n"


def words(count: int, seed: int = 0) -> str:
    drawn = random.Random(seed).choices(WORDS.split(" "), k=count)
    return " ".join(drawn)


def made(out: Path, *given: Path | str, say: Any = lambda line: None, **options: Any) -> Dataset:
    found = sources.find([str(source) for source in given])
    return prepare(found, out, **{"tokenizer": "byte", **options}, say=say)


def jsonl(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"text": text}) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def texts_of(dataset: Dataset, split: str) -> list[str]:
    """The documents of a split, cut at the recorded borders, without their end of text."""
    found: list[str] = []
    for entry in dataset.manifest["splits"][split]["shards"]:
        raw = (dataset.folder / entry["docs"]["file"]).read_bytes()
        magic, version, width, count = HEADER.unpack(raw[:32])
        assert (magic, version, width) == (b"BARDDOCS", 1, 8)
        starts = np.frombuffer(raw[32:], dtype="<u8").tolist()
        assert count == len(starts) == entry["docs"]["count"]
        ids = np.fromfile(dataset.folder / entry["file"], dtype="<u2", offset=32)
        if not starts or starts[0]:
            found[-1] += decoded(ids[: starts[0] if starts else len(ids)])
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            found.append(decoded(ids[start:end]))
    assert all(text.endswith("\0") and text.count("\0") == 1 for text in found)
    return [bytes(text[:-1], "latin-1").decode() for text in found]


def decoded(ids: np.ndarray) -> str:
    """Bytes as Latin-1, the end of a text as NUL."""
    return "".join("\0" if i == 256 else chr(i) for i in ids.tolist())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- formats ----

TEXTS = [f"document {i}: {words(30, i)}" for i in range(60)]


def table(texts: list[str]) -> str:
    return "id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts))


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, text in enumerate(TEXTS):
            archive.writestr(f"in/{i:02d}.txt", text)
        archive.writestr("in/picture.png", b"\xff\xfe")


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("a/all.jsonl")
        entry.size = len(lines(TEXTS))
        archive.addfile(entry, io.BytesIO(lines(TEXTS)))


def write_zst(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path.write_bytes(zstandard.compress(lines(TEXTS)))


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"n": list(range(60)), "text": TEXTS}), path)


FORMATS = {
    "a.jsonl": lambda p: p.write_bytes(lines(TEXTS)),
    "a.jsonl.gz": lambda p: p.write_bytes(gzip.compress(lines(TEXTS))),
    "a.jsonl.bz2": lambda p: p.write_bytes(bz2.compress(lines(TEXTS))),
    "a.ndjson.xz": lambda p: p.write_bytes(lzma.compress(lines(TEXTS))),
    "a.jsonl.zst": write_zst,
    "a.json": lambda p: p.write_text(json.dumps([{"n": 1, "text": t} for t in TEXTS], indent=2)),
    "a.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(TEXTS).encode())),
    "lines.json": lambda p: p.write_bytes(lines(TEXTS)),
    "a.csv": lambda p: p.write_text(table(TEXTS), encoding="utf-8", newline=""),
    "a.csv.gz": lambda p: p.write_bytes(gzip.compress(table(TEXTS).encode())),
    "a.zip": write_zip,
    "a.tar.gz": write_tar,
    "a.tgz": write_tar,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    dataset = made(tmp_path / "d", tmp_path / name)
    train, val = (texts_of(dataset, split) for split in SPLITS)
    assert train == [t for t in TEXTS if not units.goes_to_val(t, 0.1)]
    assert val == [t for t in TEXTS if units.goes_to_val(t, 0.1)]
    assert len(val) > 0
    assert dataset.manifest["end_of_text"] == 256


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("small_units")
def test_progress_is_told_in_bytes_of_the_files(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    found = sources.find([str(tmp_path / name)])
    told = [u.bytes for u in units.units(found.inputs, Reading(), 0.1, lambda *given: None)]
    assert sum(told) == (tmp_path / name).stat().st_size
    assert min(told) >= 0


def test_a_list_of_lines_is_a_text(tmp_path: Path) -> None:
    poems = [
        {"title": f"{i}", "paragraphs": [f"\u660e\u6708 {i},", "\u4f4e\u982d."]} for i in range(40)
    ]
    (tmp_path / "a.json").write_text(json.dumps(poems), encoding="utf-8")
    reading = Reading(text_key="paragraphs")
    dataset = made(tmp_path / "d", tmp_path / "a.json", reading=reading)
    both = texts_of(dataset, "train") + texts_of(dataset, "val")
    assert sorted(both) == sorted("\n".join(poem["paragraphs"]) for poem in poems)
    with pytest.raises(DataError, match=r"record 1: 'text' is not there.*there are title, para"):
        made(tmp_path / "e", tmp_path / "a.json")
    poems[3]["paragraphs"] = ["a", 5]
    (tmp_path / "a.json").write_text(json.dumps(poems), encoding="utf-8")
    with pytest.raises(DataError, match="record 4: 'paragraphs' is no text"):
        made(tmp_path / "e", tmp_path / "a.json", reading=reading)


@pytest.mark.parametrize("row", ['1,"unclosed', '1,"a"b\n2,"c"\n'])
def test_a_table_with_a_wrong_quote_is_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n0,whole\n{row}", encoding="utf-8")
    problem = "it ends within a quoted field" if "unclosed" in row else "expected after"
    with pytest.raises(DataError, match=rf"a\.csv is no table: .*{problem}"):
        made(tmp_path / "d", tmp_path / "a.csv")


def test_a_folder_and_a_glob_give_each_file_as_a_document(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        path = tmp_path / "in" / f"{i % 3}" / f"{i:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    of_folder = made(tmp_path / "a", tmp_path / "in")
    of_glob = made(tmp_path / "b", f"{tmp_path}/in/**/*.txt")
    assert sorted(texts_of(of_folder, "train") + texts_of(of_folder, "val")) == sorted(TEXTS)
    assert of_glob.hash == of_folder.hash
    assert len(of_folder.manifest["sources"]) == 60


def test_few_texts_are_each_split_by_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100, encoding="utf-8")
    (tmp_path / "b.txt").write_text("b" * 50, encoding="utf-8")
    dataset = made(tmp_path / "d", tmp_path / "a.txt", tmp_path / "b.txt")
    assert texts_of(dataset, "train") == ["a" * 90, "b" * 45]
    assert texts_of(dataset, "val") == ["a" * 10, "b" * 5]
    of_chars = made(tmp_path / "c", tmp_path / "a.txt", tmp_path / "b.txt", tokenizer="char")
    end = "<|endoftext|>"
    ids = of_chars.splits["train"].read(0, 1000)
    assert of_chars.tokenizer.decode(ids) == "a" * 90 + end + "b" * 45 + end
    assert (of_chars.manifest["end_of_text"], of_chars.vocab_size) == (2, 3)
    single = made(tmp_path / "e", tmp_path / "a.txt", tokenizer="char")
    assert (single.manifest["end_of_text"], single.vocab_size) == (None, 1)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.zip", "a.tgz"])
def test_few_records_are_split_by_position(name: str, tmp_path: Path) -> None:
    few = {
        "a.json": lambda p: p.write_text(json.dumps({"text": TEXTS[0]}), encoding="utf-8"),
        "a.jsonl.gz": lambda p: p.write_bytes(gzip.compress(lines(TEXTS[:19]))),
        "a.csv": lambda p: p.write_text(table(TEXTS[:19]), encoding="utf-8", newline=""),
    }
    few.get(name, FORMATS[name])(tmp_path / name)
    by = made(tmp_path / "d", tmp_path / name).manifest["split"]["by"]
    assert by == ("position" if name in few else "document")
    if name in few:
        options: dict[str, Any] = {"part": (1, 2)}
        assert (
            made(tmp_path / "e", tmp_path / name, **options).manifest["split"]["by"] == "document"
        )


def test_a_split_far_from_what_was_asked_for_is_said(tmp_path: Path) -> None:
    texts = [f"{i} " * 10 for i in range(40)]
    in_val = next(f"long {i} " for i in range(99) if units.goes_to_val(f"long {i} " * 500, 0.1))
    said: list[str] = []
    jsonl(tmp_path / "a.jsonl", [*texts, in_val * 500])
    dataset = made(tmp_path / "d", tmp_path / "a.jsonl", say=said.append)
    [note] = dataset.manifest["notes"]
    share = dataset.manifest["splits"]["val"]["bytes"]
    share /= share + dataset.manifest["splits"]["train"]["bytes"]
    assert note.startswith(f"val has {100 * share:.1f}% of the text, not 10.0%: by their hash")
    assert said == [note]
    parts = [made(tmp_path / f"p{i}", tmp_path / "a.jsonl", part=(i, 2)).folder for i in (1, 2)]
    of_parts = note.replace("--split position", "--split position without --part")
    assert merge(parts, tmp_path / "m").manifest["notes"] == [of_parts] != [note]
    by_position = made(tmp_path / "e", tmp_path / "a.jsonl", split="position")
    assert by_position.manifest["notes"] == []


def test_more_files_do_not_move_a_document_to_the_other_side(tmp_path: Path) -> None:
    before = made(tmp_path / "a", jsonl(tmp_path / "a.jsonl", TEXTS))
    more = [f"new {i}" for i in range(40)]
    jsonl(tmp_path / "0.jsonl", more)
    after = made(tmp_path / "b", tmp_path / "0.jsonl", tmp_path / "a.jsonl")
    for split in SPLITS:
        assert set(texts_of(before, split)) <= set(texts_of(after, split))
    assert set(texts_of(after, "val")) & set(more)


def test_prompts_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    pairs = [{"ask": f"what is {i}?", "answer": f"It is {i}."} for i in range(50)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    reading = Reading(prompt_key="ask", response_key="answer")
    dataset = made(tmp_path / "d", path, reading=reading, shard_tokens=101)
    assert dataset.manifest["masked"] is True
    counted, left_out = "", ""
    for entry in dataset.manifest["splits"]["train"]["shards"]:
        raw = (tmp_path / "d" / entry["mask"]["file"]).read_bytes()
        magic, _, width, count = HEADER.unpack(raw[:32])
        assert (magic, width, count) == (b"BARDMASK", 0, entry["tokens"])
        assert len(raw) == 32 + -(-count // 8)
        bits = np.unpackbits(np.frombuffer(raw[32:], np.uint8), bitorder="little")
        ids = np.fromfile(tmp_path / "d" / entry["file"], dtype="<u2", offset=32)
        counted += decoded(ids[bits[:count] == 1])
        left_out += decoded(ids[bits[:count] == 0])
    train = [p for p in pairs if not units.goes_to_val(f"{p['ask']}\n{p['answer']}", 0.1)]
    assert counted == "".join(pair["answer"] + "\0" for pair in train)
    assert left_out == "".join(pair["ask"] + "\n" for pair in train)


def rows(*given: Any, **options: Any) -> Any:
    """Stands for the hub: the data set's rows, however it is called."""
    assert given == ("me/texts", "small") and options == {"split": "test", "streaming": True}
    yield from ({"body": text} for text in TEXTS)


def test_a_data_set_on_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Mock(side_effect=rows)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub))
    reading = Reading(text_key="body")
    dataset = made(tmp_path / "d", "hf://me/texts:small:test", reading=reading)
    assert hub.call_count == 1, "a tokenizer that is there already needs it once"
    assert sorted(texts_of(dataset, "train") + texts_of(dataset, "val")) == sorted(TEXTS)
    raw = "".join(TEXTS).encode()
    assert dataset.manifest["sources"] == [
        {"name": "hf://me/texts:small:test", "bytes": len(raw),
         "sha256": hashlib.sha256(raw).hexdigest()}
    ]  # fmt: skip
    found = sources.find(["hf://me/texts:small:test"], sample=len(raw) // 2)
    part = prepare(found, tmp_path / "e", tokenizer="byte", reading=reading)
    count = sum(split["documents"] for split in part.manifest["splits"].values())
    assert 25 <= count <= 35


def test_what_is_missing_for_a_format_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.parquet", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(b"x")
    for module in ("datasets", "pyarrow", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    for source, extra in (
        ("hf://a/b", "hub"), (tmp_path / "a.parquet", "data"), (tmp_path / "a.jsonl.zst", "data"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=rf"pip install 'bardlet\[{extra}\]'"):
            made(tmp_path / "d", source)

    def offline(*given: Any, **options: Any) -> Any:
        raise ConnectionError("no route\nto the host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(DataError, match=r"cannot read hf://a/b: ConnectionError: no route\. Check"):
        made(tmp_path / "d", "hf://a/b")


def test_standard_input_as_a_command(tmp_path: Path) -> None:
    text = words(300)
    command = [sys.executable, "-m", "bardlet", "prepare", "-", "--tokenizer=byte", "--json"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    dataset = Dataset(tmp_path / "data" / "stdin")
    whole = np.concatenate([dataset.splits[split].read(0, 10**6) for split in SPLITS])
    assert dataset.tokenizer.decode(whole) == text
    assert dataset.manifest == json.loads(done.stdout)
    assert dataset.manifest["sources"][0]["name"] == "-"


# ---- what is wrong with them ----


def test_empty_documents_duplicates_and_bad_bytes_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*TEXTS, "", " \n", TEXTS[3], TEXTS[3]])
    said: list[str] = []
    dataset = made(tmp_path / "d", path, distinct=True, say=said.append)
    assert sum(s["documents"] for s in dataset.manifest["splits"].values()) == 60
    assert "2 empty documents were left out" in dataset.manifest["notes"]
    assert "2 duplicates were left out" in dataset.manifest["notes"]
    assert "2 duplicates were left out" in said
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 and caf\xe9 " * 3)
    bad = made(tmp_path / "e", tmp_path / "b.txt", reading=Reading(errors="replace"))
    assert bad.manifest["notes"] == ["6 places that are not of the encoding were mended"]
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress((tmp_path / "b.txt").read_bytes() * 2))
    for workers in (1, 2):  # of the same text packed, where it is decoded elsewhere
        given = [tmp_path / "b.txt", tmp_path / "b.txt.gz"]
        options = {"reading": Reading(errors="replace"), "workers": workers, "tokenizer": "char"}
        bad = made(tmp_path / f"f{workers}", *given, **options)
        assert bad.manifest["notes"] == ["18 places that are not of the encoding were mended"]
    counts = {"unread": 1, "bad_bytes": 1, "empty": 1, "duplicates": 1}
    assert report(counts, {}) == [
        "1 document that could not be read was left out",
        "1 place that is not of the encoding was mended",
        "1 empty document was left out",
        "1 duplicate was left out",
    ]


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_what_has_no_text_to_train_on_is_said_alike(tokenizer: str, tmp_path: Path) -> None:
    """Whichever tokenizer: a BPE is made of the training side alone."""
    asked = {"tokenizer": tokenizer}
    for text in ("", " \n"):
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"^a(\.txt)? is empty"):
            made(tmp_path / "d", tmp_path / "a.txt", **asked)
    in_val = next(text for text in TEXTS if units.goes_to_val(text, 0.1))
    jsonl(tmp_path / "b.jsonl", [in_val] * 3)
    with pytest.raises(DataError, match=r"^by its hash no document of b falls to train"):
        made(tmp_path / "d", tmp_path / "b.jsonl", split="document", **asked)
    (tmp_path / "c.txt.gz").write_bytes(b"\x1f\x8b no")
    with pytest.raises(DataError, match=r"^nothing could be read: cannot read c\.txt\.gz"):
        made(tmp_path / "d", tmp_path / "c.txt.gz", skip_unreadable=True, **asked)
    (tmp_path / "d.txt").write_text(" " * 900 + "words " * 16, encoding="utf-8")
    assert made(tmp_path / "d", tmp_path / "d.txt", **asked).splits["val"]


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
        with pytest.raises(DataError, match=r"'text' is no text\. Name the text with --text_key"):
            made(tmp_path / "d", tmp_path / name)
        dataset = made(tmp_path / "d", tmp_path / name, skip_unreadable=True)
        assert sum(s["documents"] for s in dataset.manifest["splits"].values()) == 59, name
        assert "1 document that could not be read was left out" in dataset.manifest["notes"]


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
    assert "2 documents that could not be read were left out" in dataset.manifest["notes"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt"])
def test_byte_order_marks_are_no_part_of_a_text(name: str, encoding: str, tmp_path: Path) -> None:
    texts = ["one, two \u3002", "three"]
    quoted = "text,id\n" + "".join(f'"{text}",1\n' for text in texts)
    shown = {
        "a.csv": quoted, "a.txt": "".join(f"{text}\n" for text in texts),
        "a.jsonl": "".join(json.dumps({"text": t}) + "\n" for t in texts),
        "a.json": json.dumps(texts),
    }[name]  # fmt: skip
    (tmp_path / name).write_text(shown, encoding=encoding)
    plain = encoding == "utf-8-sig"  # which needs no option
    reading = Reading() if plain else Reading(encoding=encoding)
    found = sources.find([str(tmp_path / name)])
    text = survey.text_of(found, options.Options(reading=reading), 1 << 20, print)
    assert text == "".join(f"{text}\n" for text in texts)


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
        "1 empty document was left out",
    ]
    assert all(note in said for note in dataset.manifest["notes"])
    assert texts_of(dataset, "train") == ["insid", "goo"]


def test_what_is_passed_over_in_a_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt.gz.bak", "sub/pic.png", "sub/pic2.PNG", "sub/no", ".git/x", ".x"):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a text", encoding="utf-8")
    assert cli.main(["prepare", "texts"]) == 0
    note = "4 files with other endings were passed over: .bak, .png, no ending"
    assert capsys.readouterr().err == f"{note}\n"
    assert Dataset(Path("data/texts")).manifest["notes"] == [note]
    notes = sources.find(["texts/a.txt", "texts/sub/no"]).notes
    assert notes == ()  # a file that is given is text, whatever it is called
    for name in ("b.txt.gz.bak", "sub/pic.png", "sub/pic2.PNG"):
        (tmp_path / "texts" / name).unlink()
    (note,) = sources.find(["texts"]).notes
    assert note == "1 file with another ending was passed over: no ending"
    for i in range(9):
        (tmp_path / "texts" / f"a.{i}").touch()
    (note,) = sources.find(["texts"]).notes
    assert note.endswith("over: .0, .1, .2, .3, .4, .5, .6, .7, ...")


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
    monkeypatch.setattr(compression, "ALWAYS", 1 << 16)
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


def test_links_in_an_archive_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("link.txt")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.txt")
        archive.addfile(entry)
    with pytest.raises(DataError, match="a is empty"):
        made(tmp_path / "d", tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"{}\n", "'text' is not there"),
        (b'{"body": "x"}\n', "there are body"),
        (b'{"text": 5}\n', "'text' is no text. Name the text with --text_key; --skip"),
        (b"[1]\n", "is no record"),
        (b'{"text": "a"}\n{"text\n', "line 2 is no JSON"),
        (b"[" * 100_000, "is no JSON"),
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
    monkeypatch.setitem(globals(), "lines", lambda texts: b"\n".join(rows) + b"\n")
    FORMATS[name](tmp_path / name)
    with pytest.raises(DataError, match=r"line 11 is not utf-8: byte 0xe9"):
        made(tmp_path / "d", tmp_path / name, tokenizer=tokenizer)
    dataset = made(tmp_path / "d", tmp_path / name, tokenizer=tokenizer, skip_unreadable=True)
    first, *rest = dataset.manifest["notes"]
    assert first.startswith(f"not all read: {name}: ") and "line 11 is not utf-8" in first
    assert "4 documents that could not be read were left out" in rest
    if tokenizer == "byte":
        assert sorted(texts_of(dataset, "train") + texts_of(dataset, "val")) == sorted(good)


@pytest.mark.usefixtures("small_units")
def test_a_bad_line_far_into_a_file_is_named_by_its_byte(tmp_path: Path) -> None:
    before = lines([words(40, i) for i in range(100)])
    (tmp_path / "a.jsonl").write_bytes(before + b'{"text\n' + before)
    place = rf"a\.jsonl, the line at byte {len(before):,} is no JSON"
    with pytest.raises(DataError, match=place):
        made(tmp_path / "d", tmp_path / "a.jsonl")


# ---- large and many ----


@pytest.mark.parametrize("workers", [1, 2])
def test_that_much_text_could_be_encoded_faster_is_said_once(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(tmp_path / "a.jsonl", TEXTS)

    def said(name: str, tokenizer: str) -> list[str]:
        found: list[str] = []
        made(tmp_path / name, tmp_path / "a.jsonl", tokenizer=tokenizer, say=found.append,
             workers=workers)  # fmt: skip
        return [line for line in found if "pip install 'bardlet[fast]'" in line]

    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert not said("little", "bpe")
    monkeypatch.setattr(remarks, "MUCH", 1000)
    assert len(said("much", "bpe")) == 1
    assert not said("bytes", "byte")
    installed = SimpleNamespace(__spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "gigatoken", installed)
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    assert not said("quick", "bpe")


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few kilobytes, so that a small text has many."""
    monkeypatch.setattr(units, "UNIT", 4000)
    monkeypatch.setattr(units, "WINDOW", 2000)
    monkeypatch.setattr(documents, "PIECE", 1500)


CORPORA = {
    "words": words(8000),
    "one line": words(8000).replace("\n", ""),
    "one word": "a" * 40_000,
    "chinese": "\u4e2d\u6587\u5b57" * 9000,
    "windows": "ab\r\n" * 9000,
    "returns": "\r\n" * 20_000 + "x",
}


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize("kind", CORPORA)
@pytest.mark.usefixtures("small_units")
def test_a_text_in_many_units_is_the_text(kind: str, tokenizer: str, tmp_path: Path) -> None:
    text = CORPORA[kind]
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain = text.replace("\r\n", "\n")
    for name in ("a.txt", "b.txt.gz"):
        dataset = made(tmp_path / name[0], tmp_path / name, tokenizer=tokenizer)
        border = int(len(plain) * 0.9)
        for split, wanted in (("train", plain[:border]), ("val", plain[border:])):
            assert dataset.tokenizer.decode(dataset.splits[split].read(0, 10**6)) == wanted
            assert dataset.manifest["splits"][split]["documents"] == 1


@pytest.mark.usefixtures("small_units")
def test_bpe_of_a_text_in_units_has_the_ids_of_the_whole(tmp_path: Path) -> None:
    text = words(8000)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    dataset = made(tmp_path / "d", tmp_path / "a.txt", tokenizer="bpe", vocab_size=300)
    border = int(len(text) * 0.9)
    for split, part in (("train", text[:border]), ("val", text[border:])):
        assert (
            dataset.splits[split].read(0, 10**6).tolist() == dataset.tokenizer.encode(part).tolist()
        )


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.usefixtures("small_units")
def test_a_vocabulary_is_trained_on_a_bounded_part_of_the_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = ("\u4e2d\u6587\u3002" * 40_000).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    most, taken = 60_000, []
    monkeypatch.setattr(survey, "SAMPLE", most)
    train = factory.bpe_training.train
    monkeypatch.setattr(
        factory.bpe_training, "train", lambda text, size: taken.append(text) or train(text, size)
    )
    made(tmp_path / "d", tmp_path / name, tokenizer="bpe", vocab_size=259)
    [text] = taken
    assert most / 2 < len(text.encode()) < most + 5 * units.UNIT


@pytest.mark.parametrize("size", [200_000, 210_000, 390_000, 1_000_000])
@pytest.mark.usefixtures("small_units")
def test_a_sample_is_of_its_size_and_from_everywhere(size: int, tmp_path: Path) -> None:
    raw = b"".join(b"%06d \n" % i for i in range(size // 8))
    (tmp_path / "a.txt").write_bytes(raw)
    most = 200_000
    text = survey.text_of(sources.find([str(tmp_path / "a.txt")]), options.Options(), most, print)
    assert most <= len(text) <= min(most + 3 * units.UNIT, size)
    places = [int(place) for place in text.split()]
    gaps = np.diff([0, *places, size // 8])
    assert gaps.min() >= 0 and gaps.max() * 8 < (size / most + 3) * units.UNIT


@pytest.mark.usefixtures("small_units")
def test_a_sample_of_packed_texts_is_of_all_of_them(tmp_path: Path) -> None:
    """Their text is longer than they are, and the first alone would be enough."""
    for name, word in (("a", "one"), ("b", "two"), ("c", "three")):
        raw = "".join(f'{{"text": "{word} {i}"}}\n' for i in range(20_000)).encode()
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(raw))
    found = sources.find([str(tmp_path)])
    assert sum(given.bytes for given in found.inputs) > 60_000
    text = survey.text_of(found, options.Options(), 60_000, print)
    assert 60_000 <= len(text) < 60_000 + 3 * units.UNIT
    shares = [text.count(word) / text.count("\n") for word in ("one", "two", "three")]
    assert min(shares) > 0.25


@pytest.mark.usefixtures("small_units")
def test_a_line_end_stands_between_documents_alone(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("word " * 5000 + "end", encoding="utf-8")
    found = sources.find([str(tmp_path)])
    text = survey.text_of(found, options.Options(), 1 << 20, print)
    assert text == ("word " * 5000 + "end\n") * 2


@pytest.mark.usefixtures("small_units")
def test_a_text_whose_end_cannot_be_read_moves_no_other_border(tmp_path: Path) -> None:
    whole = words(3000)
    (tmp_path / "b.txt").write_text(whole, encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(whole.encode() + b" \xff")
    given = [tmp_path / "a.txt", tmp_path / "b.txt"]
    dataset = made(tmp_path / "d", *given, split="position", skip_unreadable=True)
    wanted = made(tmp_path / "e", tmp_path / "b.txt", split="position")
    text = dataset.tokenizer.decode(dataset.splits["val"].read(0, 10**6))
    only = wanted.tokenizer.decode(wanted.splits["val"].read(0, 10**6))
    rest = text.removesuffix(only + "<|endoftext|>")
    assert rest in whole and 0 < len(rest) < 0.11 * len(whole)


@pytest.mark.usefixtures("small_units")
def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [words(50, i) for i in range(200)])
    (tmp_path / "b.txt").write_text(words(5000, 7), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS)))
    given = [tmp_path / name for name in ("a.jsonl", "b.txt", "c.jsonl.gz")]
    for workers in (1, 3):
        made(tmp_path / f"d{workers}", *given, tokenizer="char", workers=workers, distinct=True,
             shard_tokens=9999)  # fmt: skip
    assert contents(tmp_path / "d1") == contents(tmp_path / "d3")
    assert len(contents(tmp_path / "d1")) > 10


def test_many_tiny_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3000):
        (tmp_path / "in" / f"{i:05d}.txt").write_text(f"text {i}", encoding="utf-8")
    dataset = made(tmp_path / "d", tmp_path / "in")
    assert len(texts_of(dataset, "train")) + len(texts_of(dataset, "val")) == 3000


def test_more_files_than_a_manifest_can_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(50):
        (tmp_path / "in" / f"{i:02d}\u660e.txt").write_text(f"text {i}", encoding="utf-8")
    size = (made(tmp_path / "d", tmp_path / "in").folder / "manifest.json").stat().st_size
    monkeypatch.setattr(options, "LARGEST", size - 2500)  # of which the rest has less
    with pytest.raises(DataError, match=r"50 files are more than .* name\. Pack"):
        made(tmp_path / "e", tmp_path / "in")
    monkeypatch.setattr(options, "LARGEST", size + 200)
    made(tmp_path / "e", tmp_path / "in")


RSS = """
import re, sys
from pathlib import Path
from bardlet.data.prepare import units
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import documents, sources
units.UNIT = 1 << 20
documents.PIECE = 1 << 19
prepare(sources.find([sys.argv[1]]), Path(sys.argv[2]), tokenizer="char", shard_tokens=10**6)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
@pytest.mark.parametrize("suffix", ["txt", "txt.gz", "jsonl"])
def test_ten_times_the_text_takes_no_more_memory(suffix: str, tmp_path: Path) -> None:
    peaks = []
    for size in (6, 60):
        many = [words(500, i) for i in range(50)]
        raw = lines(many) if suffix == "jsonl" else words(5000).encode()
        raw *= size * 1_000_000 // len(raw)
        path = tmp_path / f"{size}.{suffix}"
        path.write_bytes(gzip.compress(raw, 1) if suffix.endswith("gz") else raw)
        del raw
        command = [sys.executable, "-c", RSS, str(path), str(tmp_path / f"d{size}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 25, "MiB; the larger text has 54 more"


# ---- killed, interrupted, prepared again, in parts ----

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
    place = Workplace(tmp_path / "d", "key", 1)
    place.open()
    for name in (".journal.json.77.tmp", "seen-3.bin", "val-00000.mask.raw", "val-00000.bin"):
        (place.folder / name).touch()
    place.note({"units": 1})
    place.publish({})
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


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text(encoding="utf-8").split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_end_from_outside(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(3_000_000), encoding="utf-8")
    command = [sys.executable, "-m", "bardlet", "prepare", "a.txt", "--workers=2", "--out=d",
               "--tokenizer=bpe"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(found := children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(found) >= 2
    time.sleep(0.5)
    process.send_signal(number)
    assert process.stderr is not None
    err = process.stderr.read()  # ends when the last process that writes to it has ended
    process.stderr.close()
    assert process.wait(20) in (130, -signal.SIGKILL)
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("wait", [0.0, 0.05, 0.2])
def test_processes_that_start_do_not_hear_ctrl_c(wait: float, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(100_000), encoding="utf-8")
    command = [sys.executable, "-m", "bardlet", "prepare", "a.txt", "--workers=2", "--out=d",
               "--tokenizer=byte"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(found := children(process.pid)) < 2 and process.poll() is None:
        time.sleep(0.001)
    time.sleep(wait)
    for pid in found:  # as a terminal does, which sends it to their parent as well
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


LARGE = """
import sys, time
from bardlet.data.prepare import workers

def large(item, shared):
    return bytes(shared)

if __name__ == "__main__":
    for wait in (0.0, 0.003, 0.01, 0.02):
        found = workers.ordered(large, range(99), 1 << 25, 2)
        next(found)
        time.sleep(wait)
        found.close()
"""


def test_processes_end_while_they_send_what_they_have_done(tmp_path: Path) -> None:
    """The pool's thread once waited for ever for the rest of a result, and Python waited for it."""
    (tmp_path / "large.py").write_text(LARGE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "large.py")], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "to another thread"])
def test_ctrl_c_is_held_back_and_not_lost(beside: bool) -> None:
    done = threading.Event()
    if beside:
        threading.Thread(target=done.wait, daemon=True).start()
    held = False
    with pytest.raises(KeyboardInterrupt), starting():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        held = True
    done.set()
    assert held
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_same_again_does_nothing_and_a_change_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    made(tmp_path / "d", path)
    written = (tmp_path / "d" / "manifest.json").stat().st_mtime_ns
    said: list[str] = []
    made(tmp_path / "d", path, say=said.append)
    assert said == [f"{tmp_path / 'd'} is up to date: the same sources and options"]
    assert (tmp_path / "d" / "manifest.json").stat().st_mtime_ns == written
    again = f"{tmp_path / 'd'} is prepared again: "
    for change, wanted in (
        (lambda: {"val_fraction": 0.2}, "val_fraction is 0.2, not 0.1"),
        (lambda: path.write_bytes(path.read_bytes().replace(b"document", b"DOCUMENT")),
         "val_fraction is 0.1, not 0.2"),
        (lambda: path.write_bytes(path.read_bytes().replace(b"DOCUMENT", b"document")),
         "changed: a.jsonl"),
        (lambda: jsonl(path, TEXTS[1:]), "changed: a.jsonl"),
        (lambda: (tmp_path / "d" / "train-00000.bin").write_bytes(b""), "cannot read the shard"),
    ):  # fmt: skip
        result = change()
        options = result if isinstance(result, dict) else {}
        said.clear()
        made(
            tmp_path / "d", path, say=said.append, **(options if isinstance(options, dict) else {})
        )
        assert said[0].startswith(again) and wanted in said[0]
    assert texts_of(Dataset(tmp_path / "d"), "val")


def test_why_a_dataset_is_prepared_again_is_said_when_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "a {i}", "id": "{i}"}}\n' for i in range(99)))
    made(tmp_path / "d", path)
    before = contents(tmp_path / "d")
    said: list[str] = []
    for tokenizer in ("byte", "char"):
        with pytest.raises(DataError, match="'body' is not there"):
            reading = Reading(text_key="body")
            made(tmp_path / "d", path, say=said.append, reading=reading, tokenizer=tokenizer)
    with pytest.raises(UsageError, match="gpt5 is not known"):
        made(tmp_path / "d", path, say=said.append, tokenizer="gpt5")
    assert said == []
    assert contents(tmp_path / "d") == before
    reading = Reading(prompt_key="id", response_key="text")
    made(tmp_path / "d", path, say=said.append, reading=reading)
    changed = "prompt_key is id, not none; response_key is text, not none"
    assert said[0] == f"{tmp_path / 'd'} is prepared again: {changed}"


@pytest.mark.usefixtures("small_units")
def test_parts_merged_are_the_documents_of_the_whole(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [words(40, i) for i in range(300)])
    whole = made(tmp_path / "whole", path, split="document")
    parts = [tmp_path / f"part{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        made(part, path, part=(i, 3), shard_tokens=5000)
    merged = merge(parts[::-1], tmp_path / "merged")
    merged.verify()
    for split in SPLITS:
        assert sorted(texts_of(merged, split)) == sorted(texts_of(whole, split))
        for key in ("documents", "characters", "bytes", "tokens"):
            counts = [d.manifest["splits"][split][key] for d in (merged, whole)]
            assert counts[0] == counts[1]
    with pytest.raises(DataError, match="part 2/3 is missing"):
        merge([parts[0], parts[2]], tmp_path / "e")
    with pytest.raises(DataError, match="are both part 1/3"):
        merge([parts[0], parts[0]], tmp_path / "e")
    made(parts[1], path, part=(2, 3), val_fraction=0.3)
    with pytest.raises(DataError, match="is of another split"):
        merge(parts, tmp_path / "e")
    with pytest.raises(UsageError, match="needs a tokenizer that all parts share"):
        made(tmp_path / "f", path, part=(1, 2), tokenizer="char")


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "{0}", "SLURM_NTASKS": "3"},
        {"RANK": "{0}", "WORLD_SIZE": "3"},
        {"SLURM_ARRAY_TASK_ID": "{1}", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
         "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("small_units")
def test_parts_by_rank_and_merged_by_command(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in [name for names in prepare_command.RANKS for name in names if name]:
        monkeypatch.delenv(name, raising=False)
    jsonl(tmp_path / "a.jsonl", TEXTS)
    command = ["prepare", "a.jsonl", "--tokenizer=byte"]
    assert cli.main([*command, "--part=auto"]) == 2
    assert "there are none. Start it with srun" in capsys.readouterr().err
    assert cli.main([*command, "--out=data/whole"]) == 0
    for i in range(3):
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(i, i + 1))
        assert cli.main([*command, "--part=auto"]) == 0
    parts = [f"data/a.part-{i}" for i in (1, 2, 3)]
    assert [Dataset(Path(p)).manifest["options"]["part"] for p in parts] == ["1/3", "2/3", "3/3"]
    assert cli.main(["prepare", "--merge", *parts, "--out=data/merged"]) == 0
    whole, merged = Dataset(Path("data/whole")), Dataset(Path("data/merged"))
    for split in SPLITS:
        assert sorted(texts_of(merged, split)) == sorted(texts_of(whole, split))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_an_array_of_jobs_may_have_a_step(step: int) -> None:
    array = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}
    array["SLURM_ARRAY_TASK_STEP"] = str(step)
    ids = [str(3 + i * step) for i in range(4)]
    parts = [prepare_command.of_ranks({**array, "SLURM_ARRAY_TASK_ID": i}) for i in ids]
    assert parts == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": ""},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_STEP": "-1"},
    ],
)
def test_a_variable_that_is_no_number_is_named(variables: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        prepare_command.of_ranks(variables)
    name, value = next((n, v) for n, v in variables.items() if not v.isdecimal())
    assert f"goes by {name}, and {value!r} is no number" in caught.value.message


def test_a_machine_without_a_unit_has_an_empty_part(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", TEXTS)
    parts = [made(tmp_path / f"{i}", tmp_path / "a.jsonl", part=(i, 2)).folder for i in (1, 2)]
    assert not len(Dataset(parts[1]).splits["train"])
    whole = made(tmp_path / "d", tmp_path / "a.jsonl")
    assert merge(parts, tmp_path / "m").hash == whole.hash
    jsonl(tmp_path / "b.jsonl", TEXTS[:1])
    parts = [made(tmp_path / f"b{i}", tmp_path / "b.jsonl", part=(i, 2)).folder for i in (1, 2)]
    with pytest.raises(DataError, match=r"no document of b falls to .* without --part"):
        merge(parts, tmp_path / "e")


def test_inspect_shows_bytes_per_token_and_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    out = str(tmp_path / "d")
    assert cli.main(["prepare", str(path), "--out", out, "--tokenizer=byte"]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", out]) == 0
    shown = capsys.readouterr().out
    assert "0.99 bytes per token" in shown or "1.00 bytes per token" in shown
    first = next(t for t in TEXTS if not units.goes_to_val(t, 0.1))
    assert json.dumps(first[:60], ensure_ascii=False)[1:40] in shown
    assert "split by document" in shown
