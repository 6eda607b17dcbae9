"""Pairs of a dataset: what prepare writes of them, and batches of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import first_seen
from bardlet.data.dataset.pairs import PairBatches, Pairs
from bardlet.data.dataset.samples import questions
from bardlet.data.prepare.merge import merge
from bardlet.errors import DataError


def pair(i: int) -> dict[str, Any]:
    """A conversation whose first answer is not what is preferred, though it is an answer."""
    asked = [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": "Eh?"},
             {"role": "user", "content": "That."}]  # fmt: skip
    return {
        "prompt": asked, "chosen": [{"role": "assistant", "content": f"It is {i}."}],
        "rejected": [{"role": "assistant", "content": "I do not say. " * (1 + i % 3)}],
    }  # fmt: skip


RECORDS = [pair(i) for i in range(40)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pairs")
    bad = [{**pair(1), "rejected": None}, {**pair(2), "rejected": pair(2)["chosen"]}]
    lines = "\n".join(json.dumps(record) for record in [*RECORDS, *bad])
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    options = ["--tokenizer=byte", "--chat_template=llama3", f"--out={folder / 'data'}"]
    assert cli.main(["prepare", str(folder / "a.jsonl"), *options]) == 0
    return Dataset(folder / "data")


def test_the_manifest_says_that_they_are_pairs(dataset: Dataset) -> None:
    assert dataset.preferences and not dataset.pairs and dataset.chat_template
    counts = {reason: entry["number"] for reason, entry in dataset.manifest["counts"].items()}
    assert counts == {"unpaired": 1, "equal_answers": 1}
    documents = [dataset.manifest["splits"][split]["documents"] for split in dataset.splits]
    assert sum(documents) == 80 and not any(count % 2 for count in documents)


def test_ids_and_masks_are_those_of_transformers(dataset: Dataset) -> None:
    transformers = pytest.importorskip("transformers")
    import tokenizers

    library = tokenizers.Tokenizer.from_str(dataset.tokenizer.to_json())
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=library)
    theirs.chat_template = dataset.chat_template
    wanted = {}
    for record in RECORDS:
        prompt = theirs.apply_chat_template(
            record["prompt"], tokenize=True, return_dict=True, add_generation_prompt=True
        )
        sides = []
        for side in ("chosen", "rejected"):
            made = theirs.apply_chat_template(
                record["prompt"] + record[side], tokenize=True, return_dict=True,
                return_assistant_tokens_mask=True,
            )  # fmt: skip
            before = len(prompt["input_ids"])
            mask = [0] * before + made["assistant_masks"][before:]
            sides.append((made["input_ids"], mask))
        wanted[tuple(sides[0][0])] = sides
    for split in dataset.splits:
        pairs = Pairs(dataset, split, 1000)
        for (first, second), sizes in zip(pairs.starts.tolist(), pairs.sizes.tolist(), strict=True):
            ours = [
                (pairs.stream.read(at, size), pairs.stream.counts(at, size))
                for at, size in zip((first, second), sizes, strict=True)
            ]
            expected = wanted.pop(tuple(ours[0][0].tolist()))
            for (ids, counts), (their_ids, mask) in zip(ours, expected, strict=True):
                assert ids.tolist() == their_ids and counts.astype(int).tolist() == mask
                assert counts.any()
    assert not wanted


def test_a_batch_has_both_answers_and_nothing_after_them(dataset: Dataset) -> None:
    pairs = Pairs(dataset, "train", 200)
    idx, targets = pairs.read([0, 1])
    assert idx.shape == targets.shape and idx.shape[:2] == (2, 2) and idx.size(2) % 16 == 0
    for row in range(2):
        for side in range(2):
            size = int(pairs.sizes[row, side]) - 1
            start = int(pairs.starts[row, side])
            assert idx[row, side, :size].tolist() == pairs.stream.read(start, size).tolist()
            counts = pairs.stream.counts(start + 1, size)
            shown = targets[row, side]
            assert ((shown >= 0).numpy() == np.pad(counts, (0, len(shown) - size))).all()
    first = first_seen(idx, dataset.end_of_text)
    assert first is not None and torch.equal(first, torch.zeros_like(idx))  # one text in each


def test_each_pair_asks_one_question(dataset: Dataset) -> None:
    asked = questions(dataset, 3, 1000)
    assert asked and len({*asked}) == len(asked)


def test_an_epoch_takes_each_pair_once_whatever_the_processes(dataset: Dataset) -> None:
    pairs = Pairs(dataset, "train", 200)
    count = len(pairs)
    taken = PairBatches(pairs, batch_size=4, seed=1)
    places = [taken.number(place) for place in range(2 * count)]
    assert sorted(places[:count]) == sorted(places[count:]) == list(range(count))
    assert places[:count] != places[count:]
    shares = [PairBatches(pairs, batch_size=4, seed=1, rank=r, world_size=2) for r in (0, 1)]
    ours = [[share.number(place) for place in share.places(3)] for share in shares]
    assert sorted(ours[0] + ours[1]) == sorted(places[12:16])


def test_pairs_beyond_the_context_are_left_out(dataset: Dataset) -> None:
    whole = Pairs(dataset, "train", 1000)
    longest = int(whole.sizes.max())
    assert not Pairs(dataset, "train", longest - 1).left_out
    assert Pairs(dataset, "train", longest - 2).left_out == int((whole.sizes == longest).sum())
    with pytest.raises(DataError, match=r"no pair of the train split .* fits block_size=8"):
        Pairs(dataset, "train", 8)


def test_parts_that_are_merged_are_pairs_still(dataset: Dataset, tmp_path: Path) -> None:
    source = dataset.folder.parent / "a.jsonl"
    options = ["--tokenizer=byte", "--chat_template=llama3"]
    parts = [tmp_path / f"p{i}" for i in (1, 2)]
    for i, part in enumerate(parts, start=1):
        assert cli.main(["prepare", str(source), *options, f"--part={i}/2", f"--out={part}"]) == 0
    merged = merge(parts, tmp_path / "whole")
    assert merged.preferences and merged.hash == dataset.hash
