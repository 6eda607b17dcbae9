"""Byte-level BPE: ids as tiktoken's, merges as two other trainers', any text there and back."""

from __future__ import annotations

import inspect
import json
import random
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import CORPUS, any_text, awkward, some_text

from bardlet.data.tokenizers import bpe, bpe_encoding, bpe_training, patterns, pretrained
from bardlet.data.tokenizers.base import Tokenizer, fingerprint, from_json
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.data.tokenizers.byte_tokens import ALPHABET, BYTE_OF, spell
from bardlet.errors import DataError, UsageError
from bardlet.system import native_library

TEXT = (
    "Hello, world!  It's 1234567 o'clock\r\n\n\tWE'LL see \ufb01x\u00a0x\u00b2 <|endoftext|>\n"
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d"
    "\u0924\u0947 \u4e16\u754c\uff0c\u4f60\u597d\u3002 e\u0301 \U0001f468\u200d\U0001f469 \u200b\n"
    "def f(x):\n\treturn {'a': x**2}  # 0xFF\n \x00\x1c\x85\u2028\u3000 \n  "
)
LEARNT = TEXT * 3 + some_text(4000) + inspect.getsource(random)[:20_000]
COMPILED = bool(bpe_training.core() and bpe_encoding.core())
needs_core = pytest.mark.skipif(not COMPILED, reason="there is no core")
NUMBERS = "1 22 333,4444. 55555\n6 " * 9 + "\u0663\u0664 \u00b2, \u4e09\u3002 \u2167 1"


def noise(seed: int) -> str:
    """Random bytes, as far as they are text, between pieces of TEXT."""
    draw = random.Random(seed)
    raw = draw.randbytes(200).decode("utf-8", "replace")
    return "".join(draw.choices([*raw, *TEXT, "\n", " ", "  "], k=300))


SPACED = "that's x        return    y\n\n\n  z we'LL 12345,6 e\u0301 o'clock; the cat.\n"
SAMPLES = [TEXT, SPACED, "", " ", "\n\n  ", "a \n ", *(noise(seed) for seed in range(40))]


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    return from_json(bpe_training.train(LEARNT, 900), "own")


@pytest.fixture(scope="module")
def by_pattern(own: Tokenizer) -> dict[str, BPETokenizer]:
    """The tokens of `own` as tiktoken's files have them, ranks alone, with each of its patterns."""
    ranks = {piece: i for i, piece in enumerate(own.tokens()[:-1])}
    made: dict[str, BPETokenizer] = {}
    for name in ("r50k_base", "cl100k_base", "o200k_base"):
        text = pretrained.of_ranks(ranks, pretrained.ENCODINGS[name], {"<|endoftext|>": 899})
        found = from_json(text, name)
        assert isinstance(found, BPETokenizer)
        made[name] = found
    return made


def theirs(tokenizer: Tokenizer, pattern: str) -> Any:
    """tiktoken's encoder of a byte-level vocabulary."""
    tiktoken = pytest.importorskip("tiktoken")
    assert tokenizer.end_of_text is not None
    ranks = {p: i for i, p in enumerate(tokenizer.tokens()) if i != tokenizer.end_of_text}
    return tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def published(name: str) -> str:
    """The pattern of an encoding, read from tiktoken's own definition of it."""
    public = pytest.importorskip("tiktoken_ext.openai_public")
    if name == "r50k_base":
        return public.r50k_pat_str
    source = inspect.getsource(getattr(public, name))
    part = "\n".join(re.findall(r'r"""(.*?)"""', source))
    return part.replace("\n", "|")


def merges_file(tokenizer: Tokenizer) -> bytes:
    """A vocabulary as GPT-2's file of merges."""
    merges = json.loads(tokenizer.to_json())["model"]["merges"]
    return "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]).encode()


@pytest.fixture
def like_gpt2(own: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """The vocabulary that the product makes of a small file in GPT-2's format."""
    monkeypatch.setattr(pretrained, "gpt2_merges", lambda say: merges_file(own))
    return from_json(pretrained.gpt2(lambda line: None), "small")


def test_gpt2s_file_of_merges_gives_tiktokens_ids(like_gpt2: Tokenizer) -> None:
    assert like_gpt2.vocab_size == 900
    assert like_gpt2.tokens()[0] == b"!"  # GPT-2's order: printable bytes first
    oracle = theirs(like_gpt2, published("r50k_base"))
    for text in SAMPLES:
        assert like_gpt2.encode(text).tolist() == oracle.encode_ordinary(text)
        assert like_gpt2.decode(like_gpt2.encode(text)) == text
    assert like_gpt2.end_of_text == 899
    assert 899 not in like_gpt2.encode("<|endoftext|>")


def test_a_vocabulary_in_tiktokens_form_gives_its_ids(
    by_pattern: dict[str, BPETokenizer],
) -> None:
    raw = random.Random(1).randbytes(20_000)
    long = [raw.decode("utf-8", "replace"), raw.decode("latin-1")]
    for name, ours in by_pattern.items():
        oracle = theirs(ours, published(name))
        for text in [*SAMPLES, *long]:
            assert ours.encode(text).tolist() == oracle.encode_ordinary(text), text


def test_a_vocabulary_of_ranks_becomes_one_of_merges(
    own: Tokenizer, by_pattern: dict[str, BPETokenizer]
) -> None:
    """tiktoken's files have no merges: what is rebuilt from the ranks is the vocabulary itself."""
    rebuilt = by_pattern["o200k_base"]
    assert rebuilt.document["model"]["merges"] == json.loads(own.to_json())["model"]["merges"]
    assert fingerprint(rebuilt) == fingerprint(own)


@settings(max_examples=500)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]))
    | st.text(" \n\r\ta'sSl1.\u3000\u0301\u4e2d\u017f", max_size=9)
)
@example("\n\u3000")
def test_words_are_those_of_tiktokens_patterns(text: str) -> None:
    regex = pytest.importorskip("regex")
    library = pytest.importorskip("tokenizers")
    for name, pattern in pretrained.ENCODINGS.items():
        if name in ("p50k_base", "o200k_harmony"):  # patterns of the others
            continue
        split = library.pre_tokenizers.Split(library.Regex(pattern), "isolated")
        words = [word for word, _ in split.pre_tokenize_str(text)]
        assert words == regex.findall(published(name), text)


@pytest.mark.parametrize("size", range(1, 8))
def test_a_long_text_in_parts_has_the_ids_of_the_whole(
    size: int, by_pattern: dict[str, BPETokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "PART", size)
    for text in [*SAMPLES, NUMBERS]:
        assert "".join(patterns.parts(text)) == text
        for ours in by_pattern.values():
            whole = ours.library.encode(text, add_special_tokens=False).ids
            assert ours.encode(text).tolist() == whole
    assert len(list(patterns.parts(TEXT))) > 5
    assert len(list(patterns.parts(NUMBERS))) > 5, "also where there are no letters"


@pytest.mark.parametrize("quick", [False, pytest.param(True, marks=needs_core)])
def test_only_words_longer_than_the_longest_are_cut(
    own: Tokenizer, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(own, BPETokenizer)
    monkeypatch.setattr(bpe, "FAST", 0 if quick else 1 << 40)
    giant, before = "question" * 5, "to be, "
    text = before + giant + " or not. " + TEXT
    whole = own.encode(text).tolist()
    monkeypatch.setattr(patterns, "PART", len(before))
    monkeypatch.setattr(patterns, "LONGEST", len(giant))
    assert own.encode(text).tolist() == whole
    monkeypatch.setattr(patterns, "LONGEST", 21)
    start, *rest = patterns.parts(text)
    assert start == before + giant[:21] and "".join(rest) == giant[21:] + text[47:]
    cut = own.encode(text).tolist()
    assert cut == [*own.encode(start).tolist(), *own.encode("".join(rest)).tolist()] != whole


@given(st.lists(st.one_of(awkward, st.just(" the cat,"))), st.integers(1, 9))
def test_any_text_in_parts_has_the_ids_of_the_whole(
    by_pattern: dict[str, BPETokenizer], texts: list[str], size: int
) -> None:
    text = "".join(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patterns, "PART", size)
        assert "".join(patterns.parts(text)) == text
        cut = list(patterns.parts_of_utf8(text.encode()))
        assert b"".join(cut).decode() == text
        for tokenizer in by_pattern.values():
            whole = tokenizer.library.encode(text, add_special_tokens=False).ids
            assert tokenizer.encode(text).tolist() == whole


def test_texts_are_cut_at_all() -> None:
    assert len(list(patterns.parts("the cat, " * 50_000))) > 5
    for text in ("the cat, " * 50_000, "\u4e2d\u3002" * 50_000, "\u4e2d" * 100_000):
        cut = list(patterns.parts_of_utf8(text.encode()))
        assert len(cut) > 2 and b"".join(cut).decode() == text


@pytest.mark.parametrize("fast", [0, 1 << 40])
def test_half_a_pair_is_an_error_from_either_library(
    fast: int, own: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe, "FAST", fast)
    with pytest.raises(DataError, match=r"^position 70001 of the text is a lone surrogate"):
        own.encode("a," * 35_000 + "b\ud800")


@needs_core
def test_many_short_texts_are_encoded_by_the_core(
    own: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [own.encode(text).tolist() for text in SAMPLES]
    fresh = from_json(own.to_json(), "own")
    monkeypatch.setattr(bpe, "FAST", 1000)
    while isinstance(fresh, BPETokenizer) and fresh.done < 1000:
        fresh.encode(TEXT)
    monkeypatch.setattr(BPETokenizer, "ids_of", None)  # by the slow one
    assert [fresh.encode(text).tolist() for text in SAMPLES] == slow


def merged_by_counting(text: str, count: int) -> list[tuple[str, str]]:
    """BPE by its definition: count all pairs, merge the first of the commonest, and again.

    Of equals, the pair that comes first by the ids of the trainer: bytes by their letters' order.
    """
    regex = pytest.importorskip("regex")
    words = Counter(tuple(map(spell_byte, w.encode())) for w in regex.findall(patterns.O200K, text))
    order = {char: i for i, char in enumerate(sorted(BYTE_OF))}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        best = min(pairs, key=lambda p: (-pairs[p], order[p[0]], order[p[1]]))
        merges.append(best)
        order.setdefault("".join(best), len(order))
        words = Counter({joined(word, best): n for word, n in words.items()})
    return merges


def spell_byte(byte: int) -> str:
    return spell(bytes([byte]))


def joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(word):
        both = word[i : i + 2] == pair
        out.append("".join(pair) if both else word[i])
        i += 2 if both else 1
    return tuple(out)


def test_the_core_was_compiled_where_it_can_be() -> None:
    assert COMPILED or native_library.switched_off() or not shutil.which("c++")


@pytest.fixture(params=[pytest.param("core", marks=needs_core), "library"])
def learner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two that learn merges, in turn."""
    if request.param == "library":
        monkeypatch.setattr(bpe_training, "core", lambda: None)
    return request.param


def test_merges_are_those_of_the_definition(learner: str) -> None:
    assert bpe_training.learn(LEARNT, 150) == merged_by_counting(LEARNT, 150)


def library_merges(text: str, size: int) -> list[tuple[str, str]]:
    """Trained by the tokenizers library on the text in one piece."""
    library = pytest.importorskip("tokenizers")
    learner = library.Tokenizer(library.models.BPE())
    learner.pre_tokenizer = library.pre_tokenizers.Sequence([
        library.pre_tokenizers.Split(library.Regex(patterns.O200K), "isolated"),
        library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet)
    learner.train_from_iterator([text], trainer)
    return [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]


@pytest.mark.skipif(not CORPUS.is_file(), reason="the canonical text is not beside the checkout")
def test_merges_on_shakespeare_are_the_librarys(learner: str) -> None:
    text = CORPUS.read_text(encoding="utf-8")[:300_000]  # several parts
    assert len(list(patterns.parts(text))) > 3
    assert bpe_training.learn(text, 744) == library_merges(text, 1000)


def odd_texts() -> st.SearchStrategy[str]:
    """Texts of any script, and of few characters that words begin, end or continue at."""
    few = st.text(" \n\r\t\x85'/asSlLrevmtdD1.,\u3000\u0301\u4e2d\u01c5\u017f\u02b0", max_size=30)
    return st.lists(any_text | few).map(" ".join)


@needs_core
@settings(max_examples=300)
@given(odd_texts())
@example("a\u0301BC x\u0301BC 'll x'Re \u0301A \u0301a 1234567 x/\n/ \r\n \n  y  ")
@example("aaaaaaa aaaa aa ababababa ab'\u017fc")
def test_all_merges_of_a_text_are_the_librarys(text: str) -> None:
    assert bpe_training.learn(text, 5000) == library_merges(text, 256 + 5000)


def test_a_thread_for_each_part_of_the_text_learns_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learnt = []
    for count in (1, 2, 7):
        monkeypatch.setattr(bpe_training.os, "cpu_count", lambda count=count: count)
        learnt.append(bpe_training.learn(LEARNT, 5000))
    assert learnt[0] == learnt[1] == learnt[2] == library_merges(LEARNT, 5256)


@needs_core
def test_merges_are_rustbpes_where_equals_are_chosen_as_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rustbpe = pytest.importorskip("rustbpe")
    monkeypatch.setattr(bpe_training, "ORDER", ALPHABET)  # of bytes by their values
    for text in (LEARNT, " ".join(SAMPLES), "aaaaaaa aaaa aa ababababa"):
        other = rustbpe.Tokenizer()
        other.train_from_iterator([text], 256 + 3000, pattern=patterns.O200K)
        learnt = {rank: bytes(token) for token, rank in other.get_mergeable_ranks()}
        ours = [bytes(BYTE_OF[c] for c in a + b) for a, b in bpe_training.learn(text, 3000)]
        assert ours == [learnt[rank] for rank in range(256, len(learnt))]


def test_what_is_too_much_for_the_core_is_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusing = SimpleNamespace(bardlet_bpe=lambda *given: -1)
    monkeypatch.setattr(bpe_training, "core", lambda: refusing)
    assert bpe_training.learn(LEARNT, 50) == library_merges(LEARNT, 306)


def test_without_a_core_of_these_sources_the_library_learns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = Path(bpe_training.__file__).parent / "core-bpe.so"
    if library.exists():
        (tmp_path / "changed.cpp").write_text("//")
        shutil.copy(library, tmp_path)
        monkeypatch.setattr(bpe_training, "__file__", str(tmp_path / "bpe_training.py"))
        with pytest.warns(UserWarning, match="another version"):
            assert bpe_training.core.__wrapped__() is None
    monkeypatch.setenv("BARDLET_CORE", "0")
    assert bpe_training.core.__wrapped__() is None


@pytest.mark.skipif(not CORPUS.is_file(), reason="the canonical text is not beside the checkout")
def test_tokens_on_shakespeare_are_rustbpes() -> None:
    rustbpe = pytest.importorskip("rustbpe")
    text = CORPUS.read_text(encoding="utf-8")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([text], 1023, pattern=patterns.O200K)
    ranks = {bytes(token) for token, _ in theirs.get_mergeable_ranks()}
    merges = bpe_training.learn(text, 1023 - 256)
    ours = {bytes(BYTE_OF[char] for char in left + right) for left, right in merges}
    # pairs that are equally common may be taken in another order, at the end not at all
    assert len(ours - ranks) <= 2


def test_training_twice_gives_the_same_file() -> None:
    first = bpe_training.train(LEARNT, 600)
    assert first == bpe_training.train(LEARNT, 600)
    assert from_json(first, "x").vocab_size == 600
    assert from_json(first, "x").end_of_text == 599


@pytest.mark.parametrize("size", [-1, 0, 256, (1 << 20) + 1])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(UsageError, match="vocab_size="):
        bpe_training.train("abc", size)


@pytest.mark.network
@pytest.mark.skipif(not CORPUS.is_file(), reason="the canonical text is not beside the checkout")
def test_gpt2_is_gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARDLET_CACHE", str(tmp_path))
    gpt2 = from_json(pretrained.gpt2(print), "gpt2")
    assert gpt2.vocab_size == 50257
    assert gpt2.encode("Hello, world!").tolist() == [15496, 11, 995, 0]
    text = CORPUS.read_text(encoding="utf-8")
    border = int(len(text) * 0.9)
    oracle = theirs(gpt2, published("r50k_base"))
    parts = {text[:border]: 301_966, text[border:]: 36_059}
    for part, count in parts.items():
        ids = gpt2.encode(part)
        assert len(ids) == count
        assert np.array_equal(ids, oracle.encode_ordinary(part))
    raw = random.Random(2).randbytes(200_000)
    long = [raw.decode("utf-8", "replace"), raw.decode("latin-1"), LEARNT]
    for sample in [*SAMPLES, *long]:
        assert gpt2.encode(sample).tolist() == oracle.encode_ordinary(sample)
        assert gpt2.decode(gpt2.encode(sample)) == sample
