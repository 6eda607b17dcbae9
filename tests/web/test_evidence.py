"""Counts of the training text in the browser, against bardlet/analysis and a naive search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engine_page import binary, engine_page
from support import some_text

from bardlet.analysis.counts import SplitText
from bardlet.analysis.evidence import evidence
from bardlet.analysis.suffix_array import suffix_array
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.tokenizers.base import ByteTokenizer, CharTokenizer, Tokenizer, from_json
from bardlet.data.tokenizers.bpe_training import train
from bardlet.interop.html.tokenizer import described

MIXED = (
    some_text(1500) + "\nHis name, his-tory: THIS his. naïve café his_x 春江潮水连海平 春江\n"
    + "日本 ひらがな his\ttabs</script>\ufffd\n" + some_text(700, seed=1) + " his"
)  # fmt: skip
COUNT = """([described, splits, contexts]) => {
  const read = (text) => new Uint16Array(lab.bytes(text).buffer);
  const counts = new lab.Evidence(splits.map(read), lab.tokenizer(described));
  return contexts.map((ids) => counts.of(ids));
}"""


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    with engine_page(browser) as one:
        yield one


@pytest.mark.parametrize(
    "text", [b"", b"a", b"aaaaaaaa", b"abracadabra", b"\xff\x00\xff\x00", bytes(range(256)) * 3]
)
def test_suffixes_are_in_order(tab: Any, text: bytes) -> None:
    told = tab.evaluate("(raw) => [...lab.suffixArray(lab.bytes(raw))]", binary(text))
    assert told == sorted(range(len(text)), key=lambda at: text[at:])


def test_suffixes_of_random_texts_are_ours(tab: Any) -> None:
    generator = np.random.default_rng(0)
    for kinds in (2, 4, 256):
        text = generator.integers(0, kinds, 3000).astype(np.uint8).tobytes() * 2
        told = tab.evaluate("(raw) => [...lab.suffixArray(lab.bytes(raw))]", binary(text))
        assert told == suffix_array(text).tolist()


KINDS: dict[str, Any] = {
    "char": lambda: CharTokenizer("".join(sorted(set(MIXED))), ends=True),
    "byte": ByteTokenizer,
    "bpe": lambda: from_json(train(MIXED, vocab_size=330), "a test"),
}


def split(tokenizer: Tokenizer, ids: list[int]) -> SplitText:
    """A split's text with its index."""
    array = np.array(ids, dtype=np.uint16)
    made = SplitText(TokenStream([array], tokenizer.vocab_size), tokenizer)
    made.index()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_the_server(tab: Any, kind: str) -> None:
    tokenizer = KINDS[kind]()
    half = len(MIXED) * 2 // 3
    end = tokenizer.end_of_text
    texts = [tokenizer.encode(text).tolist() for text in (MIXED[:half], MIXED[half:])]
    texts[0][len(texts[0]) // 2 : 0] = [end]  # two documents
    generator = np.random.default_rng(0)
    contexts = [
        tokenizer.encode(text).tolist() for text in ("his", "hi", " his", "春", "This", "é")
    ]
    for _ in range(60):
        at, size = generator.integers(0, len(texts[0]) - 12), generator.integers(1, 12)
        contexts.append(texts[0][at : at + size])
        contexts.append(generator.integers(0, tokenizer.vocab_size, size % 4).tolist())
    raw = [binary(np.array(ids, dtype=np.uint16)) for ids in texts]
    told = tab.evaluate(COUNT, [described(tokenizer), raw, contexts])
    splits = [split(tokenizer, ids) for ids in texts]
    for ids, theirs in zip(contexts, told, strict=True):
        ours = evidence(*splits, ids=ids)
        table, same = dict(map(tuple, theirs.pop("ngram"))), dict(map(tuple, ours.pop("ngram")))
        assert table == pytest.approx(same, rel=1e-9)
        assert theirs == ours


def test_counts_are_those_of_a_naive_search(tab: Any) -> None:
    tokenizer = KINDS["char"]()
    text = MIXED.encode()
    contexts = ["his", "the", "question", "春江", "naïve", " ", "zzz", "e that"]
    contexts = [text for text in contexts if set(text) <= set(tokenizer.chars)]
    ids = [tokenizer.encode(context).tolist() for context in contexts]
    raw = [binary(tokenizer.encode(MIXED).astype(np.uint16))]
    for context, told in zip(
        contexts, tab.evaluate(COUNT, [described(tokenizer), raw, ids]), strict=True
    ):
        places = [i for i in range(len(text)) if text.startswith(context.encode(), i)]
        assert (told["context"], told["count"]) == (context, len(places))
        size = len(context)
        begins = [i for i in range(len(MIXED)) if MIXED.startswith(context, i)]
        follows = [MIXED[i + size] for i in begins if i + size < len(MIXED)]
        assert sum(one["count"] for one in told["next"]) == len(follows)
        for one in told["next"]:
            assert one["count"] == follows.count(tokenizer.decode([one["id"]]))
