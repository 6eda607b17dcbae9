"""A text in many units is the text, in no more memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import FORMATS, lines, made, words

from bardlet.data.prepare import encoding, units
from bardlet.data.text import sources
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers import base
from bardlet.data.tokenizers.char import CharTokenizer


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("small_units")
def test_progress_is_told_in_bytes_of_the_files(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    found = sources.find([str(tmp_path / name)])
    told = [u.bytes for u in units.units(found.inputs, Reading(), 0.1)]
    assert sum(told) == (tmp_path / name).stat().st_size
    assert min(told) >= 0


CORPORA = {
    "words": words(8000),
    "one line": words(8000).replace("\n", ""),
    "one word": "a" * 40_000,
    "chinese": "\u4e2d\u6587\u5b57" * 9000,
    "windows": "ab\r\n" * 9000,
    "returns": "\r\n" * 20_000 + "x",
}


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize("kind", CORPORA)
@pytest.mark.usefixtures("small_units")
def test_a_text_in_many_units_is_the_text(kind: str, tokenizer: str, tmp_path: Path) -> None:
    text = CORPORA[kind]
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain = text.replace("\r\n", "\n")
    for name in ("a.txt", "b.txt.gz"):
        dataset = made(tmp_path / name[0], tmp_path / name, tokenizer=tokenizer)
        border = int(len(plain) * 0.9)
        for split, wanted in (("train", plain[:border]), ("val", plain[border:])):
            assert dataset.tokenizer.decode(dataset.splits[split].read(0, 10**6)) == wanted
            assert dataset.manifest["splits"][split]["documents"] == 1


@pytest.mark.usefixtures("small_units")
def test_bpe_of_a_text_in_units_has_the_ids_of_the_whole(tmp_path: Path) -> None:
    text = words(8000)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    dataset = made(tmp_path / "d", tmp_path / "a.txt", tokenizer="bpe", vocab_size=300)
    border = int(len(text) * 0.9)
    for split, part in (("train", text[:border]), ("val", text[border:])):
        assert (
            dataset.splits[split].read(0, 10**6).tolist() == dataset.tokenizer.encode(part).tolist()
        )


@pytest.mark.parametrize("kind", CORPORA)
@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.usefixtures("small_units")
def test_a_part_of_a_text_is_read_in_blocks(kind: str, errors: str, tmp_path: Path) -> None:
    raw = CORPORA[kind].encode()
    (tmp_path / "a.txt").write_bytes(raw)
    reading = Reading(errors=errors)
    found = sources.find([str(tmp_path / "a.txt")])
    first = next(units.units(found.inputs, reading, 0.1)).parts[0]
    assert isinstance(first, units.Range)
    (whole,), blocks = units.read(first, reading), list(units.read(first, reading, 900))
    assert len(blocks) > 3
    assert "".join(block.text for block in blocks) == whole.text
    assert [block.first for block in blocks] == [True] + [False] * (len(blocks) - 1)
    assert not any(block.last for block in blocks)
    assert blocks[-1].char_offset == len(whole.text) - len(blocks[-1].text)
    known = errors == "strict" and b"\r" not in raw
    assert [block.utf8 for block in blocks] == [block.text.encode() * known for block in blocks]


def test_only_tokens_that_no_word_shares_allow_blocks() -> None:
    """A vocabulary that marks how a text begins would do so in each."""
    library = pytest.importorskip("tokenizers")
    assert encoding.is_divisible(CharTokenizer("ab"))
    model = library.Tokenizer(library.models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    model.pre_tokenizer = library.pre_tokenizers.Metaspace()
    assert not encoding.is_divisible(base.from_json(model.to_str(), "it"))
    byte_level = library.Tokenizer(library.models.BPE({"a": 0, "b": 1}, []))
    byte_level.decoder = library.decoders.ByteLevel()
    for splits, divisible in ((True, True), (False, False)):
        byte_level.pre_tokenizer = library.pre_tokenizers.ByteLevel(False, use_regex=splits)
        assert encoding.is_divisible(base.from_json(byte_level.to_str(), "it")) is divisible


RSS = """
import re, sys
from pathlib import Path
from bardlet.data.prepare import units
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import documents, sources
units.UNIT = 1 << 19
documents.PIECE = 1 << 18
prepare(sources.find([sys.argv[1]]), Path(sys.argv[2]), tokenizer="char", shard_tokens=10**6)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
@pytest.mark.parametrize("suffix", ["txt", "txt.gz", "jsonl"])
def test_ten_times_the_text_takes_no_more_memory(suffix: str, tmp_path: Path) -> None:
    # Blocks of 64 kB and more go back to the system, so that what counts is what is held, and not
    # which of several threads was the first to ask: a busy machine had 82 MiB where an idle had 72.
    allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    allocator["MALLOC_TRIM_THRESHOLD_"] = "65536"
    peaks = []
    for size in (2, 20):
        many = [words(500, i) for i in range(50)]
        raw = lines(many) if suffix == "jsonl" else words(5000).encode()
        raw *= size * 1_000_000 // len(raw)
        path = tmp_path / f"{size}.{suffix}"
        path.write_bytes(gzip.compress(raw, 1) if suffix.endswith("gz") else raw)
        del raw
        command = [sys.executable, "-c", RSS, str(path), str(tmp_path / f"d{size}")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, **allocator}
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 6, "MiB; the larger text has 17 more"
