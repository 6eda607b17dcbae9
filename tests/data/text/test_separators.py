"""Documents in plain text, cut at the line that the user names, in whatever blocks it comes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.text import documents, separators
from bardlet.errors import UsageError

EOT = "<|endoftext|>"


def cut(text: str, separator: str, size: int) -> list[str]:
    blocks = (text[i : i + size] for i in range(0, len(text), size))
    return ["".join(parts) for parts in separators.documents_of(blocks, separator)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        (f"one\n{EOT}\ntwo\nlines\n{EOT}\n", EOT, ["one", "two\nlines"]),
        (f"{EOT}\none\n\n{EOT}\n\n\n{EOT}\ntwo", EOT, ["one\n", "two"]),
        (f"one.{EOT}two.{EOT}", EOT, ["one.", "two."]),  # without a line of its own
        ("a\n---\nb --- c\n ---  \n----\nd\n", "---", ["a", "b --- c", "----\nd"]),
        ("a\nb\n\nc\n \t\n\n\n  d\n", "blank", ["a\nb", "c", "  d"]),
        ("\n\na\n\n", "blank", ["a"]),
        ("a\n\nb\n c\n", "line", ["a", "b", " c"]),
        ("\u4e00\u4e8c\n\u4e09", "line", ["\u4e00\u4e8c", "\u4e09"]),
        ("no such thing\n", EOT, ["no such thing"]),
        ("", "line", []),
        ("\n\n\n", "blank", []),
        ("a", "a", []),  # nothing but a separator
    ],
)
def test_a_text_is_cut_at_its_separators(
    text: str, separator: str, expected: list[str], size: int
) -> None:
    assert cut(text, separator, size) == expected


def test_a_line_without_end_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separators, "LONG", 50)
    text = f"{'x' * 1000}{EOT}{'y' * 77}"
    assert cut(text, EOT, 10) == ["x" * 1000, "y" * 77]
    blocks = iter([f"{'x' * 10}" for _ in range(100)])
    assert max(map(len, next(separators.documents_of(blocks, EOT)))) < 100


@pytest.mark.parametrize(
    ("given", "separator"),
    [("", "blank"), ("\n\n", "blank"), (r"\n\n", "blank"), ("\n", "line"), (r"\n", "line"),
     ("blank", "blank"), ("line", "line"), (EOT, EOT), ("---\n", "---")],
)  # fmt: skip
def test_spellings_of_separators(given: str, separator: str) -> None:
    assert separators.parse(given) == separator
    for wrong in ("a\nb", "  "):
        with pytest.raises(UsageError, match="is not a line"):
            separators.parse(wrong)


def prepared(folder: Path, *args: str) -> tuple[Dataset, list[str]]:
    out = folder / "d"
    assert cli.main(["prepare", *args, "--tokenizer=byte", "--out", str(out)]) == 0
    dataset = Dataset(out)
    texts: list[str] = []
    for stream in dataset.splits.values():
        texts += dataset.tokenizer.decode(stream.read(0, len(stream))).split(EOT)[:-1]
    return dataset, texts


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_stories_with_a_line_between_them_are_documents(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(documents, "PIECE", 300)  # long ones come in pieces
    stories = [f"Story {i}.\n" + "It was a day. " * (5 * (i % 9)) for i in range(60)]
    raw = f"\n{EOT}\n".join(stories).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    whole, _ = prepared(tmp_path, str(tmp_path / name))
    assert whole.manifest["counts"]["marks"] == {"number": 59, "bytes": 0, "examples": [EOT]}
    said = "59 lines that look like a --document_separator were kept as text: <|endoftext|>"
    assert said in capsys.readouterr().err
    dataset, texts = prepared(tmp_path, str(tmp_path / name), f"--document_separator={EOT}")
    assert sorted(texts) == sorted(stories)
    assert dataset.manifest["split"]["by"] == "document"
    assert dataset.end_of_text == 256
    assert "marks" not in dataset.manifest["counts"]
    again = ["prepare", str(tmp_path / name), f"--document_separator={EOT}", "--tokenizer=byte"]
    capsys.readouterr()
    assert cli.main([*again, "--out", str(tmp_path / "d"), "--workers=2"]) == 0
    assert "is up to date" in capsys.readouterr().err


def test_a_separator_without_effect_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one and two and three " * 9, encoding="utf-8")
    prepared(tmp_path, str(tmp_path / "a.txt"), "--document_separator=---")
    said = "1 text does not have the document separator and is one document: a.txt"
    assert said in capsys.readouterr().err
    (tmp_path / "b.jsonl").write_text('"one two"\n"three"\n' * 30, encoding="utf-8")
    prepared(tmp_path, str(tmp_path / "b.jsonl"), "--document_separator=blank")
    assert "--document_separator has no effect: there is no plain text" in capsys.readouterr().err


@given(st.lists(st.sampled_from([*separators.MARKS, "\n", "a", " ", "<", "</s", "\r"])))
def test_marks_are_lines_of_their_own(parts: list[str]) -> None:
    text = "".join(parts)
    lines = text.split("\n")
    counts = {mark: lines.count(mark) for mark in separators.MARKS if mark in lines}
    assert separators.count_marks(text) == counts
