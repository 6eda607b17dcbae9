"""Counts of a training text, against looking at every place of it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import CORPUS, PLAY, some_text, tiny_config

from bardlet import cli
from bardlet.analysis import counts
from bardlet.analysis.counts import BORDER, SplitText
from bardlet.analysis.evidence import evidence, ngram
from bardlet.analysis.suffix_array import suffix_array
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.tokenizers import bpe_training
from bardlet.data.tokenizers.base import Tokenizer, from_json
from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.errors import DataError
from bardlet.train import train

POEM = "床前明月光 疑是地上霜。\n举头望明月 低头思故乡。\n春眠不觉晓 处处闻啼鸟。\n"
TEXT = some_text(4000) + "\nHis, his; this_his h\u00efs 'his'\n" + POEM * 9 + some_text(500, seed=1)


def tokenizers() -> dict[str, Tokenizer]:
    bpe = from_json(bpe_training.train(TEXT, 330), "it")
    return {"char": CharTokenizer.train(TEXT), "byte": ByteTokenizer(), "bpe": bpe}


def split_of(text: str, tokenizer: Tokenizer) -> SplitText:
    ids = tokenizer.encode(text)
    half = len(ids) // 2
    shards = [np.asarray(part, dtype=np.uint16) for part in (ids[:half], ids[half:])]
    return SplitText(TokenStream(shards, tokenizer.vocab_size), tokenizer)


@pytest.fixture(scope="module", params=["char", "byte", "bpe"])
def indexed(request: pytest.FixtureRequest) -> SplitText:
    split = split_of(TEXT, tokenizers()[request.param])
    split.index()
    return split


def places_of(text: bytes, pattern: bytes) -> list[int]:
    return [i for i in range(len(text) - len(pattern) + 1) if text.startswith(pattern, i)]


def contexts(number: int) -> list[str]:
    """Parts of the text at random places, and as many with one character changed."""
    generator = np.random.default_rng(3)
    texts = []
    for i in range(number):
        start, size = generator.integers(len(TEXT) - 12), generator.integers(1, 12)
        part = TEXT[start : start + size]
        texts.append(part if i % 2 else part[:-1] + TEXT[generator.integers(len(TEXT))])
    return texts


@pytest.mark.parametrize("text", [b"", b"a", b"\0\xff\0", b"banana" * 9, b"a" * 99,
                                  bytes(range(256)), TEXT.encode()[:900]])  # fmt: skip
def test_suffixes_are_in_order(text: bytes) -> None:
    assert suffix_array(text).tolist() == sorted(range(len(text)), key=lambda i: text[i:])


def test_a_thousand_contexts_are_counted_as_a_search_counts_them(indexed: SplitText) -> None:
    text = TEXT.encode()
    assert indexed.text == text
    read = split_of(TEXT, CharTokenizer.train(TEXT))  # without an index
    absent = 0
    for i, context in enumerate(contexts(1000)):
        pattern = context.encode()
        at = indexed.positions(pattern)
        overlapping = len(re.findall(f"(?={re.escape(context)})", TEXT))
        assert len(at) == overlapping, context
        words = re.findall(rf"(?<!\w)(?={re.escape(context)}(?!\w))", TEXT)
        if re.fullmatch(r"\w(.*\w)?", context, re.DOTALL):
            assert len(indexed.whole_words(at, pattern)) == len(words), context
        absent += not overlapping
        if i % 20 == 0:
            assert sorted(at.tolist()) == places_of(text, pattern)
            assert read.positions(pattern).tolist() == sorted(at.tolist())
            following = Counter(TEXT[m.start() + len(context) :][:1] for m in
                                re.finditer(f"(?={re.escape(context)})", TEXT))  # fmt: skip
            assert indexed.next_characters(at, len(pattern)) == following
    assert 100 < absent < 900
    assert read.count(b"") == indexed.count(b"") == len(text)


def test_whole_words_end_where_letters_do() -> None:
    split = split_of(TEXT, CharTokenizer.train(TEXT))
    words = split.whole_words(split.positions(b"his"), b"his")
    assert len(words) == len(re.findall(r"\bhis\b", TEXT)) == 2
    assert not counts.has_words("明月") and not counts.has_words("his,")
    assert counts.has_words("his") and counts.has_words("h") and not counts.has_words("\n\n")


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_tokens_that_follow_are_those_of_the_text(kind: str) -> None:
    tokenizer = tokenizers()[kind]
    split, ids = split_of(TEXT, tokenizer), tokenizer.encode(TEXT).tolist()
    pieces = tokenizer.tokens()
    ends = np.cumsum([len(pieces[i]) for i in ids]).tolist()
    for context in ("the", "月", "question "):
        following = Counter(
            ids[n + 1] for n, end in enumerate(ends[:-1])
            if TEXT.encode()[:end].endswith(context.encode())
        )  # fmt: skip
        pattern = context.encode()
        tokens = split.next_tokens(split.positions(pattern), len(pattern))
        assert {i: tokens[i] for i in np.flatnonzero(tokens)} == following


def test_evidence_is_of_the_longest_end_that_stands_in_the_text(indexed: SplitText) -> None:
    for context in contexts(40):
        known_ids = {piece: i for i, piece in enumerate(indexed.pieces)}
        ids = [known_ids[bytes([byte])] for byte in ("zq " + context).encode()
               if bytes([byte]) in known_ids]  # fmt: skip
        text = b"".join(indexed.pieces[i] for i in ids).decode("utf-8", "ignore")
        known = evidence(indexed, ids=ids)
        longest = next(text[i:] for i in range(len(text) + 1) if text[i:] in TEXT)
        assert known["context"] == longest
        if longest:
            assert known["count"] == len(places_of(TEXT.encode(), longest.encode()))
            assert all(each["match"] == longest for each in known["snippets"])
        numbers = [each["count"] for each in known["next"]]
        assert numbers == sorted(numbers, reverse=True) and sum(numbers) <= known["count"]


def test_an_n_gram_table_counts_as_witten_and_bell_do() -> None:
    tokenizer = CharTokenizer.train(TEXT)
    split, context = split_of(TEXT, tokenizer), "be th"
    table = np.full(tokenizer.vocab_size, 1 / tokenizer.vocab_size)
    for size in range(len(context) + 1):
        following = Counter(re.findall(f"(?<={context[len(context) - size :]})(?s:.)", TEXT))
        kinds, total = len(following), sum(following.values())
        numbers = np.array([following[char] for char in tokenizer.chars])
        table = (numbers + kinds * table) / (total + kinds)
    ours = ngram(split, tokenizer.encode(context).tolist())
    assert np.allclose(ours, table, rtol=0, atol=1e-12)
    assert abs(ours.sum() - 1) < 1e-12
    assert ngram(split, []).argmax() == tokenizer.encode(" ")[0]


def test_nothing_is_counted_across_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = CharTokenizer("ab", ends=True)
    ids = np.array([0, 1, 2, 0, 1], dtype=np.uint16)
    split = SplitText(TokenStream([ids], 3), tokenizer)
    assert split.text == b"ab" + BORDER + b"ab"
    assert (split.count(b"ab"), split.count(b"ba"), split.count(b"<")) == (2, 0, 0)
    assert split.snippet(3, 1) == {"place": 3, "before": "", "match": "a", "after": "b"}
    assert split.next_characters(split.positions(b"b"), 1) == {"": 2}
    monkeypatch.setattr(counts, "MAX_TEXT", 4)
    with pytest.raises(DataError, match="larger than"):
        SplitText(TokenStream([ids], 3), tokenizer)
    monkeypatch.setattr(counts, "MAX_INDEXED", 4)
    split.index()
    assert split.suffixes is None


@pytest.mark.skipif(not CORPUS.is_file(), reason="needs tiny Shakespeare")
def test_his_in_tiny_shakespeare() -> None:
    """As its author searched: 1,422 as a whole word, 2,963 as letters, in under 5 ms."""
    text = CORPUS.read_text(encoding="utf-8")
    split = split_of(text, CharTokenizer.train(text))
    split.index()
    took = []
    for _ in range(5):
        began = time.thread_time()
        at = split.positions(b"his")
        words = split.whole_words(at, b"his")
        took.append(time.thread_time() - began)
        assert (len(at), len(words)) == (2963, 1422)
    assert min(took) < 0.005


# --- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset data/play, and out/a trained on it."""
    folder = tmp_path_factory.mktemp("counted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("play.txt").write_text(PLAY, encoding="utf-8")
        assert cli.main(["prepare", "play.txt"]) == 0
        train(tiny_config(folder / "data" / "play", folder / "out" / "a", max_iters=1))
    return folder


def test_the_command_counts_a_dataset_or_a_runs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    for name in ("play", "data/play", "out/a"):
        assert cli.main(["count", name, "peak", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        cut = int(len(PLAY) * 0.9)
        assert told["characters"] == PLAY[:cut].count("peak") + PLAY[cut:].count("peak")
        assert told["whole_word"] == 0
        assert told["follows"][0] == {"character": ".", "count": 80, "share": 80 / 120}
    assert cli.main(["count", "play", "speak", "--split=val"]) == 0
    out = capsys.readouterr().out
    assert out.startswith('"speak" in data/play: 8 times, 8 of them as a whole word')
    assert "val byte" in out


@pytest.mark.parametrize("args", [["nowhere", "a"], ["play", ""], ["play", "a", "--split=test"],
                                  ["play", "a", "--places=-1"], ["out/gone", "a"]])  # fmt: skip
def test_what_cannot_be_counted_says_so(
    args: list[str], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    assert cli.main(["count", *args]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "Traceback" not in err
