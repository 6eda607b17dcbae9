"""What of a text a vocabulary does not hold is counted, by what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpora import jsonl

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.text.counts import Counts
from bardlet.data.tokenizers.base import ByteTokenizer, CharTokenizer, Tokenizer, from_json
from bardlet.data.tokenizers.byte_tokens import ALPHABET
from bardlet.data.tokenizers.coverage import Coverage
from bardlet.data.tokenizers.json_file import byte_level
from bardlet.data.tokenizers.patterns import GPT2

library = pytest.importorskip("tokenizers")
ENGLISH = "the cat sat on the mat and the dog ate the cake by the door"
JAPANESE = "\u732b\u304c\u597d\u304d\u3067\u3059"


def counted(coverage: Coverage, tokenizer: Tokenizer, text: str) -> Counts:
    counts = Counts()
    counts.add_all(coverage.omissions(text, tokenizer.encode(text)))
    return counts


def unigram() -> str:
    """A vocabulary as T5 has it: words behind an underscore, anything else is <unk>."""
    made = library.Tokenizer(library.models.Unigram())
    made.normalizer = library.normalizers.NFKC()
    made.pre_tokenizer = library.pre_tokenizers.Metaspace()
    made.decoder = library.decoders.Metaspace()
    trainer = library.trainers.UnigramTrainer(
        special_tokens=["<unk>", "</s>"], unk_token="<unk>", vocab_size=60, show_progress=False
    )
    made.train_from_iterator([ENGLISH] * 3, trainer)
    return made.to_str()


def wordpiece() -> str:
    """A vocabulary as BERT has it: lower case, without accents, a word it lacks is [UNK]."""
    made = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.decoder = library.decoders.WordPiece()
    trainer = library.trainers.WordPieceTrainer(
        special_tokens=["[UNK]", "[SEP]"], vocab_size=60, show_progress=False
    )
    made.train_from_iterator([ENGLISH] * 3, trainer)
    return made.to_str()


def some_bytes() -> str:
    """A byte-level vocabulary that lacks the bytes above 0xbf: what they begin has no token."""
    vocab = {char: i for i, char in enumerate(ALPHABET[:0xC0])}
    return json.dumps(byte_level(vocab, [], GPT2, {}))


def no_letters() -> str:
    """A BPE of few characters, without a token for those that it lacks."""
    document: dict[str, Any] = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
        "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    }  # fmt: skip
    return json.dumps(document)


@pytest.mark.parametrize(
    ("vocabulary", "text", "unknown", "dropped"),
    [
        (unigram, ENGLISH, 0, 0),
        (unigram, JAPANESE, 6, 0),
        (unigram, f"the {JAPANESE} cat {JAPANESE}!", 13, 0),
        (wordpiece, "the CAT", 0, 0),
        (wordpiece, "the c\u0302at", 0, 1),  # an accent by itself
        (wordpiece, "the \u200b cat\x07", 0, 2),  # none of width, and a bell
        (wordpiece, f"the {JAPANESE}", 6, 0),
        (wordpiece, "the jazz", 4, 0),  # the whole word
        (some_bytes, "plain \x7f", 0, 0),
        (some_bytes, "caf\u00e9 " + JAPANESE, 0, 7),
        (no_letters, "abba", 0, 0),
        (no_letters, "a cab, said Ab", 0, 6),
    ],
)
def test_what_a_vocabulary_lacks_is_counted(
    vocabulary: Any, text: str, unknown: int, dropped: int
) -> None:
    tokenizer = from_json(vocabulary(), "it")
    coverage = Coverage(tokenizer)
    for _ in range(2):  # what is known of characters the second time
        counts = counted(coverage, tokenizer, text)
        assert (counts.number("unknown"), counts.number("dropped")) == (unknown, dropped)


def test_tokenizers_of_any_text_lack_nothing() -> None:
    text = f"{ENGLISH} {JAPANESE}\u200b\x00"
    whole = json.dumps(byte_level({c: i for i, c in enumerate(ALPHABET)}, [], GPT2, {}))
    anything: list[Tokenizer] = [ByteTokenizer(), from_json(whole, "it"), CharTokenizer.train(text)]
    for tokenizer in anything:
        coverage = Coverage(tokenizer)
        assert coverage.exact
        assert coverage.omissions(text, tokenizer.encode(text)) == []
    few = CharTokenizer.train("aaabbcd", limit=3)
    assert counted(Coverage(few), few, "abcabc").report() == [
        "2 characters that the vocabulary lacks became its token for unknown ones (2 bytes): 'c'",
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corpus_says_how_much_of_all_its_documents_is_lost(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However late in it, and in whichever process."""
    (tmp_path / "tokenizer.json").write_text(unigram(), encoding="utf-8")
    source = jsonl(
        tmp_path / "a.jsonl",
        [ENGLISH[: 19 + i] for i in range(40)] + [JAPANESE * (i + 1) for i in range(40)],
    )
    options = [f"--tokenizer={tmp_path / 'tokenizer.json'}", f"--workers={workers}"]
    assert cli.main(["prepare", str(source), "--out", str(tmp_path / "d"), *options]) == 0
    manifest = Dataset(tmp_path / "d").manifest
    unknown = manifest["counts"]["unknown"]
    assert unknown == {"number": 4920, "bytes": 3 * 4920, "examples": [*map(repr, JAPANESE)]}
    assert "altered" not in manifest["counts"]  # that is all that is not the same
    lost = "4,920 characters that the vocabulary lacks became its token for unknown ones (14,760 b"
    assert lost in capsys.readouterr().err
    assert any(note.startswith(lost) for note in manifest["notes"])


def test_prompts_count_too_and_a_kept_text_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(unigram(), encoding="utf-8")
    tokenizer = f"--tokenizer={tmp_path / 'tokenizer.json'}"
    pairs = [{"q": JAPANESE, "a": "the cat ate " + "cake" * i} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    keys = ["--prompt_key=q", "--response_key=a", tokenizer]
    out = tmp_path / "d"
    assert cli.main(["prepare", str(tmp_path / "a.jsonl"), "--out", str(out), *keys]) == 0
    assert Dataset(out).manifest["counts"]["unknown"]["number"] == 240
    plain = jsonl(tmp_path / "b.jsonl", [ENGLISH.replace("the", "a" * i) for i in range(1, 41)])
    assert cli.main(["prepare", str(plain), "--out", str(out), tokenizer]) == 0
    assert Dataset(out).manifest["notes"] == []


def test_what_is_spelt_otherwise_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(wordpiece(), encoding="utf-8")
    source = jsonl(
        tmp_path / "a.jsonl", ["the cat" + " the dog" * i for i in range(40)] + ["The CAT"]
    )
    tokenizer = f"--tokenizer={tmp_path / 'tokenizer.json'}"
    assert cli.main(["prepare", str(source), "--out", str(tmp_path / "d"), tokenizer]) == 0
    altered = Dataset(tmp_path / "d").manifest["counts"]["altered"]
    assert altered == {"number": 1, "bytes": 0, "examples": ["'The CA' is 'the ca'"]}
