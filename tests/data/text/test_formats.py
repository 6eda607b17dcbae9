"""What a file is: by its ending, by how it begins, by what the user says."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corpora import texts_of

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.text.formats import endings, has_ending, kind_by_head, kind_of

TEXTS = [f"number {i} of them" for i in range(30)]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def prepared(*arguments: str) -> Any:
    command = ["prepare", *arguments, "--tokenizer=byte", "--split=document", "--out=d"]
    assert cli.main(command) == 0
    return Dataset(Path("d"))


def documents(dataset: Any) -> list[str]:
    return sorted(texts_of(dataset, "train") + texts_of(dataset, "val"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["a.jl", "a.jsonlines", "a", "a.dump", "a.gz", "-"])
def test_records_are_known_by_how_they_begin(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(LINES))
    monkeypatch.setattr(sys, "stdin", stdin)
    Path("a.gz" if name == "a.gz" else name).write_bytes(
        gzip.compress(LINES) if name == "a.gz" else LINES
    )
    assert documents(prepared(name)) == sorted(TEXTS)
    said = f"{name.replace('-', 'stdin')} is read as JSON, by how it begins"
    assert (said in capsys.readouterr().err) == (not name.startswith("a.j"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
def test_the_format_is_what_the_user_says(name: str) -> None:
    Path(name).write_bytes(LINES)
    dataset = Dataset(Path("d")) if cli.main(
        ["prepare", name, "--format=text", "--tokenizer=byte", "--out=d"]
    ) == 0 else None  # fmt: skip
    assert dataset and sum(s["bytes"] for s in dataset.manifest["splits"].values()) == len(LINES)
    for kind, raw in (("jsonl", LINES), ("json", json.dumps(TEXTS).encode()),
                      ("csv", ("text\n" + "\n".join(TEXTS) + "\n").encode())):  # fmt: skip
        Path("odd.name").write_bytes(raw)
        assert documents(prepared("odd.name", f"--format={kind}")) == sorted(TEXTS)


def test_standard_input_has_its_name_in_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"body": 1}\n')))
    assert cli.main(["prepare", "-"]) == 1
    assert "bardlet: stdin, line 1: 'text' is not there" in capsys.readouterr().err


def test_what_is_asked_for_must_be_a_format(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").write_bytes(LINES)
    assert cli.main(["prepare", "a", "--format=xml"]) == 2
    assert "format=xml must be one of: text, jsonl, json, csv, parquet" in capsys.readouterr().err


def test_one_packed_file_is_text_whatever_it_is_called() -> None:
    text = "words of a text that is packed\n" * 30
    with zipfile.ZipFile("text8.zip", "w") as archive:
        archive.writestr("text8", text)
    with tarfile.open("one.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("./folder/one.data")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    Path("x.log.gz").write_bytes(gzip.compress(text.encode()))
    Path("x.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("text8.zip", "one.tar.gz", "x.log.gz", "x.gz"):
        assert cli.main(["prepare", name, "--out=d", "--tokenizer=byte"]) == 0
        manifest = Dataset(Path("d")).manifest
        assert sum(split["characters"] for split in manifest["splits"].values()) == len(text)
        assert manifest["counts"] == {}


def test_one_packed_file_that_is_no_text_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("picture", b"\x89PNG\r\n\x1a\n")
    assert cli.main(["prepare", "a.zip", "--out=d"]) == 1
    assert "a.zip/picture is a picture, not text" in capsys.readouterr().err
    with zipfile.ZipFile("a.zip", "a") as archive:
        archive.writestr("other", bytes(99))
    assert cli.main(["prepare", "a.zip", "--out=d"]) == 1
    assert "a is empty: 2 files that are not text were passed over" in capsys.readouterr().err


def test_a_packed_file_without_a_name_is_left_out() -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        with archive.open(zipfile.ZipInfo(""), "w") as file:
            file.write(b"nameless")
        archive.writestr("good.txt", "words of a text\n" * 9)
    assert cli.main(["prepare", "a.zip", "--out=d"]) == 0
    assert Dataset(Path("d")).manifest["counts"] == {
        "hidden": {"number": 1, "bytes": 8, "examples": []}
    }


def test_ext_narrows_an_archive() -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        for i, text in enumerate(TEXTS):
            archive.writestr(f"{i}.txt", text)
            archive.writestr(f"{i}.md", text)
    dataset = prepared("a.zip", "--ext", "txt")
    assert documents(dataset) == sorted(TEXTS)
    assert dataset.manifest["counts"]["other_endings"]["number"] == 30
    assert dataset.manifest["options"]["ext"] == ".txt"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.TXT", ("text", "")), ("a.rst.xz", ("text", ".xz")), ("a.tgz", ("tar", ".gz")),
     ("a.gz", ("", ".gz")), ("a", ("", "")), ("a.tsv", ("csv", "")), (".txt", ("", "")),
     ("a.jl.zst", ("jsonl", ".zst")), ("a.zip", ("zip", ""))],
)  # fmt: skip
def test_endings(name: str, kind: tuple[str, str]) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [(b'{"a": 1}\n{"a', "jsonl"), (b'\xef\xbb\xbf\n {"a": 1}', "jsonl"), (b'{\n "a": 1}', "json"),
     (b'[{"a": 1}]', "json"), (b"[Verse 1]\n", "text"), (b"", "text"), (b"{curly} text", "text"),
     (b'{"a\\"b": "' + b"x" * 99, "json"), (b"\xff\xfe", "text")],
)  # fmt: skip
def test_how_json_begins(head: bytes, kind: str) -> None:
    assert kind_by_head(head, "utf-8") == kind
    assert kind_by_head(b"", "utf-16") == "text"


def test_the_endings_of_ext() -> None:
    assert endings(" txt, .MD,,") == (".txt", ".md")
    assert has_ending("a.TXT.gz", "txt") and has_ending("a.gz", ".gz") and has_ending("a", "")
    assert not has_ending("a.txt", ".md") and not has_ending("atxt", "txt")
