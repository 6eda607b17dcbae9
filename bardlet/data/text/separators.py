"""Documents within a plain text: what stands between them is what the user says.

`blank` is a line with nothing on it, `line` the end of any line; anything else is a line with just
this text or, where it is in brackets as <|endoftext|> is, this text wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bardlet.errors import UsageError

BLANK, LINE = "blank", "line"
SPELLINGS = {"": BLANK, "\n\n": BLANK, r"\n\n": BLANK, "\n": LINE, r"\n": LINE}
LONG = 1 << 20  # characters of a line that are handed on before it ends
# Lines that published corpora have between documents.
MARKS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
# it begins with characters, for which the library looks faster than for the beginning of a line
MARK_LINE = re.compile(r"\n(?=<)(" + "|".join(map(re.escape, MARKS)) + r")$", re.MULTILINE)


def parse(text: str) -> str:
    """The separator that an option names; UsageError for what no line can be."""
    separator = SPELLINGS.get(text, text).strip("\n")
    if "\n" in separator or not separator.strip():
        raise UsageError(
            f"document_separator={text!r} is not a line",
            "It is the text of a line such as <|endoftext|>, blank (an empty line) or line (each)",
        )
    return separator


def documents_of(blocks: Iterator[str], separator: str) -> Iterator[Iterator[str]]:
    """Yields the documents of a text, each in parts, without separators and the line ends around
    them. Two separators with nothing between them are as one.
    """
    parts = split(blocks, separator)
    for part, ends in parts:
        if part:
            yield whole(part, ends, parts)


def whole(part: str, ends: bool, parts: Iterator[tuple[str, bool]]) -> Iterator[str]:
    """Yields a document's first part and those that follow."""
    yield part
    while not ends:
        part, ends = next(parts)
        yield part


def split(blocks: Iterator[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Yields a text in parts, and whether a document ends with each; the last one does."""
    pattern = compiled(separator)
    waiting, begins = "\n", True
    for block in blocks:
        waiting += block
        end = complete(waiting)
        if len(waiting) - end > LONG + len(separator):
            matches = [match.end() for match in pattern.finditer(waiting)]
            end = max(len(waiting) - len(separator), *matches[-1:], 0)
        for part, ends in cut(waiting[:end], pattern):
            part = part.lstrip("\n") if begins else part
            yield part, ends
            begins = ends or (begins and not part)
        waiting = waiting[end:]
    for part, ends in cut(waiting.rstrip("\n"), pattern):
        part = part.lstrip("\n") if begins else part
        yield part, ends
        begins = ends or (begins and not part)
    yield "", True


def complete(text: str) -> int:
    """How many characters of a text that goes on can be looked at: up to the line end before its
    last line, and before empty lines there.
    """
    end = max(text.rfind("\n"), 0)
    while (before := text.rfind("\n", 0, end)) >= 0 and not text[before:end].strip():
        end = before
    return end


def count_marks(text: str) -> dict[str, int]:
    """How many lines of `text` are each of `MARKS`, and nothing else; without those of none."""
    if "<" not in text:  # which is seen much faster than the rest
        return {}
    marks = MARK_LINE.findall(text)
    if first := MARK_LINE.match("\n" + text[: max(map(len, MARKS)) + 1]):
        marks.append(first[1])
    return {mark: marks.count(mark) for mark in MARKS if mark in marks}


def cut(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """Yields the parts of `text` between matches; a document ends with each but the last."""
    start = 0
    for match in pattern.finditer(text):
        yield text[start : match.start()], True
        start = match.end()
    yield text[start:], False


def compiled(separator: str) -> re.Pattern[str]:
    """The pattern of a separator with the line end before it."""
    if separator == BLANK:
        return re.compile(r"\n[ \t]*(?=\n)")
    if separator == LINE:
        return re.compile(r"\n")
    escaped = re.escape(separator)
    if re.fullmatch(r"<.*>|\[.*\]", separator):
        return re.compile(rf"\n?{escaped}")
    return re.compile(rf"\n[ \t]*{escaped}[ \t]*(?=\n|\Z)")
