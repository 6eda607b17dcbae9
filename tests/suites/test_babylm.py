"""BabyLM's tasks on sentences, by a hand-made folder of the layout of its evaluation_data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bardlet.errors import DataError
from bardlet.suites import files
from bardlet.suites.babylm import files_by_group, score_babylm
from bardlet.suites.encoding import encoder
from bardlet.suites.likelihood import Scorer

BLIMP = [
    {"sentence_good": "the question is", "sentence_bad": "the question be", "UID": "agreement",
     "field": "morphology", "linguistics_term": "x"},
    {"sentence_good": "to be", "sentence_bad": "be to or", "UID": "order", "field": "syntax",
     "linguistics_term": "x"},
    {"sentence_good": "or not", "sentence_bad": "not nobler", "UID": "order", "field": "syntax",
     "linguistics_term": "x"},
]  # fmt: skip
EWOK = [
    {"Domain": "social", "Context1": "that is nobler", "Context2": "that is not",
     "Target1": "be", "Target2": "or", "ContextType": "direct"},
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation_data"
    write(folder / "full_eval" / "blimp_filtered" / "agreement.jsonl", BLIMP[:1])
    write(folder / "full_eval" / "blimp_filtered" / "order.jsonl", BLIMP[1:])
    pair = {"sentence_good": "whether that", "sentence_bad": "that whether"}
    write(folder / "full_eval" / "supplement_filtered" / "turn_taking.jsonl", [pair])
    write(folder / "full_eval" / "ewok_filtered" / "social.jsonl", EWOK)
    write(folder / "fast_eval" / "blimp_fast" / "order.jsonl", BLIMP[1:2])
    return folder


def swapped(data: Path) -> Path:
    """The data with EWoK's two targets changing places."""
    row = EWOK[0]
    changed = {**row, "Target1": row["Target2"], "Target2": row["Target1"]}
    write(data / "full_eval" / "ewok_filtered" / "social.jsonl", [changed])
    return data


@torch.no_grad()
def logprob(scorer: Scorer, context: str, text: str) -> float:
    """Of a text's tokens behind the token that begins it and a context, one by one."""
    encode = scorer.trained.tokenizer.encode
    begin = encoder(scorer.trained, 1).prefix
    assert begin is not None
    ids = [begin, *encode(context + text).tolist()]
    idx = torch.tensor([ids])
    logits = scorer.gpt(idx, idx)[0][0].double()
    first = 1 + len(encode(context))
    return sum(logits[i - 1].log_softmax(-1)[ids[i]].item() for i in range(first, len(ids)))


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_scores_by_hand(kind: str, data: Path, request: pytest.FixtureRequest) -> None:
    scorer = request.getfixturevalue(kind)
    result = score_babylm(scorer, data)
    better = [
        logprob(scorer, "", row["sentence_good"]) > logprob(scorer, "", row["sentence_bad"])
        for row in BLIMP
    ]
    assert result.scores["blimp"] == pytest.approx((better[0] + (better[1] + better[2]) / 2) / 2)
    row = EWOK[0]
    first, second = (logprob(scorer, row["Context1"], f" {row[k]}") for k in ("Target1", "Target2"))
    assert result.scores["ewok"] == float(first > second)
    other = score_babylm(scorer, swapped(data))
    assert other.scores["ewok"] == 1 - result.scores["ewok"]
    assert [(task.group, task.task, task.examples) for task in result.tasks] == [
        ("blimp", "agreement", 1), ("blimp", "order", 2), ("supplement", "turn_taking", 1),
        ("ewok", "social", 1),
    ]  # fmt: skip
    assert not result.notes


def test_equal_sentences_count_one_half(characters: Scorer, tmp_path: Path) -> None:
    write(tmp_path / "blimp" / "same.jsonl", [{"sentence_good": "to", "sentence_bad": "to"}] * 4)
    result = score_babylm(characters, tmp_path, max_examples=3)
    assert result.scores["blimp"] == 0.5 and result.tasks[0].examples == 3
    assert result.notes[:2] == (f"no files of supplement in {tmp_path}",
                                f"no files of ewok in {tmp_path}")  # fmt: skip


def test_the_standard_error_is_of_a_mean_of_means(characters: Scorer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "blimp" / f"{name}.jsonl", [
            {"sentence_good": "to be", "sentence_bad": "zq'#"},
            {"sentence_good": "zq'#", "sentence_bad": "to be"},
        ])  # fmt: skip
    result = score_babylm(characters, tmp_path)
    assert result.scores["blimp"] == 0.5
    assert result.scores["blimp_stderr"] == pytest.approx(math.sqrt(2 * 0.5**2) / 2)


def test_folders_that_are_taken(data: Path, tmp_path: Path) -> None:
    assert [p.name for p in files_by_group(data)["blimp"]] == ["agreement.jsonl", "order.jsonl"]
    fast = files_by_group(data / "fast_eval")
    assert fast["blimp"][0].parent.name == "blimp_fast" and list(fast) == ["blimp"]
    write(tmp_path / "mine" / "data" / "order.jsonl", BLIMP)  # BLiMP's own repository
    assert list(files_by_group(tmp_path / "mine")) == ["blimp"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"has no \.jsonl"):
        files_by_group(tmp_path / "none")


def test_blimp_of_the_hub_is_parquet(
    characters: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked for a data set, whose folders are its paradigms."""
    hub, pyarrow = pytest.importorskip("huggingface_hub"), pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("BARDLET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "snapshot"
    for paradigm in ("agreement", "order"):
        (folder / paradigm).mkdir(parents=True)
        rows = [row for row in BLIMP if row["UID"] == paradigm]
        parquet.write_table(
            pyarrow.Table.from_pylist(rows), folder / paradigm / "train-00000-of-00001.parquet"
        )
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["repo_type"]))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    result = score_babylm(characters, files.folder_of("babylm", None))
    assert asked == [("nyu-mll/blimp", "dataset")]
    assert [(task.task, task.examples) for task in result.tasks] == [("agreement", 1), ("order", 2)]

    def offline(name: str, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(DataError, match=r"no network. Put folders of JSONL"):
        files.folder_of("babylm", None)


def test_a_row_that_is_no_pair_is_named(characters: Scorer, tmp_path: Path) -> None:
    write(tmp_path / "blimp" / "a.jsonl", [BLIMP[0], {"sentence_good": "x"}])
    with pytest.raises(DataError, match="line 2: its sentence_bad is missing"):
        score_babylm(characters, tmp_path)
