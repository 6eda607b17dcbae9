"""What a look into a dataset shows: its documents, its prompts, how much of it counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bardlet import cli
from bardlet.data.dataset import samples
from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.errors import DataError

RECORDS = [{"ask": f"what is {i} and {i}?", "say": f"\u4e2d It is {2 * i}."} for i in range(200)]
LONG = "\u4e2d\U0001f600" * 200


def made(
    folder: Path, records: list[dict[str, str]], shard_tokens: int = 333, **keys: str
) -> Dataset:  # fmt: skip
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return prepare(
        sources.find([str(path)]), folder / "d", tokenizer="byte", shard_tokens=shard_tokens,
        split="document", reading=Reading(**keys),
    )  # fmt: skip


def test_prompts_stand_before_their_texts(tmp_path: Path) -> None:
    dataset = made(tmp_path, RECORDS, prompt_key="ask", response_key="say")
    pairs = [(record["ask"] + "\n", record["say"]) for record in RECORDS]
    for split in ("train", "val"):
        found = samples.samples(dataset, split)
        places = [pairs.index((one["prompt"], one["text"])) for one in found]
        assert len(found) == 3 and places == sorted(places)
        entry = dataset.manifest["splits"][split]
        assert [one["document"] for one in found][::2] == [1, entry["documents"]]
        counted = sum(len(p[1].encode()) + 1 for p in pairs if p[0][:-1] in read(dataset, split))
        assert samples.counted(dataset.splits[split]) == counted


def read(dataset: Dataset, split: str) -> str:
    stream = dataset.splits[split]
    return dataset.tokenizer.decode(stream.read(0, len(stream)))


@pytest.mark.parametrize("shard_tokens", [100, 10**6])
def test_long_texts_are_shortened_between_characters(shard_tokens: int, tmp_path: Path) -> None:
    dataset = made(tmp_path, [{"text": f"{i}{LONG}"} for i in range(30)], shard_tokens)
    for one in samples.samples(dataset, "train"):
        assert one["text"].lstrip("0123456789").startswith(LONG[:50])
        assert one["text"].endswith("...") and len(one["text"]) == samples.WIDTH + 3


def test_inspect_shows_documents_and_what_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made(tmp_path, RECORDS, prompt_key="ask", response_key="say")
    assert cli.main(["inspect", str(dataset.folder)]) == 0
    shown = capsys.readouterr().out
    assert '    document 1: "what is ' in shown and '?\\n" -> "\u4e2d It is' in shown
    share = samples.counted(dataset.splits["train"]) / len(dataset.splits["train"])
    assert 0.3 < share < 0.6 and f", {share:.1%}, count in the loss" in shown
    assert cli.main(["inspect", str(dataset.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in dataset.manifest} == dataset.manifest
    assert found["samples"]["val"] == samples.samples(dataset, "val")


def test_a_text_is_one_document(dataset_folder: Path) -> None:
    dataset = Dataset(dataset_folder)
    [found] = samples.samples(dataset, "train")
    assert found == {"document": 1, "text": read(dataset, "train")[: samples.WIDTH] + "..."}
    assert samples.counted(dataset.splits["train"]) == len(dataset.splits["train"])


@pytest.mark.parametrize("name", ["../d/train-00000.docs.bin", "train-00000.bin", "none.bin"])
def test_borders_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    dataset = made(tmp_path, RECORDS, text_key="say")
    dataset.manifest["splits"]["train"]["shards"][0]["docs"]["file"] = name
    path = dataset.folder / "manifest.json"
    path.write_text(json.dumps(dataset.manifest), encoding="utf-8")
    with pytest.raises(DataError):
        samples.samples(Dataset(dataset.folder), "train")


def test_borders_that_lie_show_nothing_of_others(tmp_path: Path) -> None:
    dataset = made(tmp_path, RECORDS, 10**6, text_key="say")
    path = dataset.folder / "train-00000.docs.bin"
    raw = bytearray(path.read_bytes())
    raw[32:] = np.full(len(raw) // 8 - 4, 2**64 - 1, dtype="<u8").tobytes()
    path.write_bytes(raw)
    assert {one["text"] for one in samples.samples(dataset, "train")} == {""}
