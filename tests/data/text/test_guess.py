"""What is said of bytes that are not in the encoding asked for."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest
from corpora import made

from bardlet.data.text import guess
from bardlet.data.text.records import Reading
from bardlet.errors import DataError

TEXTS = {
    "gb18030": "\u7b2c\u4e00\u56de \u7075\u6839\u80b2\u5b55\u6e90\u6d41\u51fa\uff0c\u5fc3\u6027"
    "\u4fee\u6301\u5927\u9053\u751f\u3002",
    "big5": "\u7b2c\u4e00\u56de \u9748\u6839\u80b2\u5b55\u6e90\u6d41\u51fa\uff0c\u5fc3\u6027\u4fee"
    "\u6301\u5927\u9053\u751f\u3002",
    "cp932": "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002\u540d\u524d\u306f\u307e\u3060\u7121"
    "\u3044\u3002",
    "euc-kr": "\ub098\ub78f\ub9d0\uc2f8\ubbf8 \ub4c0\uad81\uc5d0 \ub2ec\uc544",
    "cp1251": "\u0412\u0441\u0435 \u0441\u0447\u0430\u0441\u0442\u043b\u0438\u0432\u044b\u0435"
    " \u0441\u0435\u043c\u044c\u0438 \u043f\u043e\u0445\u043e\u0436\u0438",
    "cp1252": "Gr\xfc\xdfe aus K\xf6ln, gr\xf6\xdfer und sch\xf6ner.",
    "utf-16-le": "Line one of it.",
    "utf-16-be": "Line one of it.",
    "utf-32-le": "Line one of it.",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_encoding_is_named_with_a_line_that_it_gives(encoding: str, tmp_path: Path) -> None:
    line = TEXTS[encoding]
    (tmp_path / "a.txt").write_bytes(("A line before.\n" + f"{line}\n" * 9).encode(encoding))
    with pytest.raises(DataError) as caught:
        made(tmp_path / "d", tmp_path / "a.txt")
    first = "A line before." if encoding.startswith("utf") else line
    assert f"Name its encoding: --encoding {encoding} reads {first!r}" in caught.value.hint
    assert "latin-1" not in caught.value.hint
    reading = Reading(encoding=encoding)
    dataset = made(tmp_path / "d", tmp_path / "a.txt", reading=reading, tokenizer="char")
    assert dataset.tokenizer.decode(dataset.splits["train"].read(0, 30)).startswith("A line b")


def test_a_table_of_short_texts_is_enough(tmp_path: Path) -> None:
    rows = "".join(f'{i},"{TEXTS["cp932"]}{i}"\n' for i in range(30))
    (tmp_path / "a.csv").write_bytes(f"id,text\n{rows}".encode("cp932"))
    with pytest.raises(DataError, match=r"Name its encoding: --encoding cp932 reads '0,"):
        made(tmp_path / "d", tmp_path / "a.csv")


def zipped(*names: str, time: tuple[int, int, int] = (12, 0, 0)) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo(name, (2026, 11, 27, *time))
            archive.writestr(member, "application/epub+zip" if name == "mimetype" else "<xml/>")
    return raw.getvalue()


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"), (b"\x1f\x8b\x08\0\0", "compressed by gzip"),
        (zipped("a.txt"), "a zip archive"), (b"ARROW1\0\0....", "an Arrow file"),
        (zipped("[Content_Types].xml", "word/document.xml"), "a DOCX document"),
        (zipped("mimetype", "a.xhtml"), "an EPUB"),
        (zipped("mimetype", time=(1, 23, 24)), "an EPUB"),  # whose time holds a newline
        (b"PAR1....PAR1", "a Parquet file"),
        (b"SQLite format 3\0", "an SQLite database"), (bytes(257) + b"ustar", "a tar archive"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("name", ["a", "a.txt", "a.jsonl", "a.csv", "a.json"])
def test_a_file_of_another_kind_is_named(
    name: str, encoding: str, raw: bytes, kind: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError) as caught:
        made(tmp_path / "d", tmp_path / name, reading=Reading(encoding=encoding))
    assert caught.value.message == f"{name} is {kind}, not text"
    assert caught.value.hint and "FILE" not in caught.value.hint


def test_nuls_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one line\0\n" * 9 + b"others " * 50)
    dataset = made(tmp_path / "d", tmp_path / "a.txt")
    note = "9 NUL characters are in the text, which binary files have"
    assert dataset.manifest["notes"] == [note]
    (tmp_path / "c.txt").write_bytes(bytes(random.Random(0).choices(range(1, 256), k=3000)))
    for reading in (Reading(encoding="latin-1"), Reading(errors="replace")):
        with pytest.raises(DataError, match=r"of its first 3,000 bytes are control characters"):
            made(tmp_path / "e", tmp_path / "c.txt", reading=reading)
    (tmp_path / "b.txt").write_bytes(b"\0\1\2\3" * 99)
    with pytest.raises(DataError, match=r"b\.txt is not text in utf-8: 99 of its first 396 bytes"):
        made(tmp_path / "e", tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("raw", "encoding", "why"),
    [(b"", "utf-8", ""), (b"plain\n\tcaf\xc3\xa9\x0c\x1b[0m", "utf-8", ""),
     (b"caf\xe9", "utf-8", "other_encoding"), (b"caf\xe9", "latin-1", ""),
     (b"a\x01b", "latin-1", "not_text"),
     (b"a" * (guess.HEAD - 1) + b"\xc3", "utf-8", ""), (b"a\xc3", "utf-8", "other_encoding"),
     ("ab".encode("utf-16"), "utf-16", ""), ("ab".encode("utf-16"), "utf-8", "not_text")],
)  # fmt: skip
def test_what_looks_like_text(raw: bytes, encoding: str, why: str) -> None:
    assert guess.why_no_text(raw, encoding) == why
