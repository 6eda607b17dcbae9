"""Vocabularies that are lists of names."""

from __future__ import annotations

import pytest

from bardlet.data.tokenizers.words import from_ids
from bardlet.errors import DataError


def of(*names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "text", "ids", "back"),
    [
        (("a", "b"), "ba", [1, 0], "ba"),
        (("a", "b", "<unk>", "<|endoftext|>"), "abz", [0, 1, 2], "ab<unk>"),
        (("<UNK>", "\n", " ", "a", "é"), "aé\nza", [3, 4, 1, 0, 3], "aé\n<UNK>a"),
        (("a", "b", "<PAD>", "[UNK]"), "a<PAD>", [0, 3, 3, 3, 3, 3], "a" + 5 * "[UNK]"),
        (("to", "be", "don't", "UNK"), "to  be\ndon't go", [0, 1, 2, 3], "to be don't UNK"),
        (("to", "be", ",", "<unk>"), "to be, sir", [0, 1, 2, 3], "to be , <unk>"),
        (("to", "be", ",", ".", " ", "\n"), "to be,\nto.", [0, 4, 1, 2, 5, 0, 3], "to be,\nto."),
        (("to", "be.", " ", "\n\n"), "to be.\n\nto", [0, 2, 1, 3, 0], "to be.\n\nto"),
        (("你好", "\u3002", "世界"), "你好\u3002世界", [0, 1, 2], "你好 \u3002 世界"),
    ],
)
def test_a_text_is_cut_as_the_names_are(
    names: tuple[str, ...], text: str, ids: list[int], back: str
) -> None:
    tokenizer = from_ids(of(*names), "it")
    assert tokenizer.encode(text).tolist() == ids
    assert tokenizer.decode(ids) == back
    stream = tokenizer.stream()
    assert "".join(stream.feed([i]) for i in ids) + stream.end() == back


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ({}, "ids are not 0..V-1"),
        ({"a": 0, "b": 2}, "ids are not 0..V-1"),
        ({"a": 0, "b": 0}, "ids are not 0..V-1"),
        ({"": 0, "ab": 1}, "the token 0 is an empty text"),
        (of("a b", "c"), "the word 'a b', which no cutting"),
        (of(" a", "b"), "the word ' a'"),
    ],
)
def test_what_is_no_vocabulary_is_refused(ids: dict[str, int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        from_ids(ids, "it")


def test_a_word_that_nothing_stands_for_is_said() -> None:
    with pytest.raises(DataError, match="cannot encode this text"):
        from_ids(of("to", "be"), "it").encode("to go")
