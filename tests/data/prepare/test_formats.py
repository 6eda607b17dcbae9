"""Sources in every format: which documents they give."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from corpora import FORMATS, TEXTS, made, texts_of, words

from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.prepare import options, survey, units
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import DataError


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    dataset = made(tmp_path / "d", tmp_path / name)
    train, val = (texts_of(dataset, split) for split in SPLITS)
    assert train == [t for t in TEXTS if not units.goes_to_val(t, 0.1)]
    assert val == [t for t in TEXTS if units.goes_to_val(t, 0.1)]
    assert len(val) > 0
    assert dataset.manifest["end_of_text"] == 256


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
    with pytest.raises(DataError, match="record 4: 'paragraphs' is not text"):
        made(tmp_path / "e", tmp_path / "a.json", reading=reading)


@pytest.mark.parametrize("row", ['1,"unclosed', '1,"a"b\n2,"c"\n'])
def test_a_table_with_a_wrong_quote_is_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n0,whole\n{row}", encoding="utf-8")
    problem = "it ends within a quoted field" if "unclosed" in row else "expected after"
    with pytest.raises(DataError, match=rf"a\.csv is not a table: .*{problem}"):
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


def test_many_tiny_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3000):
        (tmp_path / "in" / f"{i:05d}.txt").write_text(f"text {i}", encoding="utf-8")
    dataset = made(tmp_path / "d", tmp_path / "in")
    assert len(texts_of(dataset, "train")) + len(texts_of(dataset, "val")) == 3000
