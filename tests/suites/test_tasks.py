"""Tasks in JSONL: what a line may be, and what is said of one that is none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bardlet.errors import DataError
from bardlet.suites.tasks import Cloze, MultipleChoice, read_task


def read(tmp_path: Path, *documents: Any, **options: Any) -> Any:
    path = tmp_path / "some.jsonl"
    lines = [d if isinstance(d, str) else json.dumps(d, ensure_ascii=False) for d in documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_task(str(path), **options)


CHOICE = {"context": "a", "choices": ["b", "cc"], "answer": 1}


@pytest.mark.parametrize(
    "document",
    [
        CHOICE,
        {"query": "a", "choices": ["b", "cc"], "gold": 1},
        {"question": "a", "choices": ["b", "cc"], "answer": "cc"},
        {"context": "a", "choices": ["b", "cc"], "answer": "B"},
        {"context": "a", "choices": ["b", "cc"], "label": "1"},
        {"ctx": "a", "endings": ["b", "cc"], "label": "1"},
    ],
)
def test_multiple_choice_has_several_spellings(document: Any, tmp_path: Path) -> None:
    task = read(tmp_path, document)
    expected = MultipleChoice(line=1, context="a", delimiter=" ", choices=("b", "cc"), answer=1)
    assert (task.name, task.kind, task.examples) == ("some", "multiple_choice", (expected,))


def test_hellaswag_is_put_together_as_harnesses_do(tmp_path: Path) -> None:
    document = {
        "activity_label": "Baking", "ctx_a": "A man [step] stands.", "ctx_b": "he",
        "ctx": "unused", "endings": ["runs [title] away", "  bakes [substeps] bread"], "label": 1,
    }  # fmt: skip
    example = read(tmp_path, document).examples[0]
    assert example.context == "Baking: A man stands. He"
    assert example.choices == ("runs. away", "bakes bread")


def test_cloze(tmp_path: Path) -> None:
    task = read(tmp_path, {"text": "to be or not"}, "", {"context": "to", "target": "be"})
    assert task.examples == (
        Cloze(line=1, context="to be or", target=" not"),
        Cloze(line=3, context="to", target=" be"),
    )
    assert read(tmp_path, {"context": "床前", "target": "明"}, delimiter="").examples[0] == Cloze(
        line=1, context="床前", target="明"
    )


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([], "no examples"),
        ([[1, 2]], "line 1: it is list"),
        ([CHOICE, "{"], "line 2 is not JSON"),
        ([{"context": "a"}], "it has only context"),
        ([{**CHOICE, "answer": 2}], "answer '2' is not one of its 2 choices"),
        ([{**CHOICE, "answer": -1}], "answer '-1'"),
        ([{**CHOICE, "answer": True}], "answer 'True'"),
        ([{**CHOICE, "choices": ["b"]}], "1 choices"),
        ([{**CHOICE, "choices": ["b", ""]}], "a choice is empty"),
        ([{**CHOICE, "choices": ["b", 3]}], "not a list of texts"),
        ([{"choices": ["b", "c"], "answer": 0}], "its context is missing"),
        ([{"ctx": "a", "endings": ["b", "c"], "label": ""}], "answer ''"),
        ([{"text": "word"}], "no last word"),
        ([{"context": "a", "target": ""}], "target is empty"),
        ([CHOICE, {"text": "a b"}], "mixes multiple choice with cloze, from line 2 on"),
    ],
)
def test_what_is_no_example_is_refused(documents: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, *documents)
    assert words in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot read"):
            read_task(str(path))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9 au lait"}')
    with pytest.raises(DataError, match="line 1 is not UTF-8"):
        read_task(str(tmp_path / "latin.jsonl"))


def test_standard_input_is_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO(b'\xef\xbb\xbf{"text": "to be"}\r\n')
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
    assert read_task("-").examples == (Cloze(line=1, context="to", target=" be"),)
