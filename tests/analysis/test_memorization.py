"""Which runs of a sample stand in the training text, against looking for each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import some_text, tiny_config

from bardlet import cli
from bardlet.analysis import memorization
from bardlet.analysis.memorization import Run, marked, report, runs_in, stretches
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.train import train

few_tokens = st.lists(st.integers(0, 2), min_size=0, max_size=60)


def stream_of(text: list[int], vocab_size: int = 300) -> TokenStream:
    half = len(text) // 2
    shards = [np.array(part, dtype=np.uint16) for part in (text[:half], text[half:])]
    return TokenStream(shards, vocab_size)


def looked_for(text: list[int], row: list[int]) -> list[tuple[int, int]]:
    """(start, tokens) of each run of the row in the text that no longer one contains.

    Both are ids below 256, and looked at as bytes.
    """
    runs = []
    known, sought = bytes(text), bytes(row)
    reached = 0
    for start in range(len(row)):
        size = max(n for n in range(len(row) - start + 1) if sought[start : start + n] in known)
        if size and start + size > reached:
            reached = start + size
            runs.append((start, size))
    return runs


@settings(max_examples=150)
@given(text=few_tokens, rows=st.lists(few_tokens, max_size=3), least=st.integers(1, 12))
def test_the_runs_are_those_that_looking_for_each_one_finds(
    text: list[int], rows: list[list[int]], least: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorization, "PIECE", 7)  # so that runs cross the pieces' borders
        found = runs_in(stream_of(text), [np.array(row, dtype=np.int64) for row in rows], least)
    for row, runs in zip(rows, found, strict=True):
        expected = looked_for(text, row)
        longest = max((size for _, size in expected), default=0)
        assert [(run.start, run.tokens) for run in runs] == [
            (start, size) for start, size in expected if size >= min(least, longest)
        ]
        for run in runs:
            assert text[run.place : run.place + run.tokens] == row[run.start : run.end]


def test_equal_hashes_make_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization.Hashes, "of", lambda self, ids: np.zeros(
        max(0, len(ids) - self.gram + 1), dtype=np.uint64))  # fmt: skip
    text, row = [1, 2, 3, 4, 5, 6], np.array([9, 3, 4, 5, 9])
    assert runs_in(stream_of(text), [row], 3) == [[Run(start=1, tokens=3, place=2)]]


def test_a_sample_out_of_the_text_is_one_run_and_an_own_one_none() -> None:
    text = list(b"it was the best of times, it was the worst of times")
    copied = np.array(list(b"was the worst"))
    found = runs_in(stream_of(text), [copied, np.array(list(b"XYZ"))], 8)
    assert found == [[Run(start=0, tokens=13, place=29)], []]


def test_what_runs_cover_counts_once() -> None:
    runs = [Run(start=s, tokens=n, place=0) for s, n in [(0, 5), (3, 4), (7, 2), (12, 1)]]
    assert stretches(runs) == [(0, 7), (7, 9), (12, 13)]
    assert memorization.summary([np.zeros(20)], [runs], 2) == {"longest": 5, "share": 0.45}


def test_marks_never_split_a_character() -> None:
    ids = np.array(list("a\u00e9b\u4e16".encode()))  # 1 + 2 + 1 + 3 bytes
    told = [{"start": 2, "tokens": 3, "place": 0}]  # from within one character into another
    assert marked(ids, told, ByteTokenizer()) == "a\u27e6\u00e9b\u27e7\u4e16"


def test_the_report_has_a_default_of_fifty_bytes_and_validation_beside_it(
    dataset_folder: Path,
) -> None:
    dataset = Dataset(dataset_folder)
    train = dataset.splits["train"]
    rows = [train.read(100, 80), np.zeros(80, dtype=np.int64)]
    found = report(dataset, dataset.tokenizer, rows)
    assert found["min_run"] == 50  # characters of one byte each
    assert found["longest"] == 80
    assert found["share"] == 0.5
    assert found["samples"][0]["runs"] == [
        {"start": 0, "tokens": 80, "place": 100, "text": dataset.tokenizer.decode(rows[0])}
    ]
    assert found["samples"][1]["share"] == 0
    val, text = dataset.splits["val"], train.read(0, len(train)).tolist()
    held_out = [val.read(i * (len(val) - 80), 80).tolist() for i in range(2)]
    assert found["validation"]["longest"] == max(
        size for row in held_out for _, size in looked_for(text, row)
    )


def test_the_command_marks_and_sums_up(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(tiny_config(dataset_folder, out, max_iters=2))
    capsys.readouterr()
    options = ["--device=cpu", "--num_samples=2", "--max_new_tokens=60", "--check_memorization"]
    assert cli.main(["sample", str(out), *options, "--min_run=3", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    found = written["memorization"]
    assert found["min_run"] == 3
    text = some_text(6000)[:5400]
    for sample, told in zip(written["samples"], found["samples"], strict=True):
        longest = max(told["runs"], key=lambda run: run["tokens"])
        assert longest["text"] in sample
        assert longest["text"] in text
        assert told["longest"] == longest["tokens"] == len(longest["text"])
    assert cli.main(["sample", str(out), *options, "--min_run=3"]) == 0
    shown = capsys.readouterr().out
    assert shown.replace("\u27e6", "").replace("\u27e7", "").startswith(written["samples"][0])
    assert shown.count("\u27e6") == shown.count("\u27e7") > 0
    assert f"longest run that stands in the training text: {found['longest']} tokens" in shown


def test_another_text_than_the_runs_own_is_refused(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(dataset_folder, tmp_path / "run", max_iters=2))
    manifest = dataset_folder / "manifest.json"
    values = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**values, "hash": "0" * 64}), encoding="utf-8")
    assert cli.main(["sample", str(tmp_path / "run"), "--check_memorization"]) == 1
    assert "does not have the tokens" in capsys.readouterr().err
    assert cli.main(["sample", str(tmp_path / "run"), "--min_run=-1"]) == 2
