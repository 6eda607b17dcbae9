"""The sample that a vocabulary is trained on."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from corpora import made

from bardlet.data.prepare import options, survey, units
from bardlet.data.text import sources
from bardlet.data.tokenizers import factory


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.usefixtures("small_units")
def test_a_vocabulary_is_trained_on_a_bounded_part_of_the_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = ("\u4e2d\u6587\u3002" * 40_000).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    most, taken = 60_000, []
    monkeypatch.setattr(survey, "SAMPLE", most)
    train = factory.bpe_training.train
    monkeypatch.setattr(
        factory.bpe_training, "train", lambda text, size: taken.append(text) or train(text, size)
    )
    made(tmp_path / "d", tmp_path / name, tokenizer="bpe", vocab_size=259)
    [text] = taken
    assert most / 2 < len(text.encode()) < most + 5 * units.UNIT


@pytest.mark.parametrize("size", [200_000, 210_000, 390_000, 1_000_000])
@pytest.mark.usefixtures("small_units")
def test_a_sample_is_of_its_size_and_from_everywhere(size: int, tmp_path: Path) -> None:
    raw = b"".join(b"%06d \n" % i for i in range(size // 8))
    (tmp_path / "a.txt").write_bytes(raw)
    most = 200_000
    text = survey.text_of(sources.find([str(tmp_path / "a.txt")]), options.Options(), most, print)
    assert most <= len(text) <= min(most + 3 * units.UNIT, size)
    places = [int(place) for place in text.split()]
    gaps = np.diff([0, *places, size // 8])
    assert gaps.min() >= 0 and gaps.max() * 8 < (size / most + 3) * units.UNIT


@pytest.mark.usefixtures("small_units")
def test_a_sample_of_packed_texts_is_of_all_of_them(tmp_path: Path) -> None:
    """Their text is longer than they are, and the first alone would be enough."""
    for name, word in (("a", "one"), ("b", "two"), ("c", "three")):
        raw = "".join(f'{{"text": "{word} {i}"}}\n' for i in range(20_000)).encode()
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(raw))
    found = sources.find([str(tmp_path)])
    assert sum(given.bytes for given in found.inputs) > 60_000
    text = survey.text_of(found, options.Options(), 60_000, print)
    assert 60_000 <= len(text) < 60_000 + 3 * units.UNIT
    shares = [text.count(word) / text.count("\n") for word in ("one", "two", "three")]
    assert min(shares) > 0.25


@pytest.mark.usefixtures("small_units")
def test_a_line_end_stands_between_documents_alone(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("word " * 5000 + "end", encoding="utf-8")
    found = sources.find([str(tmp_path)])
    text = survey.text_of(found, options.Options(), 1 << 20, print)
    assert text == ("word " * 5000 + "end\n") * 2
