"""The character tokenizer: ids, round trips, and the file that other programs read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import bpe_encoding
from bardlet.data.tokenizers.base import CharTokenizer
from bardlet.errors import DataError

TEXTS = {
    "empty": "",
    "plain": "to be, or not to be",
    "spaces and lines": " a  b\n\n\tc \r\n d\u00a0e\u2028f ",
    "emoji": "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "mixed scripts": (
        "Hello \u4e16\u754c \u041f\u0440\u0438 \u0645\u0631\u062d "
        "\u0928\u092e\u0938\u094d\u0924\u0947 e\u0301 \u00e9"
    ),
    "marks of the format": '"quotes" \\n <unk> {} [UNK] ## \u2581_\u0120 \0 \x7f',
}
each_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
any_text = st.text(st.characters(exclude_categories=["Cs"]))


@each_text
def test_text_decodes_to_itself(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert ids.shape == (len(text),)
    assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == text
    assert "".join(tokenizer.decode([int(i)]) for i in ids) == text  # streamed


@given(any_text, st.integers(1, 5))
def test_ids_are_places_among_the_sorted_code_points(text: str, chunk: int) -> None:
    tokenizer = CharTokenizer.train(text, chunk=chunk)
    alphabet = sorted(set(text))
    assert tokenizer.chars == "".join(alphabet)
    assert tokenizer.vocab_size == len(alphabet)
    assert tokenizer.encode(text).tolist() == [alphabet.index(c) for c in text]


@given(any_text, st.data())
def test_any_text_of_the_alphabet_has_ids(alphabet: str, data: st.DataObject) -> None:
    tokenizer = CharTokenizer.train("ab" + alphabet)
    text = data.draw(st.text(tokenizer.chars))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_plain_text_is_encoded_where_the_alphabet_is_wide() -> None:
    assert CharTokenizer.train("ab\u4e16").encode("abab").tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abz", r"character 'z' at position 2 is not in the model's alphabet"),
        ("\u00e9a", "character '\u00e9' at position 0"),
        ("ab\U0010ffff", "at position 2"),
        ("aAzb", "character 'A' at position 1"),
    ],
)
def test_an_unknown_character_is_named_with_the_alphabet(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        CharTokenizer.train("abc").encode(text)
    assert "'abc'" in error.value.hint


def test_an_empty_alphabet_knows_no_character() -> None:
    empty = CharTokenizer.train("")
    assert empty.vocab_size == 0
    with pytest.raises(DataError, match="position 0"):
        empty.encode("a")


def test_token_bytes_are_utf8_lengths() -> None:
    tokenizer = CharTokenizer.train("a\u00e9\u4e16\U0001f600")
    assert tokenizer.token_bytes().tolist() == [1, 2, 3, 4]


@given(any_text)
def test_a_written_tokenizer_is_read_back_equal(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    again = tokenizers.from_json(tokenizer.to_json(), "x")
    assert again.chars == tokenizer.chars
    assert tokenizers.fingerprint(again) == tokenizers.fingerprint(tokenizer)


def test_fingerprints_differ_between_alphabets() -> None:
    marks = {tokenizers.fingerprint(CharTokenizer.train(text)) for text in TEXTS.values()}
    assert len(marks) == len(TEXTS)


@each_text
def test_hugging_faces_reader_gives_the_same_ids_and_text(text: str, tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    ours = CharTokenizer.train(text + " ab\n")
    path.write_text(ours.to_json(), encoding="utf-8")
    theirs = library.Tokenizer.from_file(str(path))
    assert theirs.get_vocab_size() == ours.vocab_size
    assert theirs.encode(text).ids == ours.encode(text).tolist()
    assert theirs.decode(theirs.encode(text).ids, skip_special_tokens=False) == text


DAMAGES = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "no model": lambda text: json.dumps({**json.loads(text), "model": None}),
    "a gap": lambda text: with_vocab(text, {"a": 0, "b": 2}),
    "a double id": lambda text: with_vocab(text, {"a": 0, "b": 0}),
    "a long token": lambda text: with_vocab(text, {"a": 0, "bc": 1}),
    "ids that are text": lambda text: with_vocab(text, {"a": 0, "b": "1"}),
    "a list of tokens": lambda text: with_vocab(text, ["a", "b"]),
}


def with_vocab(text: str, vocab: object) -> str:
    document = json.loads(text)
    document["model"]["vocab"] = vocab
    return json.dumps(document)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(DAMAGES[kind](CharTokenizer.train("abc").to_json()), encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json is damaged"):
        tokenizers.load(path)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "tokenizer.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path / "none.json"):
        with pytest.raises(DataError, match="cannot read the tokenizer"):
            tokenizers.load(path)


def test_encoding_is_a_table_and_not_a_loop() -> None:
    # a Python loop over this text takes seconds
    text = "abc\u4e16" * 1_000_000
    ids = CharTokenizer.train(text).encode(text)
    assert ids.dtype == np.int32
    assert ids[:4].tolist() == ids[-4:].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text", ["to be", "\u0411\u044b\u0442\u044c\n", "\u4e2d\u6587 \U0001f600e\u0301"]
)
def test_streamed_text_equals_text_decoded_at_once(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert "".join(tokenizer.decode([i]) for i in ids) == tokenizer.decode(ids) == text


@pytest.mark.parametrize("core", [True, False])
def test_ascii_is_looked_up_with_and_without_the_core(
    core: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not core:
        monkeypatch.setattr(bpe_encoding, "core", lambda: None)
    wide = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) + "".join(
        map(chr, range(0x10000, 0x1D000))
    )
    for chars in ("ab\n", "".join(map(chr, range(128))), "".join(sorted("az" + wide))):
        tokenizer = CharTokenizer(chars)
        text = "".join(random.Random(1).choices([c for c in chars if c < "\x80"], k=500))
        assert tokenizer.encode(text).tolist() == [chars.index(c) for c in text]
        if len(chars) != 128:
            with pytest.raises(DataError, match=r"character 'Q' at position 500 "):
                tokenizer.encode(text + "Q")
    late = CharTokenizer("".join(map(chr, range(0x10000, 0x20100))) + "ab")  # ids beyond two bytes
    assert late.encode("ba").tolist() == [0x10101, 0x10100]
    assert bpe_encoding.count_bytes(b"abca\x00\xff").tolist()[95:100] == [0, 0, 2, 1, 1]
