"""A dataset that is prepared again: what has changed is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import TEXTS, contents, jsonl, made, texts_of

from bardlet.data.dataset.folder import Dataset
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import DataError, UsageError


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


def test_a_vocabulary_that_was_made_anew_is_not_up_to_date(tmp_path: Path) -> None:
    """A file of the same name with other tokens in it."""
    vocabulary, said = tmp_path / "tokenizer.json", list[str]()
    path = tmp_path / "a.txt"
    path.write_text("abc abd " * 30, encoding="utf-8")
    for chars, again in (("abcd ", False), ("abcd ", True), ("dcab ", False)):
        vocabulary.write_text(CharTokenizer(chars).to_json(), encoding="utf-8")
        said.clear()
        dataset = made(tmp_path / "d", path, tokenizer=str(vocabulary), say=said.append)
        assert any("is up to date" in line for line in said) == again
        assert isinstance(dataset.tokenizer, CharTokenizer)
        assert dataset.tokenizer.chars == chars
    assert any(f"{vocabulary} is another vocabulary" in line for line in said)
