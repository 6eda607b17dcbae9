"""Every kind of tokenizer: text there and back, streamed text, other programs, hostile files."""

from __future__ import annotations

import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bardlet.data.tokenizers import bpe_training, factory
from bardlet.data.tokenizers.base import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    fingerprint,
    from_json,
)
from bardlet.errors import DataError, UsageError

library = pytest.importorskip("tokenizers")

LINES = [
    "To be, or not to be: that is the question.", "  Two  spaces,\tand a tab",
    "\u041f\u0440\u0438, \u043c\u0438\u0440! \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u5e8a\u524d\u660e\u6708\u5149\uff0c\u7591\u662f\u5730\u4e0a\u971c\u3002",
    "e\u0301 \u00e9 \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467", "12 345 don't (x)",
]  # fmt: skip
TEXT = "\n".join(LINES)
any_text = st.text(st.characters(exclude_categories=["Cs"]))


def ours() -> dict[str, Tokenizer]:
    return {
        "char": CharTokenizer.train(TEXT),
        "byte": ByteTokenizer(),
        "bpe": from_json(bpe_training.train(TEXT * 5, 400), "bpe"),
    }


OURS = ours()


def trained(kind: str) -> Any:
    """A small tokenizer as the library makes them."""
    models, pre, decoders = library.models, library.pre_tokenizers, library.decoders
    trainers, normalizers = library.trainers, library.normalizers
    few = {"vocab_size": 150, "show_progress": False}
    if kind == "wordpiece":
        made = library.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]", "[CLS]", "[SEP]"], **few)
    elif kind == "unigram":
        made = library.Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=["<unk>"], unk_token="<unk>", **few)
    elif kind == "sentencepiece":
        made = library.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        made.decoder = decoders.Sequence([
            decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ])  # fmt: skip
        special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        few["vocab_size"] = 320
        trainer = trainers.BpeTrainer(
            special_tokens=special, limit_alphabet=20, initial_alphabet=["\u2581"], **few
        )
    else:
        made = library.Tokenizer(models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = pre.Split(library.Regex("[\\s\\S]"), "isolated")
        made.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"], **few)
    made.train_from_iterator([TEXT.lower() * 3], trainer)
    if kind == "sentencepiece":  # bytes are tokens of the model there, and not added ones
        document = json.loads(made.to_str())
        document["added_tokens"] = document["added_tokens"][:3]
        return library.Tokenizer.from_str(json.dumps(document))
    return made


FOREIGN = {name: trained(name) for name in ("wordpiece", "unigram", "sentencepiece", "characters")}
KINDS = {"wordpiece": "wordpiece", "unigram": "unigram", "sentencepiece": "bpe",
         "characters": "wordlevel"}  # fmt: skip
ALL = {**OURS, **{name: from_json(t.to_str(), name) for name, t in FOREIGN.items()}}


@pytest.mark.parametrize("name", FOREIGN)
def test_any_file_gives_the_librarys_ids_and_text(name: str) -> None:
    theirs, mine = FOREIGN[name], ALL[name]
    assert mine.kind == KINDS[name]
    assert mine.vocab_size == theirs.get_vocab_size()
    for text in (*LINES, TEXT, "", "unseen \u0107\u4e2d"):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert mine.encode(text).tolist() == ids
        assert mine.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    again = from_json(mine.to_json(), name)
    assert again.identity() == mine.identity()
    assert again.token_bytes().tolist() == mine.token_bytes().tolist()


@settings(max_examples=300)
@given(text=any_text, name=st.sampled_from(["byte", "bpe", "sentencepiece"]))
def test_any_text_there_and_back(text: str, name: str) -> None:
    if name == "sentencepiece":
        text = "a" + text.replace("\u2581", "")  # which is its letter for a space
    tokenizer = ALL[name]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def streamed(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> list[str]:
    """What comes when ids arrive in pieces of these lengths, again and again."""
    stream, out, lengths = tokenizer.stream(), [], itertools.cycle(cuts)
    while ids:
        n = next(lengths)
        out.append(stream.feed(ids[:n]))
        ids = ids[n:]
    return [*out, stream.end()]


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(ALL)),
    lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_streamed_text_is_the_text_decoded_at_once(
    name: str, lines: list[str], cuts: list[int]
) -> None:
    tokenizer = ALL[name]
    ids = tokenizer.encode("\n".join(lines)).tolist()
    pieces = streamed(tokenizer, ids, cuts)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)  # never a part of a character


@settings(max_examples=300)
@given(st.data())
def test_streamed_text_of_any_ids(data: st.DataObject) -> None:
    # but for "sentencepiece": one wrong byte makes the library give up those right before it
    name = data.draw(st.sampled_from(sorted(set(ALL) - {"sentencepiece"})))
    tokenizer = ALL[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=150))
    assert "".join(streamed(tokenizer, ids, [1, 3])) == tokenizer.decode(ids)


def test_streaming_takes_no_longer_for_the_last_token() -> None:
    tokenizer = ALL["sentencepiece"]
    stream = tokenizer.stream()
    unseen = "\u4e2d\u6587" * 30  # bytes alone, and no place to cut but between characters
    ids = tokenizer.encode((TEXT + unseen) * 10).tolist()
    text = "".join(stream.feed([i]) for i in ids) + stream.end()
    assert text == tokenizer.decode(ids)
    assert len(stream.ids) < 200  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", OURS)
def test_other_programs_read_ours(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    mine = OURS[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(mine.to_json(), encoding="utf-8")
    theirs = library.Tokenizer.from_file(str(path))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    assert theirs.get_vocab_size() == len(fast) == mine.vocab_size
    for text in (*LINES, TEXT, TEXT + " \n"):
        ids = mine.encode(text).tolist()
        assert theirs.encode(text).ids == ids
        assert fast(text)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text
        assert fast.decode(ids, clean_up_tokenization_spaces=False) == text
    saved = json.dumps(json.loads(theirs.to_str()))  # written again by another program
    again = from_json(saved, "saved")
    assert again.encode(TEXT).tolist() == mine.encode(TEXT).tolist()
    assert again.decode(mine.encode(TEXT)) == TEXT


def test_names_of_special_tokens_are_plain_text() -> None:
    for tokenizer in (OURS["byte"], OURS["bpe"], ALL["sentencepiece"]):
        ids = tokenizer.encode("a<|endoftext|><s>b").tolist()
        assert tokenizer.end_of_text not in ids
        assert tokenizer.decode(ids) == "a<|endoftext|><s>b"


@pytest.mark.parametrize("name", ["byte", "bpe", "unigram"])
def test_half_a_surrogate_pair_is_named(name: str) -> None:
    with pytest.raises(DataError, match="position 1 of the text is a lone surrogate"):
        ALL[name].encode("a\ud800")


def test_characters_beyond_a_limit_share_a_token() -> None:
    few = factory.choose("char", "aaaabbbccd", vocab_size=4)
    assert (few.vocab_size, few.end_of_text) == (4, 3)
    assert few.encode("abcdz").tolist() == [0, 1, 2, 2, 2]
    assert few.decode([0, 1, 2, 3]) == "ab<unk><|endoftext|>"
    assert from_json(few.to_json(), "x").encode("dab").tolist() == [2, 0, 1]
    for size in (-3, 1, 2):
        with pytest.raises(UsageError, match=f"vocab_size={size} must be 3 or more"):
            factory.choose("char", "ab", vocab_size=size)


@pytest.mark.parametrize("unknown", [False, True])
def test_characters_may_have_a_token_that_ends_a_text(unknown: bool) -> None:
    ours = CharTokenizer("<>|ab\u660e", unknown=unknown, ends=True)
    end = 6 + unknown
    assert (ours.vocab_size, ours.end_of_text) == (end + 1, end)
    again = from_json(ours.to_json(), "x")
    assert isinstance(again, CharTokenizer)
    assert (again.chars, again.unknown, again.end_of_text) == (ours.chars, unknown, end)
    for text in ("ab\u660e", "a<|b", ""):
        assert again.encode(text).tolist() == ours.encode(text).tolist()
    assert end not in ours.encode("<|a|>").tolist()  # no text has it, however it is spelt
    theirs = library.Tokenizer.from_str(ours.to_json())
    assert theirs.encode("ab\u660e").ids == ours.encode("ab\u660e").tolist()
    assert theirs.decode([3, end, 4], skip_special_tokens=False) == "a<|endoftext|>b"
    assert theirs.decode([3, end, 4]) == ours.decode([3, 4]) == "ab"
    assert ours.decode([3, end, 4]) == "a<|endoftext|>b"


def test_a_size_fits_the_bytes_of_a_text() -> None:
    assert bpe_training.suggested_size(1 << 20) == 1024
    assert bpe_training.suggested_size(1 << 40) == 1 << 15
    assert bpe_training.suggested_size(0) == 512


BASE = json.loads(OURS["bpe"].to_json())
WORDS = json.loads(FOREIGN["wordpiece"].to_str())
PIECES = json.loads(FOREIGN["unigram"].to_str())


def changed(base: dict[str, Any] = BASE, model: dict[str, Any] | None = None, **more: Any) -> str:
    document = copy.deepcopy(base)
    document["model"].update(model or {})
    return json.dumps({**document, **more})


def replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


REPEATED = {
    "type": "TemplateProcessing", "special_tokens": {},
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 50_000,
    "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
}  # fmt: skip
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
DAMAGED = {
    "no document": "",
    "null": "null",
    "no model": '{"model": []}',
    "deep": changed(decoder=json.loads('{"a":' * 300 + "1" + "}" * 300)),
    "deeper": '{"model":' + "[" * 200_000,
    "another model": changed(model={"type": "Pickle"}),
    "a type of types": changed(model={"type": []}),
    "a huge id": changed(model={"vocab": {"a": 1 << 40}, "merges": []}),
    "a huge added id": changed(added_tokens=[{"id": 1 << 31, "content": "x", **ADDED}]),
    "an id below 0": changed(model={"vocab": {"a": -1}, "merges": []}),
    "a true id": changed(model={"vocab": {"a": True}, "merges": []}),
    "a fraction": changed(model={"vocab": {"a": 0.5}, "merges": []}),
    "two tokens of one id": changed(model={"vocab": {"a": 0, "b": 0}, "merges": []}),
    "two entries of a token": changed(model={"vocab": {"aa": 0}}).replace('"aa"', '"a": 1, "a"'),
    "pieces that are there twice": changed(PIECES, {"vocab": [["<unk>", 0.0]] * 2}),
    "no pieces": changed(PIECES, {"vocab": []}),
    "pieces that are none": changed(PIECES, {"vocab": [7]}),
    "a list of tokens": changed(model={"vocab": ["a"]}),
    "merges of unknown tokens": changed(model={"merges": [["zz", "yy"]]}),
    "merges of three": changed(model={"merges": [["a", "b", "c"]]}),
    "added tokens that are none": changed(added_tokens={"id": 1}),
    "a nameless added token": changed(added_tokens=[{"id": 500, "content": "", **ADDED}]),
    "an added token of two ids": changed(added_tokens=[{"id": 500, "content": "a", **ADDED}]),
    "a regex bomb": changed(pre_tokenizer=split("(a+)+$")),
    "a regex bomb of alternatives": changed(pre_tokenizer=split("(a|aa)*c")),
    "a regex bomb in a row": changed(normalizer=replaced({"Regex": "a*" * 30 + "b"}, "")),
    "a regex that is long": changed(pre_tokenizer=split("a" * 10_000)),
    "a regex of itself": changed(pre_tokenizer=split(r"(a)\1")),
    "no regex": changed(pre_tokenizer=split("[a")),
    "a text that grows": changed(normalizer=replaced({"String": "a"}, "a" * 1000)),
    "growth step by step": changed(
        normalizer={"type": "Sequence", "normalizers": [replaced({"String": "a"}, "aa")] * 30}
    ),
    "words without end": changed(WORDS, {"max_input_chars_per_word": 10**9}),
    "a table that is none": changed(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    ),
    "a step that is none": changed(pre_tokenizer=7),
    "a version to come": changed(version="9.0"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_hostile_file_is_refused_at_once(name: str) -> None:
    began = time.process_time()
    with pytest.raises(DataError, match=r"tokenizer\.json is damaged: .") as refused:
        from_json(DAMAGED[name], "tokenizer.json")
    assert time.process_time() - began < 5
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


FAILING = {
    "no unknown token": changed(WORDS, {"unk_token": "[NONE]"}),
    "no unknown piece": changed(PIECES, {"unk_id": None}),
    "an empty table": changed(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}
    ),
    "parts of no length": changed(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "nothing replaced": changed(normalizer=replaced({"String": ""}, "x" * 60)),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_file_that_fails_on_a_text_is_named(name: str) -> None:
    tokenizer = from_json(FAILING[name], "the file")
    with pytest.raises(DataError, match=r"the file cannot encode this text: ."):
        tokenizer.encode("\u0e01 to be")


def test_what_a_file_adds_or_draws_is_left_out() -> None:
    ids = OURS["bpe"].encode("to be or not to be").tolist()
    for text in (changed(model={"dropout": 0.9}), changed(post_processor=REPEATED)):
        assert from_json(text, "x").encode("to be or not to be").tolist() == ids
    padded = json.loads(FOREIGN["wordpiece"].to_str())
    padded["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0,
                            "direction": "Right"}  # fmt: skip
    plain = ALL["wordpiece"].encode(LINES[0]).tolist()
    assert from_json(json.dumps(padded), "x").encode(LINES[0]).tolist() == plain


def test_a_pipeline_without_steps_is_no_step() -> None:
    nothing = from_json(changed(pre_tokenizer={"type": "Sequence", "pretokenizers": []}), "x")
    assert nothing.encode("to").tolist() == OURS["bpe"].encode("to").tolist()


def test_a_character_file_with_a_step_of_its_own_is_the_librarys() -> None:
    document = json.loads(CharTokenizer.train("abc").to_json())
    document["normalizer"] = {"type": "Lowercase"}
    assert from_json(json.dumps(document), "x").encode("CAB").tolist() == [2, 0, 1]


@pytest.mark.parametrize("ours", [
    *OURS.values(), CharTokenizer("ab", unknown=True), CharTokenizer("ab\n", ends=True),
    CharTokenizer("\u00e9\u4e2d", unknown=True, ends=True),
], ids=lambda tokenizer: tokenizer.kind)  # fmt: skip
def test_a_tokenizer_that_another_program_saved_again_is_the_same(ours: Tokenizer) -> None:
    """As transformers does: with a post_processor that adds nothing, padding, other flags."""
    document = json.loads(ours.to_json())
    document["post_processor"] = {
        "type": "TemplateProcessing", "special_tokens": {},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    }  # fmt: skip
    document["padding"] = None
    for token in document["added_tokens"]:
        token["normalized"] = True
    if "<unk>" in document["model"]["vocab"]:  # named as the unk_token, it becomes a special one
        i = document["model"]["vocab"]["<unk>"]
        document["added_tokens"].insert(0, {"id": i, "content": "<unk>", "special": True})
    again = from_json(json.dumps(document, indent=2), "it")
    assert again.kind == ours.kind
    assert fingerprint(again) == fingerprint(ours)
