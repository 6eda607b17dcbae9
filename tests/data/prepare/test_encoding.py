"""Which tokens go to which split, and which of them count in the loss."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import FORMATS, TEXTS, decoded, jsonl, lines, made, table, texts_of, words
from support import some_text

from bardlet import cli
from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.dataset.stream import HEADER
from bardlet.data.prepare import units
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers import bpe, bpe_encoding, bpe_training, json_file


def test_few_texts_are_each_split_by_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100, encoding="utf-8")
    (tmp_path / "b.txt").write_text("b" * 50, encoding="utf-8")
    dataset = made(tmp_path / "d", tmp_path / "a.txt", tmp_path / "b.txt")
    assert texts_of(dataset, "train") == ["a" * 90, "b" * 45]
    assert texts_of(dataset, "val") == ["a" * 10, "b" * 5]
    of_chars = made(tmp_path / "c", tmp_path / "a.txt", tmp_path / "b.txt", tokenizer="char")
    end = "<|endoftext|>"
    ids = of_chars.splits["train"].read(0, 1000)
    assert of_chars.tokenizer.decode(ids) == "a" * 90 + end + "b" * 45 + end
    assert (of_chars.manifest["end_of_text"], of_chars.vocab_size) == (2, 3)
    single = made(tmp_path / "e", tmp_path / "a.txt", tokenizer="char")
    assert (single.manifest["end_of_text"], single.vocab_size) == (None, 1)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.zip", "a.tgz"])
def test_few_records_are_split_by_position(name: str, tmp_path: Path) -> None:
    few = {
        "a.json": lambda p: p.write_text(json.dumps({"text": TEXTS[0]}), encoding="utf-8"),
        "a.jsonl.gz": lambda p: p.write_bytes(gzip.compress(lines(TEXTS[:19]))),
        "a.csv": lambda p: p.write_text(table(TEXTS[:19]), encoding="utf-8", newline=""),
    }
    few.get(name, FORMATS[name])(tmp_path / name)
    by = made(tmp_path / "d", tmp_path / name).manifest["split"]["by"]
    assert by == ("position" if name in few else "document")
    if name in few:
        options: dict[str, Any] = {"part": (1, 2)}
        assert (
            made(tmp_path / "e", tmp_path / name, **options).manifest["split"]["by"] == "document"
        )


def test_more_files_do_not_move_a_document_to_the_other_side(tmp_path: Path) -> None:
    before = made(tmp_path / "a", jsonl(tmp_path / "a.jsonl", TEXTS))
    more = [f"new {i}" for i in range(40)]
    jsonl(tmp_path / "0.jsonl", more)
    after = made(tmp_path / "b", tmp_path / "0.jsonl", tmp_path / "a.jsonl")
    for split in SPLITS:
        assert set(texts_of(before, split)) <= set(texts_of(after, split))
    assert set(texts_of(after, "val")) & set(more)


def test_prompts_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    pairs = [{"ask": f"what is {i}?", "answer": f"It is {i}."} for i in range(50)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    reading = Reading(prompt_key="ask", response_key="answer")
    dataset = made(tmp_path / "d", path, reading=reading, shard_tokens=101)
    assert dataset.manifest["masked"] is True
    counted, left_out = "", ""
    for entry in dataset.manifest["splits"]["train"]["shards"]:
        raw = (tmp_path / "d" / entry["mask"]["file"]).read_bytes()
        magic, _, width, count = HEADER.unpack(raw[:32])
        assert (magic, width, count) == (b"BARDMASK", 0, entry["tokens"])
        assert len(raw) == 32 + -(-count // 8)
        bits = np.unpackbits(np.frombuffer(raw[32:], np.uint8), bitorder="little")
        ids = np.fromfile(tmp_path / "d" / entry["file"], dtype="<u2", offset=32)
        counted += decoded(ids[bits[:count] == 1])
        left_out += decoded(ids[bits[:count] == 0])
    train = [p for p in pairs if not units.goes_to_val(f"{p['ask']}\n{p['answer']}", 0.1)]
    assert counted == "".join(pair["answer"] + "\0" for pair in train)
    assert left_out == "".join(pair["ask"] + "\n" for pair in train)


@pytest.mark.usefixtures("small_units")
def test_a_text_whose_end_cannot_be_read_moves_no_other_border(tmp_path: Path) -> None:
    whole = words(3000)
    (tmp_path / "b.txt").write_text(whole, encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(whole.encode() + b" \xff")
    given = [tmp_path / "a.txt", tmp_path / "b.txt"]
    dataset = made(tmp_path / "d", *given, split="position", skip_unreadable=True)
    wanted = made(tmp_path / "e", tmp_path / "b.txt", split="position")
    text = dataset.tokenizer.decode(dataset.splits["val"].read(0, 10**6))
    only = wanted.tokenizer.decode(wanted.splits["val"].read(0, 10**6))
    rest = text.removesuffix(only + "<|endoftext|>").removesuffix("\n<|endoftext|>")
    assert rest in whole and 0 < len(rest) < 0.11 * len(whole)


def test_a_normal_form_is_made_of_every_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two spellings of an accented letter are one character, or stay two and that is said."""
    texts = [f"caf\u00e9 {i}" for i in range(30)] + [f"cafe\u0301 {i}" for i in range(30, 60)]
    path = jsonl(tmp_path / "a.jsonl", texts)
    whole = made(tmp_path / "d", path, tokenizer="char")
    assert whole.manifest["counts"]["decomposed"]["number"] == 30
    assert "30 documents are not in the normal form NFC, as most" in whole.manifest["notes"][0]
    for form, count in (("nfc", 6), ("NFD", 7)):
        command = ["prepare", str(path), "--out", str(tmp_path / form), f"--normalize={form}"]
        assert cli.main(command) == 0
        dataset = Dataset(tmp_path / form)
        assert "decomposed" not in dataset.manifest["counts"]
        sizes = dataset.manifest["splits"].values()
        assert sum(split["characters"] for split in sizes) == count * 60 + 50
        known = dataset.tokenizer.chars
        assert ("\u00e9" in known, "\u0301" in known) == (form == "nfc", form == "NFD")
    capsys.readouterr()
    assert cli.main(["prepare", str(path), "--normalize=utf-8"]) == 2
    assert "normalize=utf-8 is not one of nfc, nfd, nfkc, nfkd" in capsys.readouterr().err


def test_a_large_vocabulary_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = tmp_path / "tokenizer.json"
    vocabulary.write_text(bpe_training.train("to be or not " * 90, 300), encoding="utf-8")
    opened: list[str] = []

    def counted(text: str, name: str) -> Any:
        opened.append(name)
        return json_file.open_with_library(text, name)

    monkeypatch.setattr(bpe, "open_with_library", counted)
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    command = ["prepare", str(path), f"--tokenizer={vocabulary}", "--out", str(tmp_path / "d")]
    assert cli.main(command) == 0
    assert len(opened) == 1


@pytest.mark.skipif(not bpe_encoding.core(), reason="there is no core")
@pytest.mark.parametrize("split", ["position", "document"])
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_parts_that_stay_bytes_make_the_same_dataset(
    split: str, errors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_units: None
) -> None:
    """Beside parts that need a closer look: with damage, NULs, marks, or line ends of Windows."""
    text = (some_text(9000) + "\u4e2d\u6587\u3002 \u0441\u043b\u043e\u0432\u043e " * 500).encode()
    odd = b"a\r\nb \0 \n<|endoftext|>\nc\n<div> \xef\xbb\xbf e\xcc\x81 "
    bad = b"\xff " if errors == "replace" else b""
    raw = text + odd + text + bad + text + b"\n</s>\n" + text[:3000]
    texts = [tmp_path / f"{i}.txt" for i in range(9)]
    for i, path in enumerate(texts):  # so many that some fall to either side
        path.write_bytes(raw if not i else f"{i} and no more".encode())
    vocabulary = tmp_path / "tokenizer.json"
    vocabulary.write_text(bpe_training.train(text.decode(), 400), encoding="utf-8")
    kept = units.bpe_encoding.plain_characters
    sizes: list[int] = []

    def told(part: bytes) -> int:
        sizes.append(kept(part))
        return sizes[-1]

    def dataset(name: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
        made(tmp_path / name, *texts, tokenizer=str(vocabulary), split=split, val_fraction=0.5,
             reading=Reading(errors=errors))  # fmt: skip
        ids = {key: part.read(0, len(part)).tolist()
               for key, part in Dataset(tmp_path / name).splits.items()}  # fmt: skip
        manifest = json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8"))
        return {key: manifest[key] for key in ("splits", "counts", "notes")}, ids

    monkeypatch.setattr(units.bpe_encoding, "plain_characters", told)
    fast = dataset("fast")
    assert sum(size >= 0 for size in sizes) > 20 and -1 in sizes
    monkeypatch.setattr(units.bpe_encoding, "plain_characters", lambda raw: -1)
    assert dataset("slow") == fast
