"""What `prepare` and `inspect` remark on."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpora import TEXTS, jsonl, made

from bardlet import cli
from bardlet.data.prepare import remarks, units
from bardlet.data.prepare.merge import merge
from bardlet.data.text.records import Reading
from bardlet.errors import DataError


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
    splits, rule = dataset.manifest["splits"], dataset.manifest["split"]
    [of_pairs] = remarks.uneven(splits, rule, masked=True)
    assert of_pairs == note.split(";")[0] + "; --val takes a source for validation alone"
    by_position = made(tmp_path / "e", tmp_path / "a.jsonl", split="position")
    assert by_position.manifest["notes"] == []


def test_empty_documents_duplicates_and_bad_bytes_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*TEXTS, "", " \n", TEXTS[3], TEXTS[3]])
    said: list[str] = []
    dataset = made(tmp_path / "d", path, distinct=True, say=said.append)
    assert sum(s["documents"] for s in dataset.manifest["splits"].values()) == 60
    size = 2 * len(TEXTS[3].encode())
    notes = [
        "2 empty documents were left out (2 bytes)",
        f"2 duplicates were left out ({size} bytes)",
    ]
    assert dataset.manifest["notes"] == said == notes
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 and caf\xe9 " * 3)
    bad = made(tmp_path / "e", tmp_path / "b.txt", reading=Reading(errors="replace"))
    assert bad.manifest["notes"] == ["6 places that are not of the encoding were mended"]
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress((tmp_path / "b.txt").read_bytes() * 2))
    for workers in (1, 2):  # of the same text packed, where it is decoded elsewhere
        given = [tmp_path / "b.txt", tmp_path / "b.txt.gz"]
        options = {"reading": Reading(errors="replace"), "workers": workers, "tokenizer": "char"}
        bad = made(tmp_path / f"f{workers}", *given, **options)
        assert bad.manifest["notes"] == ["18 places that are not of the encoding were mended"]


@pytest.mark.parametrize("split", ["position", "document"])
@pytest.mark.parametrize("workers", [1, 2])
def test_duplicates_are_dropped_once_each(
    workers: int, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Story {i % 30} is short." for i in range(600)]
    path = jsonl(tmp_path / "a.jsonl", texts)
    for units_of in (1 << 23, 1000):  # in one unit, and over many
        monkeypatch.setattr(units, "UNIT", units_of)
        options = {"split": split, "workers": workers, "distinct": True}
        dataset = made(tmp_path / f"{units_of}", path, **options)
        counts = dataset.manifest["splits"]
        documents = {name: counts[name]["documents"] for name in counts}
        assert sum(documents.values()) == (30 if split == "document" else 60)
        size = sum(len(text) for text in texts[30:])
        assert dataset.manifest["counts"]["duplicates"] == {
            "number": 570, "bytes": size, "examples": []
        }  # fmt: skip


def test_what_is_too_long_to_be_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT", 1000)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("long text " * 500, encoding="utf-8")
    given = [tmp_path / "a.txt", tmp_path / "b.txt"]
    dataset = made(tmp_path / "d", *given, distinct=True, split="position")
    note = "2 long or damaged documents were kept without being compared"
    assert dataset.manifest["notes"] == [note]


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


@pytest.mark.parametrize("workers", [1, 2])
def test_that_much_text_could_be_encoded_faster_is_said_once(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(tmp_path / "a.jsonl", TEXTS)

    def said(name: str, tokenizer: str) -> list[str]:
        found: list[str] = []
        made(tmp_path / name, tmp_path / "a.jsonl", tokenizer=tokenizer, say=found.append,
             workers=workers)  # fmt: skip
        return [line for line in found if "compiled core is missing" in line]

    monkeypatch.setattr(remarks.bpe_encoding, "core", lambda: None)
    assert not said("little", "bpe")
    monkeypatch.setattr(remarks, "MUCH", 1000)
    assert len(said("much", "bpe")) == (sys.platform != "win32")
    assert not said("bytes", "byte")
    monkeypatch.setattr(remarks.bpe_encoding, "core", SimpleNamespace)
    assert not said("quick", "bpe")


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
