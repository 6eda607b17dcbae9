"""The compiled encoder of byte-level BPE: its ids are the library's and tiktoken's."""

from __future__ import annotations

import itertools
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import awkward, some_text

from bardlet.data.tokenizers import bpe, bpe_encoding, bpe_training, patterns, pretrained
from bardlet.data.tokenizers.base import from_json
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.data.tokenizers.bpe_encoding import Encoder
from bardlet.data.tokenizers.byte_tokens import ALPHABET
from bardlet.data.tokenizers.patterns import CL100K, GPT2, LLAMA3, LOWER, O200K, UPPER

pytestmark = pytest.mark.skipif(not bpe_encoding.core(), reason="there is no core")
LEARNT = (
    "it's we'll they've I'm you'd we're DON'T 'sound ''s 's\n's 5's 12345 1,000.50 (x)[y]{z} "
    "\u4e2d\u6587\u5b57\u7b26 \u4e2d\u6587 \u4f60\u597d\uff0c\u4e16\u754c\u3002 "
    "\u0441\u043b\u043e\u0432\u043e \u0441\u043b\u043e\u0432\u0430\u043c\u0438 e\u0301t\u00e9 "
    "def f(x):\n\treturn  x\r\n\n   y \u3000\u3000z\n"
) * 4 + some_text(6000)
SCRIPTS = (0x7F, 0x250, 0x600, 0x1000, 0x3100, 0xA000, 0x10000, 0x20000, 0x110000)


def wild(seed: int, count: int) -> str:
    """Characters of all planes, in runs of one script, with blanks and quotes between."""
    draw = random.Random(seed)
    chars: list[str] = []
    while len(chars) < count:
        limit = draw.choice(SCRIPTS)
        for _ in range(draw.choice((1, 2, 9, 40))):
            point = draw.randrange(limit)
            chars.append(
                draw.choice((" ", "\n", "'", "'s")) if 0xD800 <= point < 0xE000 else chr(point)
            )
        chars.append(draw.choice(("", " ", "  ", "\n", " \n", "'ll", "9")))
    return "".join(chars)


@pytest.fixture(scope="module")
def by_pattern() -> dict[str, BPETokenizer]:
    """One vocabulary with each of the patterns."""
    base = json.loads(bpe_training.train(LEARNT, 1500))
    made: dict[str, BPETokenizer] = {}
    for name, pattern in {"gpt2": GPT2, "cl100k": CL100K, "llama3": LLAMA3, "o200k": O200K}.items():
        base["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        tokenizer = from_json(json.dumps(base), name)
        assert isinstance(tokenizer, BPETokenizer) and tokenizer.pattern == pattern
        made[name] = tokenizer
    return made


def theirs(tokenizer: BPETokenizer) -> Any:
    """tiktoken's encoder of the vocabulary."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {p: i for i, p in enumerate(tokenizer.tokens()) if i != tokenizer.end_of_text}
    pattern = tokenizer.pattern
    return tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def core_ids(tokenizer: BPETokenizer, text: str) -> list[int]:
    assert tokenizer.quick is not None
    return tokenizer.quick.encode(text.encode()).tolist()


def library_ids(tokenizer: BPETokenizer, text: str) -> list[int]:
    return tokenizer.library.encode(text, add_special_tokens=False).ids


def test_every_character_is_what_tiktoken_takes_it_for() -> None:
    tiktoken = pytest.importorskip("tiktoken")
    library = bpe_encoding.core()
    assert library is not None
    classes = np.ctypeslib.as_array(library.bardlet_classes(), (0x110000,))
    whole = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    bytes_alone = {bytes([i]): i for i in range(256)}
    for bit, kind in {1: UPPER, 2: LOWER, 4: r"\p{N}", 8: r"\s", 16: r"\p{M}"}.items():
        finder = tiktoken.Encoding(
            "x", pat_str=f"{kind}+", mergeable_ranks=bytes_alone, special_tokens={}
        )
        members = finder.decode_bytes(finder.encode_ordinary(whole)).decode()
        assert np.flatnonzero(classes & bit).tolist() == [ord(char) for char in members], kind
    assert not classes[0xD800:0xE000].any()


@settings(max_examples=150)
@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.text(" \n\r\ta'sSl1.\u3000\u0301\u4e2d\u017f\u0434", max_size=200)
    | st.lists(st.one_of(awkward, st.just(" the cat, it's"))).map("".join)
)
@example("x" * 63 + " \u3000" + "y'")
@example("a" * 61 + "'s" + "b" * 70 + "'ll'")
def test_ids_are_the_librarys(by_pattern: dict[str, BPETokenizer], text: str) -> None:
    for name, tokenizer in by_pattern.items():
        assert core_ids(tokenizer, text) == library_ids(tokenizer, text), name


def test_ids_of_all_planes_and_of_random_bytes_are_tiktokens(
    by_pattern: dict[str, BPETokenizer],
) -> None:
    draw = random.Random(5)
    texts = [wild(1, 20_000), draw.randbytes(20_000).decode("utf-8", "replace"),
             draw.randbytes(20_000).decode("latin-1"), LEARNT]  # fmt: skip
    texts += [wild(seed, 150) for seed in range(2, 200)]
    for name, tokenizer in by_pattern.items():
        oracle = theirs(tokenizer)
        for text in texts:
            assert core_ids(tokenizer, text) == oracle.encode_ordinary(text), (name, text[:200])
            assert core_ids(tokenizer, text) == oracle.encode_ordinary(text), "from its memory"


def test_ids_of_words_of_three_byte_characters_are_tiktokens(
    by_pattern: dict[str, BPETokenizer],
) -> None:
    """Whether tokens span them, which some do here, or not; also from its memory."""
    tokens = by_pattern["gpt2"].tokens()
    assert any(len(token) > 3 and token[0] >= 0xE4 for token in tokens)
    draw = random.Random(6)
    chars = "\u4e2d\u6587\u5b57\u7b26\u4f60\u597d\u4e16\u0e01\u0e02\ud55c\u6625" + "a\u0441 \uff0c"
    words = ["".join(draw.choices(chars, k=draw.randint(1, 12))) for _ in range(600)]
    texts = ["\n".join(words[at : at + 20]) for at in range(0, len(words), 20)]
    for name, tokenizer in by_pattern.items():
        oracle = theirs(tokenizer)
        for text in texts + texts:
            assert core_ids(tokenizer, text) == oracle.encode_ordinary(text), (name, text)


@pytest.mark.parametrize("unit", ["a", "ab", "'", " ", "\n", "\u4e2d", "\u0430", "-=", "9"])
def test_ids_of_endless_words_are_tiktokens(unit: str, by_pattern: dict[str, BPETokenizer]) -> None:
    for name in ("gpt2", "o200k"):
        oracle = theirs(by_pattern[name])
        for size in (*range(1, 70), 127, 128, 200, 5000):
            text = unit * size
            assert core_ids(by_pattern[name], text) == oracle.encode_ordinary(text), (name, size)


def with_merges(base: BPETokenizer, pairs: list[tuple[str, str]]) -> BPETokenizer:
    """A tokenizer as `base` is, with these merges of bytes in `ALPHABET`."""
    document = json.loads(base.to_json())
    names = [*ALPHABET, *dict.fromkeys(a + b for a, b in pairs)]
    document["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    document["model"]["merges"] = [f"{a} {b}" for a, b in pairs]
    document["added_tokens"] = []
    tokenizer = from_json(json.dumps(document), "it")
    assert isinstance(tokenizer, BPETokenizer)
    return tokenizer


def test_words_end_where_the_patterns_say(by_pattern: dict[str, BPETokenizer]) -> None:
    """In a vocabulary where any two bytes are a token, so that each border shows in the ids."""
    kinds = [
        "ab\u00e9\u0434\u4e2d\U00010348", "1\u00b2\u0663\u2460\U0001d7d8", " \n\u00a0\u3000\u2028",
        ".'-\u3002\u0301\U0001f600", "s",
    ]  # fmt: skip
    alphabet = [ALPHABET[b] for b in sorted(set("".join(kinds).encode()))]
    pairs = [(a, b) for a in alphabet for b in alphabet]
    draw = random.Random(8)
    draw.shuffle(pairs)
    runs = [
        "".join(draw.choices(draw.choice(kinds), k=draw.choice((1, 1, 2, 5)))) for _ in range(9000)
    ]
    for name, tokenizer in by_pattern.items():
        split = with_merges(tokenizer, pairs)
        for at in range(0, len(runs), 300):
            text = "".join(runs[at : at + 300])
            assert core_ids(split, text) == library_ids(split, text), (name, text)


def test_long_words_that_begin_alike_are_told_apart(by_pattern: dict[str, BPETokenizer]) -> None:
    """Enough of them, of few enough tokens, for some to have one place in the core's memory."""
    tokenizer = by_pattern["gpt2"]
    longest = max((token for token in tokenizer.tokens() if token.isalpha()), key=len).decode()
    start = longest * (100 // len(longest))
    words = [start + "".join(end) for end in itertools.product("abcdefghijkl", repeat=3)]
    text = " ".join(words)
    assert len(start) > 70 and len(library_ids(tokenizer, words[0])) < 31
    assert core_ids(tokenizer, text) == library_ids(tokenizer, text)


def test_of_a_pair_that_is_merged_twice_the_last_counts(
    by_pattern: dict[str, BPETokenizer],
) -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "b"), ("ab", "c"), ("b", "c")]
    twice = with_merges(by_pattern["gpt2"], pairs)
    text = "abc abcabc bcab caabbc" * 3
    assert twice.quick is not None
    assert core_ids(twice, text) == library_ids(twice, text)
    assert core_ids(twice, text) != core_ids(with_merges(twice, pairs[:3]), text)


def test_a_long_text_is_encoded_in_parts_like_the_librarys(
    by_pattern: dict[str, BPETokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a word is cut, since it is longer than any."""
    monkeypatch.setattr(patterns, "PART", 300)
    monkeypatch.setattr(patterns, "LONGEST", 100)
    for tokenizer in by_pattern.values():
        text = wild(7, 3000) + "z" * 1000 + LEARNT
        monkeypatch.setattr(bpe, "FAST", 1 << 40)
        slow = tokenizer.encode(text).tolist()
        monkeypatch.setattr(bpe, "FAST", 0)
        assert tokenizer.encode(text).tolist() == slow


def test_ids_come_as_small_as_they_go(by_pattern: dict[str, BPETokenizer]) -> None:
    tokenizer = by_pattern["gpt2"]
    model, text = tokenizer.document["model"], wild(3, 2000)
    assert tokenizer.quick is not None and tokenizer.quick.dtype == np.uint16
    wide = Encoder(GPT2, model, np.uint32).encode(text.encode())
    assert wide.dtype == np.uint32 and wide.tolist() == library_ids(tokenizer, text)
    model = {**model, "vocab": {**model["vocab"], "\u0120": 70_000}}  # an id beyond two bytes
    assert 70_000 in Encoder(GPT2, model, np.uint32).encode(b"a  b ", [4, 1]).tolist()


def test_words_that_are_tokens_are_not_merged_where_a_file_says_so(
    by_pattern: dict[str, BPETokenizer],
) -> None:
    document = json.loads(by_pattern["gpt2"].to_json())
    document["model"]["vocab"] |= {"zq": 1500, "zqxjkvzqxjkvzqxjkv": 1501, "\u0120zq": 1502}
    document["model"]["ignore_merges"] = True
    tokenizer = from_json(json.dumps(document), "it")
    assert isinstance(tokenizer, BPETokenizer)
    for text in ("zq zq zqx zqxjkvzqxjkvzqxjkv zqxjkvzqxjkvzqxjkvz", LEARNT, wild(4, 2000)):
        assert core_ids(tokenizer, text) == library_ids(tokenizer, text)
    assert 1500 in core_ids(tokenizer, "zq") and 1501 in core_ids(tokenizer, "zqxjkv" * 3)


@pytest.mark.parametrize(
    "changes",
    [{"end_of_word_suffix": "</w>"}, {"continuing_subword_prefix": "##"},
     {"vocab": {"a": 0}, "merges": []}],
)  # fmt: skip
def test_what_the_core_does_not_run_is_left_to_the_library(
    changes: dict[str, Any], by_pattern: dict[str, BPETokenizer]
) -> None:
    model = {**by_pattern["gpt2"].document["model"], **changes}
    with pytest.raises(OSError, match="does not run"):
        Encoder(GPT2, model, np.uint16)


def test_threads_share_an_encoder(by_pattern: dict[str, BPETokenizer]) -> None:
    quick = by_pattern["o200k"].quick
    assert quick is not None
    raws = [wild(seed, 4000).encode() for seed in range(8)]
    alone = [quick.encode(raw).tolist() for raw in raws]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert [ids.tolist() for ids in pool.map(lambda raw: quick.encode(raw), raws)] == alone


@pytest.mark.slow
def test_more_words_than_are_remembered_and_published_vocabularies_are_tiktokens() -> None:
    text = " ".join(map(str, range(900_000))) + some_text(1 << 20)
    try:
        tokenizer = from_json(pretrained.gpt2(lambda line: None), "gpt2")
    except Exception as error:
        pytest.skip(str(error))
    assert isinstance(tokenizer, BPETokenizer)
    oracle = theirs(tokenizer)
    for _ in range(2):
        assert core_ids(tokenizer, text) == oracle.encode_ordinary(text)


SOME = [*map(str.encode, "a<|/e\n\0\r\u00e9\u4e2d\U0001f600 b"), b"0" * 15]
BAD = [b"\xed\xa0\x80", b"\xe0\x80\x80", b"\xf4\x90\x80\x80", b"\xc1\x81", b"\xf0\x80\x80\x80",
       b"\xff", b"\xe4\xb8"]  # fmt: skip


def is_plain(raw: bytes) -> int:
    """What `plain_characters` returns, by its description."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return -1
    marked = re.search(r"^<([|/e]|\Z)", text, re.MULTILINE)
    return -1 if marked or "\0" in text or "\r" in text else len(text)


@settings(max_examples=150)
@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(str.encode)
    | st.lists(st.sampled_from([*SOME, *BAD]), max_size=40).map(b"".join)
)  # fmt: skip
@example(b"x" * 15 + b"\n" + b"<|" + b"x" * 40)
@example(b"x" * 31 + b"<")
@example(b"x" * 31 + b"\n<")
@example("\u4e2d".encode() * 9 + b"\n</s>\n")
def test_text_that_needs_no_closer_look_is_told(raw: bytes) -> None:
    assert bpe_encoding.plain_characters(raw) == is_plain(raw)
    for at in range(0, len(raw), 3):  # cut anywhere
        assert bpe_encoding.plain_characters(raw[:at]) == is_plain(raw[:at])


EDGES = [*BAD, b"\xed\x9f\xbf", b"\xe0\xa0\x80", b"\xf4\x8f\xbf\xbf", b"\xf0\x90\x80\x80",
         b"\xc2\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xc3", b"\n<|", b"\n<a", b"a<|", b"\0",
         b"\r"]  # fmt: skip


@pytest.mark.parametrize("around", ["x", "\u4e2d", "\U0001f600", "\u00e9\n"])
def test_text_that_needs_no_closer_look_is_told_wherever_it_lies(around: str) -> None:
    for edge in EDGES:
        for size in range(20):
            raw = (around * size).encode() + edge + (around * (20 - size)).encode()
            assert bpe_encoding.plain_characters(raw) == is_plain(raw), raw
