"""Vocabularies in the files of other programs: the ids are those of the programs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import some_text

from bardlet import cli
from bardlet.data.tokenizers import bpe_training, factory, forms
from bardlet.data.tokenizers.base import Tokenizer, fingerprint, from_json
from bardlet.data.tokenizers.byte_tokens import BYTE_OF
from bardlet.data.tokenizers.patterns import GPT2, QWEN
from bardlet.errors import DataError

TEXT = some_text(4000) + " To be, or not to be: 12 345 d\u00e9j\u00e0 vu, It's\n\n  x\n"
OURS = from_json(bpe_training.train(TEXT, 400), "ours")
SAMPLES = ("To be, or not", " the  question?\n", "\u4f60\u597d", "", "caf\u00e9 7")


def ranks() -> dict[bytes, int]:
    """Our merges as tiktoken has them."""
    vocab = json.loads(OURS.to_json())["model"]["vocab"]
    return {bytes(BYTE_OF[c] for c in token): i for token, i in vocab.items()}


def tiktoken_file(path: Path) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items()]
    path.write_text("".join(lines), encoding="ascii")
    return path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> int:
    """The end of a text in our file, after a gap; words are split as in GPT-2's."""
    end = len(ranks()) + 1
    monkeypatch.setitem(forms.RANKS, len(ranks()), (GPT2, {"<|endoftext|>": end}))
    return end


@pytest.mark.parametrize("name", ["o.tiktoken", "tokenizer.model", "anything"])
def test_ranks_of_tiktoken(name: str, known: int, tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    file = tiktoken_file(tmp_path / name)
    theirs = tiktoken.Encoding(
        "o", pat_str=GPT2, mergeable_ranks=ranks(), special_tokens={"<|endoftext|>": known}
    )
    for source in (file, tmp_path) if name != "anything" else (file,):
        mine = factory.existing(str(source))
        assert mine.end_of_text == known
        assert mine.vocab_size == known + 1
        for text in (*SAMPLES, "<|endoftext|>"):
            assert mine.encode(text).tolist() == theirs.encode_ordinary(text)
            assert mine.decode(mine.encode(text)) == text


def test_ranks_that_do_not_say_how_they_split_a_text_are_refused(
    tmp_path: Path, known: int
) -> None:
    file = tmp_path / "o.tiktoken"
    file.write_text("YQ== 0\nYg== 1\n", encoding="ascii")
    with pytest.raises(DataError, match="2 tokens of tiktoken's, and does not say how a text is"):
        factory.existing(str(file))
    for wrong, problem in (("YQ== 0\nYg== x\n", "line 2"), ("YQ== 0\nYQ== 1\n", "a token again"),
                           ("YQ== 0\nYQ=!= 1\n", "line 2")):  # fmt: skip
        file.write_text(wrong, encoding="ascii")
        with pytest.raises(DataError, match=rf"o\.tiktoken is damaged: .*{problem}"):
            factory.existing(str(file))


def pair(folder: Path, names: Sequence[str] = ("vocab.json", "merges.txt"), more: Any = ()) -> Path:
    """Our vocabulary as GPT-2's two files, with its special token."""
    model = json.loads(OURS.to_json())["model"]
    vocab = {**model["vocab"], "<|endoftext|>": len(model["vocab"]), **dict(more)}
    (folder / names[0]).write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"]), ""]
    (folder / names[1]).write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_the_two_files_of_gpt2(names: tuple[str, str], tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    pair(tmp_path, names)
    theirs = library.ByteLevelBPETokenizer(str(tmp_path / names[0]), str(tmp_path / names[1]))
    read = [factory.existing(str(tmp_path / name)) for name in (*names, ".")]
    assert len({fingerprint(mine) for mine in read}) == 1
    assert (read[0].kind, read[0].end_of_text) == ("bpe", OURS.vocab_size - 1)
    for text in SAMPLES:
        assert read[0].encode(text).tolist() == theirs.encode(text).ids
    (tmp_path / names[1]).unlink()
    with pytest.raises(DataError, match=f"{names[1]} is not beside it"):
        factory.existing(str(tmp_path / names[0]))


def test_files_beside_the_two_say_more(tmp_path: Path) -> None:
    pair(tmp_path, more={"<STOP>": 500})
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<STOP>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = factory.existing(str(tmp_path))
    assert tokenizer.end_of_text == 500
    document = json.loads(tokenizer.to_json())
    assert document["normalizer"] == {"type": "NFC"}
    assert document["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": QWEN}
    assert tokenizer.encode("e\u0301").tolist() == tokenizer.encode("\u00e9").tolist()


def test_other_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n", encoding="utf-8")
    (tmp_path / "vocab.json").write_text('{"a": 0, "b</w>": 1, "ab</w>": 2}', encoding="utf-8")
    with pytest.raises(DataError, match="is not a byte-level vocabulary as GPT-2's") as error:
        factory.existing(str(tmp_path))
    assert "save_pretrained" in str(error.value)
    (tmp_path / "vocab.txt").write_text("[UNK]\nthe\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab\.txt is not a tokenizer\.json\. Convert it"):
        factory.existing(str(tmp_path / "vocab.txt"))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n", encoding="utf-8")
    with pytest.raises(DataError, match="'a b c' is not a pair"):
        factory.existing(str(tmp_path))


def trained(kind: str, **options: Any) -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    lines = iter(TEXT.split(" to ") * 3)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=out, vocab_size=300, model_type=kind,
        minloglevel=2, hard_vocab_limit=False, **options,
    )  # fmt: skip
    return out.getvalue()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "options",
    [{}, {"byte_fallback": True}, {"user_defined_symbols": ["<sep>"], "split_digits": True,
      "remove_extra_whitespaces": False, "add_dummy_prefix": False},
     {"remove_extra_whitespaces": False},
     {"byte_fallback": True, "add_dummy_prefix": False, "remove_extra_whitespaces": False,
      "normalization_rule_name": "identity"}],
)  # fmt: skip
def test_models_of_sentencepiece(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    raw = trained(kind, **options)
    (tmp_path / "tokenizer.model").write_bytes(raw)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=raw)
    for source in (tmp_path, tmp_path / "tokenizer.model"):
        mine: Tokenizer = factory.existing(str(source))
        assert (mine.kind, mine.end_of_text) == (kind, theirs.eos_id())
        assert mine.vocab_size == theirs.get_piece_size()
        for text in (*SAMPLES, TEXT[:500], "a<sep>b 2024"):
            ids = theirs.encode(text)
            assert mine.encode(text).tolist() == ids
            if theirs.unk_id() not in ids:
                assert mine.decode(ids) == theirs.decode(ids)


def test_a_model_that_is_none_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spm.model"
    file.write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00")
    command = ["tokenizer", "encode", "hello", "--tokenizer", str(file)]
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    assert cli.main(command) == 1
    assert "pip install 'bardlet[sentencepiece]'" in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip("sentencepiece")
    file.write_bytes(trained("unigram", user_defined_symbols=["<sep>"]))  # spaces around it go
    assert cli.main(command) == 1
    assert "its tokens of 'a<sep>b <sep> c' would be others" in capsys.readouterr().err
    for raw in (b"\n\x0e\n\x05<unk>\x15\x00\x00", b"", b"\x00" * 99, trained("char")):
        file.write_bytes(raw)
        assert cli.main(command) == 1
        assert "is not a model of SentencePiece: " in capsys.readouterr().err


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "o.tiktoken"
    file.write_text(f"YQ== 0\n{base64.b64encode(b'a' * 20_000).decode()} 1\n", encoding="ascii")
    with pytest.raises(DataError, match="its tokens are too long"):
        factory.existing(str(file))
    file.write_bytes(b"YQ== 0\n")
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(DataError, match="more than 268,435,456 bytes"):
        factory.existing(str(file))
    for folder in (tmp_path / "vocab.json", tmp_path / "a.model"):
        folder.mkdir()  # which is no file of a vocabulary
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*tokenizer\.json"):
        factory.existing(str(tmp_path))
