"""Which text is for validation: by position, by documents, in blocks, or as it is given."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from corpora import jsonl, made, texts_of

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare import units
from bardlet.data.prepare.splits import automatic, block_in_val, goes_to_val, hash_of
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import DataError, UsageError

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


def split_texts(dataset: Dataset) -> dict[str, str]:
    """What each split of a dataset of bytes holds."""
    return {
        name: dataset.tokenizer.decode(stream.read(0, len(stream)))
        for name, stream in dataset.splits.items()
    }


TEXT = "".join(f"{i:05} " for i in range(20_000))  # 120,000 characters


@pytest.mark.parametrize(("val_fraction", "workers"), [(0.1, 1), (0.25, 2)])
def test_blocks_are_from_everywhere_in_a_text(
    val_fraction: float, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT", 30_000)  # in several units
    monkeypatch.setattr(units, "WINDOW", 2000)
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    dataset = made(
        tmp_path / "d", tmp_path / "a.txt", split="blocks", val_fraction=val_fraction,
        workers=workers,
    )  # fmt: skip
    block = int(120_000 * val_fraction / 10)
    blocks = [TEXT[i : i + block] for i in range(0, len(TEXT), block)]
    val = [k for k in range(len(blocks)) if block_in_val(k, val_fraction)]
    assert len(val) == 10
    assert len({val[i + 1] - val[i] for i in range(9)}) == 1
    texts = split_texts(dataset)
    assert texts["val"] == "".join(blocks[k] for k in val)
    assert texts["train"] == "".join(b for k, b in enumerate(blocks) if k not in val)
    rule = {"by": "blocks", "val_fraction": val_fraction}
    assert dataset.manifest["split"] == rule


def test_blocks_of_several_texts_keep_their_borders(tmp_path: Path) -> None:
    texts = [TEXT[:10_000], "short", "x", "", TEXT[-3000:]]
    dataset = made(tmp_path / "d", jsonl(tmp_path / "a.jsonl", texts), split="blocks")
    train = texts_of(dataset, "train")
    val = texts_of(dataset, "val")
    assert [len(text) for text in train] == [9000, 4, 1, 2700]
    assert [len(text) for text in val] == [1000, 1, 300]
    assert val[0] == TEXT[2000:2500] + TEXT[7000:7500]
    with pytest.raises(UsageError, match="split=blocks would cut responses"):
        made(tmp_path / "e", tmp_path / "a.jsonl", split="blocks", reading=PAIRS)
    (tmp_path / "b.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="1 character, too few to split"):
        made(tmp_path / "e", tmp_path / "b.txt", split="blocks")


def run(*args: str | Path) -> int:
    return cli.main(["prepare", "--tokenizer=byte", *map(str, args)])


def test_the_validation_text_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("train.txt", "to train on\n"), ("val.txt", "to judge by\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert run("train.txt", "--val=val.txt", "--out=d") == 0
    dataset = Dataset(tmp_path / "d")
    assert split_texts(dataset) == {"train": "to train on\n", "val": "to judge by\n"}
    assert dataset.end_of_text is None
    assert [source["name"] for source in dataset.manifest["sources"]] == ["val.txt", "train.txt"]
    assert "split by given: other sources for validation" in capsys.readouterr().out
    assert run("train.txt", "--val=val.txt", "--out=d") == 0
    assert "up to date" in capsys.readouterr().err
    assert run("val.txt", "--val=train.txt", "--out=d") == 0  # the other way round
    assert split_texts(Dataset(tmp_path / "d"))["val"] == "to train on\n"
    (tmp_path / "more").mkdir()
    for i in range(3):
        (tmp_path / "more" / f"{i}.txt").write_text(f"file {i}", encoding="utf-8")
    jsonl(tmp_path / "v.jsonl", IN_TRAIN[:4])
    assert run("more", "train.txt", "--val=val.txt", "--val", "v.jsonl", "--out=e") == 0
    dataset = Dataset(tmp_path / "e")
    assert [dataset.manifest["splits"][s]["documents"] for s in ("train", "val")] == [4, 5]
    val = split_texts(dataset)["val"].split("<|endoftext|>")
    assert val == ["to judge by\n", *IN_TRAIN[:4], ""]
    for wrong, problem in (
        (("more", "--val=more/1.txt"), "1.txt is given for training and for validation"),
        (("more", "--val=val.txt", "--split=document"), "split=document has no effect with --val"),
        (("more", "--val=val.txt", "--val_fraction=0.2"), "--val_fraction has no effect with"),
        (("more", "--val=nowhere.txt"), "'nowhere.txt' is neither a file"),
    ):
        capsys.readouterr()
        assert run(*wrong, "--out=f") != 0
        assert problem in capsys.readouterr().err


def test_of_duplicates_the_one_for_validation_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = jsonl(tmp_path / "train.jsonl", [*IN_TRAIN[:9], IN_TRAIN[0]])
    val = jsonl(tmp_path / "val.jsonl", IN_TRAIN[5:9])
    assert run(train, "--val", val, "--distinct", "--out", tmp_path / "d") == 0
    texts = split_texts(Dataset(tmp_path / "d"))
    assert texts["train"] == "".join(f"{text}<|endoftext|>" for text in IN_TRAIN[:5])
    assert texts["val"] == "".join(f"{text}<|endoftext|>" for text in IN_TRAIN[5:9])
    val.write_text("", encoding="utf-8")
    assert run(train, "--val", val, "--out", tmp_path / "e") == 1
    assert "what --val names has no text" in capsys.readouterr().err


def test_a_large_validation_text_is_whole_in_its_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT", 30_000)
    monkeypatch.setattr(units, "WINDOW", 2000)
    (tmp_path / "a.txt").write_text(TEXT[:50_000], encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(TEXT[50_000:].encode()))
    for val, train in (("a.txt", "b.txt.gz"), ("b.txt.gz", "a.txt")):
        assert run(tmp_path / train, "--val", tmp_path / val, "--out", tmp_path / "d") == 0
        texts = split_texts(Dataset(tmp_path / "d"))
        halves = {"a.txt": TEXT[:50_000], "b.txt.gz": TEXT[50_000:]}
        assert texts == {"train": halves[train], "val": halves[val]}
