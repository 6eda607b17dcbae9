"""Inputs as units of work: about equal, in one order, the same in every process.

A large text is cut where its parts are encoded as they would be within it, so that several
processes can read it; what can only be read from its beginning is read here and handed on.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bardlet.data.prepare.splits import HEAD, goes_to_val
from bardlet.data.text import decoding, guess
from bardlet.data.text.corpus import unreadable
from bardlet.data.text.counts import Omission
from bardlet.data.text.documents import Place, documents
from bardlet.data.text.inputs import Input
from bardlet.data.text.records import Piece, Reading, of_jsonl
from bardlet.data.tokenizers import bpe_encoding
from bardlet.errors import DataError

UNIT = 1 << 23  # bytes of text in a unit
PROBLEM = 1000  # characters, that one takes about as much memory as
FILES = 1000  # small files in a unit, at most
WINDOW = 1 << 20  # bytes in which the end of a word is looked for
SELF_SYNCHRONISING = ("utf-8", "utf8", "utf_8", "ascii", "us-ascii", "latin-1", "latin1")
NEVER = 1 << 62  # characters


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bytes of a file that a worker reads; `char_offset` and `split_point` as in `Piece`."""

    input: Input
    start: int
    end: int
    char_offset: int = 0
    split_point: int = -1


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is tokenized at a time. `bytes` is what it adds to the progress."""

    index: int
    parts: tuple[Range | Piece, ...]
    bytes: int
    source: str  # the input's name, for what is to be reported


def units(inputs: tuple[Input, ...], reading: Reading, val_fraction: float) -> Iterator[Unit]:
    """Yields the units of `inputs` in order; an unreadable one gives a unit of its problem."""
    index = 0
    small: list[Range | Piece] = []
    size = 0
    for entry in inputs:
        splittable = reading.encoding.lower() in SELF_SYNCHRONISING and not entry.compression
        plain = entry.kind == "text" and not reading.document_separator
        whole = Range(input=entry, start=0, end=entry.bytes)
        if plain and not entry.compression and entry.bytes <= UNIT:
            if small and (size + entry.bytes > UNIT or len(small) >= FILES):
                yield Unit(index=index, parts=tuple(small), bytes=size, source="")
                index, small, size = index + 1, [], 0
            small.append(whole)
            size += entry.bytes
            continue
        if small:
            yield Unit(index=index, parts=tuple(small), bytes=size, source="")
            index, small, size = index + 1, [], 0
        try:
            if splittable and (plain or entry.kind == "jsonl"):
                for part in ranges(entry, reading, val_fraction):
                    yield Unit(
                        index=index, parts=(part,), bytes=part.end - part.start, source=entry.name
                    )
                    index += 1
            else:
                for batch, done in batches(entry, reading, val_fraction):
                    yield Unit(index=index, parts=batch, bytes=done, source=entry.name)
                    index += 1
        except DataError as error:
            part = damaged(error, entry.bytes)
            yield Unit(index=index, parts=(part,), bytes=entry.bytes, source=entry.name)
            index += 1
    if small:
        yield Unit(index=index, parts=tuple(small), bytes=size, source="")


def damaged(problem: DataError, bytes: int) -> Piece:
    """The piece that stands for `bytes` bytes of an input, which cannot be read."""
    omitted = (Omission("damaged", 1, bytes),)
    return Piece(text="", problem=problem, omitted=omitted)


def batches(
    entry: Input, reading: Reading, val_fraction: float
) -> Iterator[tuple[tuple[Piece, ...], int]]:
    """Yields the documents of an input, some millions of characters at a time, each time with the
    bytes of its file that were read for them. Of one that is damaged what can be read comes before
    the problem.
    """
    waiting: list[Piece] = []
    size, reported, train, whole = 0, 0, True, True
    place = Place()
    damage: Piece | None = None
    try:
        for piece in documents(entry, reading, place):
            if entry.split or not (piece.first and piece.last):
                if piece.first:
                    train = goes_to_train(piece.text, entry, val_fraction)
                piece = replace(piece, split_point=NEVER * train, char_offset=int(not piece.first))
            whole = piece.last
            waiting.append(piece)
            size += len(piece.text) + len(piece.prompt) + PROBLEM * bool(piece.problem)
            if size >= UNIT:
                yield tuple(waiting), place.bytes - reported
                waiting, size, reported = [], 0, place.bytes
    except DataError as error:
        damage = damaged(error, max(entry.bytes - place.bytes, 0))
    if not whole:  # every document has an end
        waiting.append(Piece(text="\n", first=False, split_point=NEVER * train, char_offset=1))
    waiting += [damage] if damage else []
    if waiting:
        yield tuple(waiting), (entry.bytes or place.bytes) - reported


def goes_to_train(head: str, entry: Input, val_fraction: float) -> bool:
    """Whether a document that begins with `head` is for training."""
    return entry.split == "train" if entry.split else not goes_to_val(head, val_fraction)


def ranges(entry: Input, reading: Reading, val_fraction: float) -> Iterator[Range]:
    """Yields a file in ranges that end where a word or, in JSON, a line does."""
    try:
        with Path(entry.path).open("rb") as file:
            head = file.read(4 * HEAD)
            split_point = -1
            if entry.kind == "text" and entry.bytes > UNIT:
                shown = decoding.decode(
                    whole_characters(head), entry.shown, reading.encoding, "replace"
                )
                split_point = NEVER * goes_to_train(shown, entry, val_fraction)
            start = 0
            while start < entry.bytes:
                end = entry.bytes
                if end - start > 2 * UNIT:
                    file.seek(start + UNIT)
                    if entry.kind == "jsonl":
                        file.readline()
                        end = min(file.tell(), entry.bytes)
                    else:
                        end = start + UNIT + cut_place(file.read(WINDOW))
                yield Range(
                    input=entry, start=start, end=end, char_offset=start, split_point=split_point
                )
                start = end
    except OSError as error:
        raise unreadable(entry.path, error) from None


def whole_point(entry: Input) -> int:
    """The split point of a whole document of an input: not known where no split is given."""
    return NEVER * (entry.split == "train") if entry.split else -1


def cut_place(window: bytes) -> int:
    """Where `window` can be cut: after a word or, where none ends, between two characters."""
    end = decoding.word_end(window)
    if end is not None:
        return end
    skipped = next((i for i, byte in enumerate(window[:4]) if byte & 0xC0 != 0x80), 0)
    # not between the two characters of a Windows line end
    return next((i for i in range(skipped, len(window)) if window[i] != 10), skipped)


def whole_characters(raw: bytes) -> bytes:
    """`raw` without a character of UTF-8 that is cut at its end."""
    return re.sub(rb"[\xc0-\xff][\x80-\xbf]{0,2}\Z", b"", raw)


def read(
    part: Range | Piece, reading: Reading, block: int = 0, *, undecoded: bool = False
) -> Iterator[Piece]:  # fmt: skip
    """Yields the pieces of a part of a unit; a part of a text in pieces of about `block` bytes, or
    in one. With `undecoded` those whose text nobody has to see stay bytes.
    """
    if isinstance(part, Piece):
        yield part
        return
    entry = part.input
    whole = part.start == 0 and part.end == entry.bytes
    char_offset = part.char_offset
    for at, raw in blocks(part, 0 if whole or entry.kind == "jsonl" else block):
        if entry.kind == "jsonl":
            for piece in of_jsonl(io.BytesIO(raw), entry.shown, reading, part.start):
                yield replace(piece, split_point=whole_point(entry))
            return
        if not at:
            guess.check_text(raw[: guess.HEAD], entry.shown, reading.encoding)
        last = at + len(raw) == entry.bytes
        if undecoded and at and not last:
            size = bpe_encoding.plain_characters(raw)
            # all of it on one side of the split, and neither the first there nor the last
            before, after = char_offset + size < part.split_point, part.split_point < char_offset
            if size >= 0 <= part.split_point and (before or after):
                yield Piece(
                    text="", first=False, last=False, char_offset=char_offset,
                    split_point=part.split_point, utf8=raw, characters=size,
                )  # fmt: skip
                char_offset += size
                continue
        shown = decoding.decode(raw, entry.shown, reading.encoding, reading.errors, at)
        yield Piece(
            text=shown, first=not at, last=last, char_offset=char_offset,
            split_point=whole_point(entry) if whole else part.split_point,
            replaced_bytes=decoding.count_replaced(raw, reading.encoding, reading.errors),
            utf8=decoding.kept_utf8(raw, reading.encoding, reading.errors),
        )  # fmt: skip
        char_offset += len(shown)


def blocks(part: Range, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields where in its file the blocks of a text lie that end where a word does, of about `size`
    bytes, and what they have; all of it where that is 0.
    """
    try:
        with Path(part.input.path).open("rb") as file:
            start = part.start
            while size and part.end - start > 2 * size:
                file.seek(start + size)
                window = file.read(decoding.NEAR)
                if decoding.word_end(window) is None:
                    window += file.read(min(WINDOW, part.end - file.tell()))
                end = start + size + cut_place(window)
                file.seek(start)
                yield start, file.read(end - start)
                start = end
            file.seek(start)
            yield start, file.read(part.end - start)
    except OSError as error:
        raise unreadable(part.input.path, error) from None
