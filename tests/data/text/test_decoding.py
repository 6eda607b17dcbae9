"""Decoding: what an error handler replaces is counted where it is read."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path

import pytest

from bardlet.data.text import decoding
from bardlet.data.text.documents import documents
from bardlet.data.text.records import Reading
from bardlet.data.text.sources import find
from bardlet.errors import DataError

BROKEN = (
    b"a\xff\xe4\xb8\n\xe4\xb8\x96\xc3(\xf0\x9f\x98 \x81\x30 \x1b$B~{ +AGE- \xd8\x00 end\xe4\xb8"
)


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "ascii", "cp1252", "utf-16-le", "utf-32-le", "utf-7", "gbk", "shift_jis"]
)
def test_replacements_are_counted_as_the_error_handler_is_called(
    encoding: str, errors: str
) -> None:
    calls = 0

    def count(error: UnicodeError) -> tuple[str | bytes, int]:
        nonlocal calls
        calls += 1
        return codecs.lookup_error(errors)(error)

    codecs.register_error("bardlet-test.count", count)
    BROKEN.decode(encoding, "bardlet-test.count")
    assert calls
    assert decoding.count_replaced(BROKEN, encoding, errors) == calls
    file = decoding.CountedFile(io.BytesIO(BROKEN), encoding, errors)
    while file.read(5):
        pass
    assert (file.take_replaced(), file.take_replaced()) == (calls, 0)
    assert decoding.count_replaced(BROKEN, encoding, "strict") == 0


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.txt.gz", gzip.compress(b"caf\xe9 \xff and so on", mtime=0)),
        ("a.json", b'[{"text": "caf\xe9"}, {"text": "\xff"}]'),
        ("a.jsonl", b'{"text": "caf\xe9"}\n{"text": "\xff"}\n'),
        ("a.csv", b"text\ncaf\xe9\n\xff\n"),
    ],
)
def test_inputs_read_in_turn_count_their_own(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    (input_,) = find([str(tmp_path / name)]).inputs
    reading = Reading(errors="replace")
    readers = [documents(input_, reading) for _ in range(2)]
    counts = [[piece.replaced_bytes for piece in pair] for pair in zip(*readers, strict=True)]
    assert [sum(column) for column in zip(*counts, strict=True)] == [2, 2]
    with pytest.raises(LookupError):
        codecs.lookup_error("bardlet.replace")  # no handler is left behind


@pytest.mark.parametrize("encoding", ["utf-16", "punycode"])
@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.txt", "a.jsonl"])
def test_an_encoding_whose_codec_names_no_byte_is_refused_in_one_line(
    name: str, encoding: str, tmp_path: Path
) -> None:
    """As UTF-16 without the mark that says which of its two it is."""
    path = tmp_path / name
    path.write_text('text\n[{"text": "hello"}]\n', encoding="ascii")
    reading = Reading(encoding=encoding)
    with pytest.raises(DataError, match=f"{name}.* is not {encoding}: ") as caught:
        for given in find([str(path)]).inputs:
            list(documents(given, reading))
    assert "\n" not in caught.value.message
