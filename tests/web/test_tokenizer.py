"""Tokenizers in the browser against ours: ids, text, and what is shown of a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engine_page import engine_page
from support import some_text

from bardlet.data.tokenizers.base import ByteTokenizer, CharTokenizer, Tokenizer, from_json
from bardlet.data.tokenizers.bpe import PROBE
from bardlet.data.tokenizers.bpe_training import train
from bardlet.data.tokenizers.json_file import byte_level
from bardlet.data.tokenizers.patterns import CL100K, GPT2, LLAMA3, O200K, QWEN
from bardlet.errors import UsageError
from bardlet.interop.html.tokenizer import described

AWKWARD = [
    "", " ", "a", "\n", "  a  b\n\n c ", "It's HE'LL we'Ve \u017f'\u017f", PROBE, "\ufeffBOM\ufeff",
    "café cafe\u0301 \u0915\u094d\u0937\u093f नमस्ते", "春江潮水连海平\uff0c海上明月共潮生。",
    "日本語カナ한국어",
    "👨‍👩‍👧‍👦🏳️‍🌈🇨🇳 x😀y", "\u0085\u00a0\u2003\u2028\u3000\u180e\u200b\x1c", "١٢٣٤ ½²Ⅷ 1234567",
    "\x00\x7f\x80\xff", "a" * 700, "ab" * 400 + " " * 300, "<|endoftext|><|x|> <unk>", "ﬁ ß ǅ ʰ ª",
    "\r\n\r\r\n\t \t", "x\u0301\u0302\u0303y", "\U0010ffff\ue000", "'s's'S 'tis o'clock",
]  # fmt: skip
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ASK = """([described, texts, rows]) => {
  const tokenizer = lab.tokenizer(described);
  const ids = texts.map((text) => {
    try { return tokenizer.encode(text); } catch (error) { return error.message; }
  });
  return [ids, rows.map((row) => [tokenizer.decode(row), tokenizer.pieces(row)]), tokenizer.end];
}"""


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    with engine_page(browser) as one:
        yield one


def texts() -> list[str]:
    """Awkward texts, and random ones over all of Unicode."""
    generator = np.random.default_rng(0)
    ranges = [(32, 127), (0, 0x250), (0x300, 0x370), (0x900, 0x980), (0x2000, 0x2070),
              (0x4E00, 0x5000), (0x1F300, 0x1F700), (0, 0xD800), (0xE000, 0x110000)]  # fmt: skip
    drawn = []
    for i in range(150):
        low, high = ranges[i % len(ranges)]
        points = [*generator.integers(low, high, 20), *generator.choice([10, 32, 39, 0x65E5], 8)]
        drawn.append("".join(chr(p) for p in generator.permutation(points)))
    return [*AWKWARD, *drawn]


def bpe(pattern: str | None, **changes: Any) -> Tokenizer:
    """A byte-level BPE of a mixed text, which splits by a pattern."""
    text = some_text(3000) + "".join(AWKWARD) * 3
    document = json.loads(train(text, vocab_size=401))
    model = document["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    made = byte_level(model["vocab"], merges, pattern, {"<|endoftext|>": 400})
    return from_json(json.dumps({**made, **changes}), "a test")


KINDS = {
    "byte": ByteTokenizer,
    "gpt2": lambda: bpe(GPT2), "cl100k": lambda: bpe(CL100K), "llama3": lambda: bpe(LLAMA3),
    "o200k": lambda: bpe(O200K), "qwen": lambda: bpe(QWEN, normalizer={"type": "NFC"}),
    "no pattern": lambda: bpe(None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_ours(tab: Any, kind: str) -> None:
    tokenizer = KINDS[kind]()
    generator = np.random.default_rng(1)
    rows = generator.integers(0, tokenizer.vocab_size, (40, 12)).tolist()
    ids, shown, end = tab.evaluate(ASK, [described(tokenizer), texts(), rows])
    for text, row in zip(texts(), ids, strict=True):
        assert row == tokenizer.encode(text).tolist(), text
    bytes_of = tokenizer.tokens()
    for row, (text, pieces) in zip(rows, shown, strict=True):
        assert text == tokenizer.decode(row)
        assert pieces == [piece(bytes_of[i]) for i in row]
    assert end == tokenizer.end_of_text


def piece(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token)


@pytest.mark.parametrize("unknown", [False, True])
def test_characters_are_ours(tab: Any, unknown: bool) -> None:
    chars = "".join(sorted(set("ab \n春江é\u0301😀𝄞\ud83d\ude00\uffff")))
    tokenizer = CharTokenizer(chars, unknown=unknown, ends=unknown)
    rows = [[i, 1, i] for i in range(tokenizer.vocab_size)]
    known = ["", "ab\n", "春😀𝄞e\u0301".replace("e", "é"), "\ud83d", "\ude00b"]
    ids, shown, end = tab.evaluate(ASK, [described(tokenizer), [*known, "a春zz"], rows])
    for text, row in zip(known, ids, strict=False):
        assert row == tokenizer.encode(text).tolist()
    if unknown:
        assert ids[-1] == tokenizer.encode("a春zz").tolist()
    else:
        assert ids[-1] == 'The character "z" at position 2 is not in the alphabet.'
    assert end == tokenizer.end_of_text
    # what joins two halves of a pair is one character to JavaScript
    expected = [tokenizer.decode(row) for row in rows]
    assert [text for text, _ in shown] == expected


def test_lone_surrogates_have_no_ids(tab: Any) -> None:
    for kind in ("byte", "gpt2"):
        told = tab.evaluate(ASK, [described(KINDS[kind]()), ["ab\ud83d", "\ude00", "a😀"], []])[0]
        assert told[0] == "Position 2 of the text is a lone surrogate, not a character."
        assert told[1] == "Position 0 of the text is a lone surrogate, not a character."
        assert isinstance(told[2], list)


def test_added_tokens_and_whole_words_are_ours(tab: Any) -> None:
    base = json.loads(bpe(LLAMA3).to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    base["model"]["vocab"]["zqzq"] = 400  # a word that no merges make
    base["added_tokens"][0]["id"] = 401
    base["added_tokens"] += [{"id": 402, "content": "<think>", "special": False, **flags}]
    base["model"]["ignore_merges"] = True
    tokenizer = from_json(json.dumps(base), "a test")
    asked = ["a<think>b<think>", "zqzq", "zqzqz <think", "<|endoftext|>"]
    ids, shown, _ = tab.evaluate(ASK, [described(tokenizer), asked, [[402, 401, 400]]])
    assert ids == [tokenizer.encode(text).tolist() for text in asked]
    assert ids[0] == [97, 402, 98, 402]
    assert ids[1] == [400]
    assert shown[0][0] == tokenizer.decode([402, 401, 400])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
        ({"pre_tokenizer": {**LEVEL, "add_prefix_space": True}}, "with a space before the text"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, LEVEL]}}, "the pre-tokenizer Digits"),
    ],
)  # fmt: skip
def test_what_the_page_does_not_know_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        described(bpe(GPT2, **change))
