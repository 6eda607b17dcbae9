"""CORE, by a hand-made bundle of the layout that nanochat's has."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bardlet.errors import DataError
from bardlet.suites import core, files
from bardlet.suites.core import CoreTask, prompts, read_rows, read_tasks, score_core
from bardlet.suites.encoding import encoder
from bardlet.suites.likelihood import Scorer

pytest.importorskip("yaml")

CORE = """
icl_tasks:
- label: copa
  dataset_uri: commonsense/copa.jsonl
  num_fewshot: [0]
  icl_task_type: multiple_choice
- label: winograd
  dataset_uri: language/winograd.jsonl
  num_fewshot:
  - 2
  icl_task_type: schema
- label: squad
  dataset_uri: reading/squad.jsonl
  num_fewshot: [3]
  icl_task_type: language_modeling
  continuation_delimiter: "\\nAnswer: "
"""
BASELINES = "Eval Task,Task Category,Random baseline\ncopa,a,50\nwinograd,a,50\nsquad,b,0.0\n"
WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]


def rows_of(kind: str, count: int = 12) -> list[dict[str, Any]]:
    generator = random.Random(kind)

    def some(n: int) -> str:
        return " ".join(generator.choices(WORDS, k=n))

    if kind == "copa":
        return [{"query": some(3), "choices": ["be", "or " + some(2)], "gold": i % 2}
                for i in range(count)]  # fmt: skip
    if kind == "winograd":
        return [{"context_options": [some(2), some(4)], "continuation": some(2), "gold": i % 2}
                for i in range(count)]  # fmt: skip
    return [{"context": some(4) + " \n", "continuation": some(1)} for _ in range(count)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "eval_bundle"
    for uri in ("commonsense/copa", "language/winograd", "reading/squad"):
        path = folder / "eval_data" / f"{uri}.jsonl"
        path.parent.mkdir(parents=True)
        rows = rows_of(path.stem)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "core.yaml").write_text(CORE, encoding="utf-8")
    (folder / "eval_meta_data.csv").write_text(BASELINES, encoding="utf-8")
    return folder


def test_the_bundle_is_read(bundle: Path) -> None:
    first, second, third = read_tasks(bundle)
    assert (first.label, first.kind, first.shots, first.delimiter, first.baseline) == (
        "copa", "multiple_choice", 0, " ", 0.5,
    )  # fmt: skip
    assert (second.kind, second.shots, third.shots) == ("schema", 2, 3)
    assert third.delimiter == "\nAnswer: " and third.baseline == 0


def test_lines_are_shuffled_and_shots_drawn_as_nanochat_does(bundle: Path) -> None:
    task = read_tasks(bundle)[0]
    rows = rows_of("copa", 12)
    random.Random(1337).shuffle(rows)
    assert read_rows(task, 0) == rows and read_rows(task, 5) == rows[:5]
    others = [row for i, row in enumerate(rows) if i != 4]
    assert core.shots_of(rows, 4, 3) == random.Random(1238).sample(others, 3)
    assert len(core.shots_of(rows[:2], 0, 10)) == 1


def test_prompts_by_hand() -> None:
    def task(kind: str, delimiter: str = " ") -> CoreTask:
        return CoreTask(label="t", kind=kind, file=Path(), shots=1, delimiter=delimiter, baseline=0)

    shot = {"query": "Q", "choices": ["x", "y"], "gold": 1}
    row = {"query": "R", "choices": ["u", "v"], "gold": 0}
    assert prompts(row, task("multiple_choice"), [shot]) == ["Q y\n\nR u", "Q y\n\nR v"]
    shot = {"context_options": ["A", "B"], "continuation": "c", "gold": 0}
    assert prompts({**shot, "continuation": "d"}, task("schema"), [shot]) == [
        "A c\n\nA d", "A c\n\nB d",
    ]  # fmt: skip
    shot = {"context": " C \n", "continuation": "e"}
    assert prompts(shot, task("language_modeling", "\nA: "), [shot]) == [
        "C\nA: e\n\nC\nA:", "C\nA: e\n\nC\nA: e",
    ]  # fmt: skip


@torch.no_grad()
def by_hand(scorer: Scorer, task: CoreTask) -> float:
    """The accuracy by nanochat's rules, an option at a time."""
    begin = [encoder(scorer.trained, 1).prefix]
    rows, right = read_rows(task, 0), 0
    for i, row in enumerate(rows):
        texts = prompts(row, task, core.shots_of(rows, i, task.shots))
        ids = [begin + scorer.trained.tokenizer.encode(text).tolist() for text in texts]
        length = min(map(len, ids))
        if task.kind == "schema":
            same = next(n for n in range(length, 0, -1) if len({tuple(x[-n:]) for x in ids}) == 1)
            starts = [len(x) - same for x in ids]
        else:
            same = next(n for n in range(length, 0, -1) if len({tuple(x[:n]) for x in ids}) == 1)
            starts = [same] * len(ids)
        means, greedy = [], []
        for one, start in zip(ids, starts, strict=True):
            gone = max(0, len(one) - scorer.context)
            one, start = one[gone:], start - gone
            idx = torch.tensor([one])
            logits = scorer.gpt(idx, idx)[0][0].double()
            places = range(start, len(one))
            losses = [-logits[p - 1].log_softmax(-1)[one[p]].item() for p in places]
            means.append(sum(losses) / len(losses) if losses else math.inf)
            greedy.append(all(logits[p - 1].argmax() == one[p] for p in places))
        right += greedy[1] if task.kind == "language_modeling" else means.index(
            min(means)) == row["gold"]  # fmt: skip
    return right / len(rows)


def test_core_is_the_mean_of_centred_accuracies(characters: Scorer, bundle: Path) -> None:
    result = score_core(characters, bundle)
    accuracies = [by_hand(characters, task) for task in read_tasks(bundle)]
    assert [task.accuracy for task in result.tasks] == pytest.approx(accuracies)
    centred = [(accuracies[0] - 0.5) / 0.5, (accuracies[1] - 0.5) / 0.5, accuracies[2]]
    assert result.scores["core"] == pytest.approx(sum(centred) / 3)
    assert result.tasks[2].cut == 12  # three shots are longer than this model sees
    assert "the folder has 3 tasks, CORE has 22" in result.notes


def test_a_tasks_alphabet_may_lack(characters: Scorer, bundle: Path) -> None:
    path = bundle / "eval_data" / "commonsense" / "copa.jsonl"
    row = {"query": "ß", "choices": ["a", "b"], "gold": 0}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    result = score_core(characters, bundle)
    assert result.tasks[0].accuracy is None and sum(result.tasks[0].left_out.values()) == 1
    assert any("1 tasks have no example" in note for note in result.notes)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("core.yaml", "icl_tasks: [1]", "damaged"),
        ("core.yaml", "- a\n- b", "damaged"),
        ("core.yaml", "icl_tasks: !!python/object/apply:os.getcwd []", "damaged"),
        ("core.yaml", CORE.replace("schema", "essay"), "unknown type 'essay'"),
        ("core.yaml", CORE.replace("commonsense/copa.jsonl", "../../copa.jsonl"), "copa"),
        ("eval_meta_data.csv", "Eval Task,Random baseline\ncopa,x\n", "damaged"),
        ("eval_meta_data.csv", "Eval Task,Random baseline\n", "damaged"),
        ("eval_data/commonsense/copa.jsonl", '{"query": "a"}', "line 1: its choices"),
        ("eval_data/commonsense/copa.jsonl", '{"query": "a", "choices": ["b"], "gold": 1}', "gold"),
        ("eval_data/commonsense/copa.jsonl", "", "no examples"),
    ],
)
def test_a_damaged_bundle_is_refused(
    file: str, content: str, words: str, characters: Scorer, bundle: Path
) -> None:
    (bundle.parent / "copa.jsonl").write_text("{}", encoding="utf-8")
    (bundle / file).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        score_core(characters, bundle)


def test_a_missing_bundle_says_what_to_put_where(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARDLET_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"eval_bundle.zip.*cache.suites.core"):
        files.folder_of("core", None)
    with pytest.raises(DataError, match="is not a folder"):
        files.folder_of("core", str(tmp_path / "none"))
    (tmp_path / "cache" / "suites").mkdir(parents=True)
    bundle.rename(tmp_path / "cache" / "suites" / "core")
    assert len(read_tasks(files.folder_of("core", None))) == 3
    with pytest.raises(DataError, match=r"core.yaml is missing. Unpack"):
        read_tasks(tmp_path)
