"""Which text is for validation: by position, by documents, in blocks, or as it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora import jsonl, made

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.splits import automatic, goes_to_val, hash_of
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import DataError

IN_TRAIN = [t for i in range(200) if not goes_to_val(t := f"text {i} of many", 0.1)]
IN_VAL = [t for i in range(400) if goes_to_val(t := f"text {i} of many", 0.1)]
PAIRS = Reading(prompt_key="q", response_key="a")


@pytest.mark.parametrize(
    ("texts", "rule", "side"),
    [
        (IN_TRAIN[:30], "position", "val"),
        (IN_VAL[:25], "position", "train"),
        ([IN_TRAIN[0]] * 40, "position", "val"),
        ([*IN_TRAIN[:29], IN_VAL[0]], "document", ""),
        ([*IN_TRAIN[:17], IN_VAL[0]], "position", ""),  # few
        ([*IN_TRAIN[:19], " \n", ""], "position", ""),  # empty ones do not count
        ([*IN_TRAIN[:60], IN_VAL[0]], "document", ""),
    ],
)
def test_auto_is_by_position_where_a_side_would_be_empty(
    texts: list[str], rule: str, side: str, tmp_path: Path
) -> None:
    for i, text in enumerate(texts):
        (tmp_path / f"{i:03}.txt").write_text(text, encoding="utf-8")
    in_files = sources.find([str(tmp_path)])
    in_lines = sources.find([str(jsonl(tmp_path / "all.jsonl", texts))])
    for collection in (in_files, in_lines):
        by, fraction, note = automatic(collection, Reading(), 0.1, part=False)
        assert (by, fraction) == (rule, 0.1)
        assert (f"no document falls to {side}" in note) if side else note == ""
    assert automatic(in_lines, Reading(), 0.1, part=True) == ("document", 0.1, "")


def test_thirty_small_files_are_prepared_and_the_rule_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").mkdir()
    for i, text in enumerate(IN_TRAIN[:30]):
        (tmp_path / "c" / f"{i}.txt").write_text(text, encoding="utf-8")
    assert cli.main(["prepare", str(tmp_path / "c"), "--out", str(tmp_path / "d")]) == 0
    note = "by their hash no document falls to val: each is split by position"
    assert note in capsys.readouterr().err
    dataset = Dataset(tmp_path / "d")
    assert note in dataset.manifest["notes"]
    assert [dataset.manifest["splits"][s]["documents"] for s in ("train", "val")] == [30, 30]
    assert cli.main(["prepare", str(tmp_path / "c"), "--out", str(tmp_path / "d")]) == 0
    assert "is up to date" in capsys.readouterr().err


@pytest.mark.parametrize("val_fraction", [1e-9, 0.1, 0.999_999])
def test_of_few_pairs_one_falls_to_the_other_side(val_fraction: float, tmp_path: Path) -> None:
    pairs = [{"q": f"{i}?", "a": f"answer {i}"} for i in range(3)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    dataset = made(tmp_path / "d", path, reading=PAIRS, val_fraction=val_fraction)
    counts = [dataset.manifest["splits"][s]["documents"] for s in ("train", "val")]
    assert sorted(counts) == [1, 2] or val_fraction == 0.1
    assert sum(counts) == 3 and min(counts) >= 1
    falls = sum(hash_of(f"{p['q']}\n{p['a']}") < val_fraction * 2**64 for p in pairs)
    assert any("is taken" in note for note in dataset.manifest["notes"]) == (falls in (0, 3))
    path.write_text(json.dumps(pairs[0]), encoding="utf-8")
    with pytest.raises(DataError, match="Give more pairs"):
        made(tmp_path / "e", path, reading=PAIRS)
