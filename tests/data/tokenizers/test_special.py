"""Which token ends a text: of published vocabularies, of what stands beside them, and as named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpora import TEXTS, jsonl

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.mixture import Mixture
from bardlet.data.tokenizers import base, factory, special
from bardlet.errors import DataError, UsageError


def document(*names: str, ordinary: tuple[str, ...] = ()) -> dict[str, Any]:
    """A byte-level vocabulary with these special tokens from id 256 on, and ordinary ones after."""
    from bardlet.data.tokenizers.byte_tokens import ALPHABET
    from bardlet.data.tokenizers.json_file import byte_level

    vocab = {char: i for i, char in enumerate(ALPHABET)}
    made = byte_level(vocab, [], None, {name: 256 + i for i, name in enumerate(names)})
    others = byte_level(
        vocab, [], None, {name: 256 + len(names) + i for i, name in enumerate(ordinary)}
    )
    for token in others["added_tokens"]:
        token["special"] = False
    made["added_tokens"] += others["added_tokens"]
    return made


@pytest.mark.parametrize(
    ("names", "ordinary", "eos", "end"),
    [
        (("<pad>", "<eos>", "<end_of_turn>"), ("</s>",), "<end_of_turn>", "<eos>"),  # Gemma 3
        (("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
         (), "", "<\uff5cend\u2581of\u2581sentence\uff5c>"),  # DeepSeek
        (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), (), "<|im_end|>", "<|endoftext|>"),
        (("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"), (), "<|eot_id|>",
         "<|end_of_text|>"),  # Llama 3
        (("<s>", "</s>"), (), "", "</s>"),
        (("<EOT>", "<META>"), (), "", "<EOT>"),
        (("[SEP]", "[EOS]"), (), "", "[EOS]"),
        (("[CLS]", "[SEP]"), (), "", "[SEP]"),
        (("<|endoftext|>", "</s>"), (), "</s>", "</s>"),  # the publisher decides
        (("<STOP>", "<s>"), (), "<STOP>", "<STOP>"),
        (("<|im_end|>",), (), "<|im_end|>", "<|im_end|>"),
        (("<pad>",), ("</s>", "<eos>"), "</s>", None),  # ordinary text
        (("<pad>", "<weekend>", "[MASK]"), (), "", None),
        ((), (), "<eos>", None),
    ],
)  # fmt: skip
def test_the_special_token_that_ends_a_text(
    names: tuple[str, ...], ordinary: tuple[str, ...], eos: str, end: str | None
) -> None:
    made = document(*names, ordinary=ordinary)
    expected = None if end is None else 256 + names.index(end)
    assert special.end_of_text(made, eos) == end
    assert base.from_json(json.dumps(made), "it", eos).end_of_text == expected


@pytest.mark.parametrize(
    ("file", "content", "end"),
    [
        ("tokenizer_config.json", {"eos_token": "<STOP>"}, 257),
        ("tokenizer_config.json", {"eos_token": {"content": "<STOP>", "lstrip": False}}, 257),
        ("special_tokens_map.json", {"eos_token": "<STOP>"}, 257),
        ("tokenizer_config.json", {"eos_token": None}, 256),
        ("tokenizer_config.json", ["eos_token"], 256),
        ("tokenizer_config.json", {"eos_token": 7}, 256),
    ],
)
def test_files_beside_a_vocabulary_name_the_token(
    file: str, content: object, end: int, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(document("</s>", "<STOP>")), encoding="utf-8"
    )
    (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        assert factory.existing(str(name)).end_of_text == end
    (tmp_path / file).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=f"{file} is damaged"):
        factory.existing(str(tmp_path))


def prepared(folder: Path, *options: str) -> Dataset:
    """A dataset of `TEXTS` with the vocabulary in `folder`."""
    source = jsonl(folder / "a.jsonl", TEXTS)
    out = str(folder / f"d{len(list(folder.iterdir()))}")
    vocabulary = f"--tokenizer={folder / 'tokenizer.json'}"
    assert cli.main(["prepare", str(source), vocabulary, "--out", out, *options]) == 0
    return Dataset(Path(out))


def test_documents_end_with_the_token_and_its_readers_know_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(document("<pad>", "<STOP>", ordinary=("</s>",))), encoding="utf-8"
    )
    nothing = prepared(tmp_path)
    assert nothing.end_of_text is None
    hint = "--end_of_text NAME takes one of its tokens, such as its special ones: <pad>, <STOP>"
    assert any(hint in note for note in nothing.manifest["notes"])
    assert hint in capsys.readouterr().err
    named = prepared(tmp_path, "--end_of_text=<STOP>")
    capsys.readouterr()
    assert not any("--end_of_text" in note for note in named.manifest["notes"])
    count = sum(split["documents"] for split in named.manifest["splits"].values())
    ids = [named.splits[s].read(0, len(named.splits[s])) for s in ("train", "val")]
    assert sum((part == 257).sum() for part in ids) == count == len(TEXTS)
    assert named.tokenizer.end_of_text == 257
    assert named.tokenizer.token_bytes()[[256, 257]].tolist() == [5, 0]
    assert factory.existing(str(named.folder)).end_of_text == 257
    cli.main(["inspect", str(named.folder)])
    assert 'documents end with "<STOP>", token 257' in capsys.readouterr().out
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<STOP>"}', encoding="utf-8")
    beside = prepared(tmp_path, "--workers=2")  # other processes do not see the file
    assert beside.hash == named.hash
    with pytest.raises(DataError, match=r"texts end with token 257 in .* and with 256 in "):
        Mixture([named, prepared(tmp_path, "--end_of_text=<pad>")], [1, 1])


def test_a_name_that_is_no_token_is_refused() -> None:
    tokenizer = base.from_json(json.dumps(document("<pad>", "<STOP>")), "it")
    with pytest.raises(UsageError, match=r"end_of_text=<STOPP> is not a token") as error:
        factory.ended_by(tokenizer, "<STOPP>")
    assert "Did you mean <STOP>? Its special tokens are <pad>, <STOP>" in str(error.value)
    assert factory.ended_by(base.ByteTokenizer(), "\n").end_of_text == 10
    with pytest.raises(UsageError, match=r"<\|endoftext\|>"):
        factory.ended_by(base.ByteTokenizer(), "<eos>")


def test_characters_may_end_their_texts_with_one_of_themselves(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", TEXTS)
    out = tmp_path / "d"
    assert cli.main(["prepare", str(source), "--end_of_text=\n", "--out", str(out)]) == 0
    dataset = Dataset(out)
    assert dataset.end_of_text == dataset.tokenizer.encode("\n")[0] == 0
    assert dataset.tokenizer.special() == {"\n": 0}
    assert dataset.tokenizer.id_of("<|endoftext|>") == dataset.vocab_size - 1
