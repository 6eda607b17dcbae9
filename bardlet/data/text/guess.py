"""What bytes most likely are that are not in the encoding asked for: another one, or no text."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterator

from bardlet.errors import DataError

HEAD = 1 << 16  # bytes of a file that are looked at
SAMPLE = 1 << 14  # bytes around a wrong one that encodings are tried on
SHOWN = 40  # characters of a line that an encoding gives
GUESSES = 4  # encodings that are named
NUL_SHARE = 0.05  # of the bytes, from which on it is not text in an encoding of bytes
FEW = 2  # of them, that a short text may have
# no text has them, but for those of white space and those that switch between character sets
CONTROLS = bytes({*range(32), 127} - {*range(7, 16), 26, 27})
CANDIDATES = ["utf_8", "gb18030", "big5", "cp932", "euc_jp", "euc_kr", "cp1251", "koi8_r", "cp1252",
              "cp1250", "cp1253", "cp1256"]  # fmt: skip
WIDE = ["utf_16_le", "utf_16_be"]  # which read anything as Chinese: of a sample that is long enough
LONG = 200  # bytes
MESS = 0.5  # how odd a text may look that is still named: that of short lines among numbers is 0.3
PANDOC = "Make it text first, for example: pandoc FILE -t plain -o FILE.txt"
COMPRESSED = "Give it the ending {0}, or unpack it first"
CONVERT = "Convert it to Parquet or to lines of JSON first"
# how a file of another kind begins, what it is, and what to do
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "a PDF", "Take its text out first, for example: pdftotext FILE FILE.txt"),
    (b"\x1f\x8b\x08", "compressed by gzip", COMPRESSED.format(".gz")),
    (b"BZh", "compressed by bzip2", COMPRESSED.format(".bz2")),
    (b"\xfd7zXZ\0", "compressed by xz", COMPRESSED.format(".xz")),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", COMPRESSED.format(".zst")),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", "Unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "Unpack it first"),
    (b"ARROW1\0\0", "an Arrow file", CONVERT),
    (b"\xff\xff\xff\xff", "a stream of Arrow", CONVERT),
    (b"FEA1", "a Feather file", CONVERT),
    (b"PAR1", "a Parquet file", "Give it the ending .parquet"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", CONVERT),
    (b"SQLite format 3\0", "an SQLite database", CONVERT),
    (b"\x93NUMPY", "an array of NumPy", "Give the text that it was made of"),
    (b"GGUF", "a GGUF model", "Give a text; `bardlet import` opens models"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", PANDOC),
    (b"\x89PNG\r\n\x1a\n", "a picture", "Give a text"),
    (b"\xff\xd8\xff", "a picture", "Give a text"),
    (b"GIF8", "a picture", "Give a text"),
    (b"\x7fELF", "a program", "Give a text"),
)  # fmt: skip
MARKS = {
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
}
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
ZIPPED = (  # what a zip archive holds in its first members, and what it then is
    (b"application/epub+zip", "an EPUB", PANDOC), (b"word/", "a DOCX document", PANDOC),
    (b"opendocument", "an OpenDocument file", PANDOC), (b"xl/", "an XLSX table", "Save it as CSV"),
    (b"ppt/", "a PPTX document", PANDOC),
)  # fmt: skip


def other_kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins with `head` and is not text, and what to do; None for text."""
    if head.startswith(ZIP):
        for mark, what, hint in ZIPPED:
            if mark in head:
                return what, hint
        return "a zip archive", COMPRESSED.format(".zip")
    if head[257:262] == b"ustar":
        return "a tar archive", COMPRESSED.format(".tar")
    return next(((what, hint) for mark, what, hint in MAGIC if head.startswith(mark)), None)


def check_text(head: bytes, name: str, encoding: str) -> None:
    """Raise DataError where a file that begins with `head` is not text in `encoding`."""
    kind = other_kind(head)
    if kind:
        hint = kind[1].replace("FILE", shlex.quote(name))
        raise DataError(f"{name} is {kind[0]}, not text", hint)
    nuls = head.count(0)
    if nuls > FEW + NUL_SHARE * len(head) and not wide(encoding):
        shown_lines = readings(head, encoding)
        hint = f"Name its encoding: {shown_lines}" if shown_lines else "Give a text"
        raise DataError(
            f"{name} is not text in {encoding}: {nuls:,} of its first {len(head):,} bytes are NUL",
            hint,
        )
    controls = len(head) - len(head.translate(None, CONTROLS))
    if controls > FEW + NUL_SHARE * len(head) and not wide(encoding):
        problem = f"{controls:,} of its first {len(head):,} bytes are control characters"
        raise DataError(f"{name} is not text: {problem}", "Give a text")


def why_no_text(head: bytes, encoding: str, *, cut: bool = False) -> str:
    """The reason why a file that begins with `head`, and whose name says nothing, is not read as
    text: not_text, other_encoding; empty where it is text. `cut` where it may go on.
    """
    try:
        check_text(head, "", encoding)
        decoder = codecs.getincrementaldecoder(with_byte_order(encoding, head))("strict")
        text = decoder.decode(head, final=not cut and len(head) < HEAD)
    except UnicodeError:
        return "not_text" if set(CONTROLS) & set(head) else "other_encoding"
    except DataError:
        return "not_text"
    return "not_text" if re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text) else ""


def wide(encoding: str) -> int:
    """The bytes of a unit of an encoding in which NUL is a part of characters, else 0."""
    name = codecs.lookup(encoding).name
    return 2 if name.startswith("utf-16") else 4 if name.startswith("utf-32") else 0


def with_byte_order(encoding: str, head: bytes) -> str:
    """The encoding of a file that begins with `head`: UTF-16 and UTF-32 without a byte order mark
    by where its NULs are, little-endian where that says nothing.
    """
    name = codecs.lookup(encoding).name
    if name not in MARKS or head.startswith(MARKS[name]):
        return encoding
    width = wide(name)
    even = len(head) - len(head) % width
    first, last = head[0:even:width].count(0), head[width - 1 : even : width].count(0)
    return f"{name}-{'be' if first > last else 'le'}"


def readings(raw: bytes, encoding: str) -> str:
    """The encodings that `raw` may be in where it is not in `encoding`, each with the first line
    of it that is not ASCII.
    """
    others = [(name, line) for name, line in guesses(raw) if name != encoding]
    return ", ".join(f"--encoding {name} reads {line!r}" for name, line in others)


def guesses(raw: bytes) -> Iterator[tuple[str, str]]:
    """Yields the most likely encodings of `raw` with a line of what they give, best first."""
    if raw.startswith(MARKS["utf-16"]):
        names = ["utf-16"]
    elif raw.count(0) > NUL_SHARE * len(raw):
        zeros = [raw[i::4].count(0) for i in range(4)]
        four = sum(zeros) > len(raw) / 2
        names = [with_byte_order("utf-32" if four else "utf-16", raw)]
    else:
        names = likely(raw)
    for name in names[:GUESSES]:
        decoder = codecs.getincrementaldecoder(name)("strict")
        try:
            lines = decoder.decode(raw).lstrip("\ufeff").splitlines()
        except UnicodeError:
            continue
        telling = [line for line in lines if not line.isascii()] or lines or [""]
        line = telling[0].strip()
        yield name.replace("_", "-"), line[:SHOWN] + "..." * (len(line) > SHOWN)


def likely(raw: bytes) -> list[str]:
    """The candidates in the order of charset-normalizer, those that give the same text included."""
    from charset_normalizer import from_bytes

    names: list[str] = []
    candidates = CANDIDATES + WIDE * (len(raw) >= LONG)
    for match in from_bytes(raw, cp_isolation=candidates, threshold=MESS):
        same = sorted(set(match.could_be_from_charset) & set(candidates), key=candidates.index)
        names += [name for name in same[:1] if name not in names]
    return names


def sample(raw: bytes, at: int) -> bytes:
    """The lines around the byte `at` of `raw`, of some kilobytes."""
    start = raw.rfind(b"\n", 0, max(at - SAMPLE // 4, 0)) + 1 if at > SAMPLE // 2 else 0
    start = max(start, at - SAMPLE // 2)
    return raw[start : at + SAMPLE // 2]
