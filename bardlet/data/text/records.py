"""Documents that are records: values of JSON; rows are in `tables`.

One that cannot be read is a piece with a `problem`, for the reader to raise or to leave out.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

from bardlet.data.text import conversations, decoding, guess, preferences
from bardlet.data.text.counts import Omission
from bardlet.data.text.fields import ABSENT, field_of, joined, size_of, text_fields
from bardlet.data.text.json_stream import values
from bardlet.errors import DataError

LINE_BYTES = 1 << 28  # the longest line of JSON, which has to be in memory


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How inputs are read: the encoding, and which field or column is the text."""

    encoding: str = "utf-8"
    errors: str = "strict"
    text_key: str = "text"
    prompt_key: str = ""
    response_key: str = ""
    # of a conversation, see `conversations`; two with a comma: see `preferences`; empty: of none
    messages_key: str = ""
    document_separator: str = ""  # of plain text; empty: it is one document
    format: str = ""  # of files that are no archives; empty: by their names
    ext: str = ""  # endings of the files of archives, with commas between; empty: all
    normalize: str = ""  # a normal form of Unicode in lower case; empty: the text as it is

    @property
    def keys(self) -> tuple[str, ...]:
        """The fields that are read of a record."""
        if self.messages_key:
            return conversations.KEYS.get(self.messages_key, tuple(self.messages_key.split(",")))
        paired = (self.prompt_key, self.response_key)
        return paired if self.prompt_key else (self.text_key,)

    @property
    def more_keys(self) -> tuple[str, ...]:
        """The fields that are read where a record has them."""
        if self.preferences:
            return preferences.MORE
        return conversations.MORE.get(self.messages_key, ())

    @property
    def preferences(self) -> bool:
        """Whether a record is a pair of conversations, one chosen and one rejected."""
        return "," in self.messages_key

    @property
    def masked(self) -> bool:
        """Whether only a part of each document counts in the loss."""
        return bool(self.prompt_key or self.messages_key)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A document or, between `first` and `last`, a part of one.

    Of a part, `char_offset` is the number of characters before it, and `split_point` how many
    characters of the document are for training; of a whole document `split_point` is -1, not known
    yet. A conversation is a whole document: `turns` are its roles and contents, and `text` all of
    its contents; of a pair `turns` were chosen and `rejected` were not. A piece with a `problem`
    stands for a document that cannot be read.
    `replaced_bytes` counts the places that the error handler has replaced since the piece before.
    `omitted` is what the reader has left out since then: all that a piece has that is a `notice`.
    """

    text: str
    prompt: str = ""
    turns: tuple[conversations.Turn, ...] = ()
    rejected: tuple[conversations.Turn, ...] = ()
    first: bool = True
    last: bool = True
    char_offset: int = 0
    split_point: int = -1
    problem: DataError | None = None
    replaced_bytes: int = 0
    omitted: tuple[Omission, ...] = ()
    notice: bool = False
    utf8: bytes = b""  # of all of its text, where the reader has that
    # of `utf8`, in a part of a text that is not decoded, so that `text` is empty; else -1
    characters: int = -1


def normalized(piece: Piece, form: str) -> Piece:
    """The piece in a normal form of Unicode: nfc, nfd, nfkc, nfkd, or empty for as it is."""
    if not form or (piece.text.isascii() and piece.prompt.isascii()):
        return piece
    name: Any = form.upper()
    text, prompt = (unicodedata.normalize(name, text) for text in (piece.text, piece.prompt))
    turns, rejected = (
        tuple((role, unicodedata.normalize(name, content)) for role, content in part)
        for part in (piece.turns, piece.rejected)
    )
    return replace(piece, text=text, prompt=prompt, turns=turns, rejected=rejected, utf8=b"")


def unread(problem: DataError, bytes: int = 0, replaced: int = 0) -> Piece:
    """The piece that stands for a document that cannot be read, of so many bytes."""
    omitted = (Omission("unread", 1, bytes),)
    return Piece(text="", problem=problem, replaced_bytes=replaced, omitted=omitted)


def of_record(record: Any, place: str, reading: Reading) -> Piece:
    """The document that a record is: a mapping of names to texts, or a text without a name.

    A list of texts is one text, of as many lines.
    """
    if isinstance(record, str) and not reading.prompt_key:
        record = {reading.text_key: record}
    if not isinstance(record, dict):
        raise DataError(
            f"{place} is not a record with names", "Each is an object of JSON, or a text"
        )
    if reading.preferences:
        return of_pair(record, place, reading.keys)
    if reading.messages_key:
        return of_conversation(record, place, reading.messages_key)
    texts: list[str] = []
    for key in reading.keys:
        value = field_of(record, key)
        shown = joined(value)
        if shown is None:
            there = ", ".join(list(text_fields(record))[:8])
            problem = "is not there" if value is ABSENT else "is not text"
            hint = "Name the text with --text_key (or --prompt_key and --response_key); there are "
            raise DataError(
                f"{place}: {key!r} {problem}",
                hint + there
                if there
                else "Name the text with --text_key; --skip_unreadable leaves out what has none",
            )
        decoding.check_surrogates(shown, place)
        texts.append(shown)
    if not reading.prompt_key:
        return Piece(text=texts[0])
    prompt, response = texts
    return Piece(text=response, prompt=prompt if prompt[-1:].isspace() else prompt + "\n")


def of_conversation(record: dict[str, Any], place: str, key: str) -> Piece:
    """The conversation that a record has under a key, or the notice of one that is left out."""
    field = field_of(record, key)
    turns = conversations.turns_of(record, key, None if field is ABSENT else field, place)
    for _, content in turns:
        decoding.check_surrogates(content, place)
    kept, omitted = conversations.checked(turns)
    if omitted:
        return Piece(text="", omitted=omitted, notice=True)
    return Piece(text="\n".join(content for _, content in kept), turns=kept)


def of_pair(record: dict[str, Any], place: str, keys: tuple[str, ...]) -> Piece:
    """The pair that a record has under two keys, or the notice of one that is left out."""
    chosen, rejected = (field_of(record, key) for key in keys)
    for key, answer in zip(keys, (chosen, rejected), strict=True):
        if answer is ABSENT:
            raise DataError(
                f"{place}: {key!r} is not there, and a pair has both answers",
                "Mend or remove it, or leave it out with --skip_unreadable",
            )
    pair, omitted = preferences.checked(preferences.pair_of(record, chosen, rejected, place))
    if omitted:
        return Piece(text="", omitted=omitted, notice=True)
    contents = [content for turns in pair for _, content in turns]
    for content in contents:
        decoding.check_surrogates(content, place)
    return Piece(text="\n".join(contents), turns=pair[0], rejected=pair[1])


def piece_of(record: Any, place: str, reading: Reading, replaced: int = 0, size: int = -1) -> Piece:
    """The document that a record is, or its problem; `size` in bytes, -1: of the texts in it."""
    try:
        return replace(of_record(record, place, reading), replaced_bytes=replaced)
    except DataError as error:
        return unread(error, size if size >= 0 else size_of(record), replaced)


def of_jsonl(file: IO[bytes], name: str, reading: Reading, start: int = 0) -> Iterator[Piece]:
    """Yields a document or its problem for each line of JSON; `start` is the first line's byte."""
    if "\n".encode(reading.encoding) != b"\n":  # lines are not seen before they are decoded
        yield from of_json(file, name, reading)
        return
    number, at = 1, start
    for line in file if start else lines_of(file, name, reading):
        place = f"{name}, the line at byte {at:,}" if start else f"{name}, line {number}"
        if len(line) > LINE_BYTES:
            raise DataError(f"{place} has more than {LINE_BYTES:,} bytes", "Split the document")
        if line.strip():
            yield of_line(line, place, reading)
        number, at = number + 1, at + len(line)


def lines_of(file: IO[bytes], name: str, reading: Reading) -> Iterator[bytes]:
    """Yields the lines of a file from its beginning, which is looked at over as many lines as it
    takes: a newline may stand among the bytes that tell a file of another kind.
    """
    lines = iter(lambda: file.readline(LINE_BYTES + 1), b"")
    head: list[bytes] = []
    size, damage = 0, None
    try:
        while size < guess.HEAD and (line := next(lines, b"")):
            head.append(line)
            size += len(line)
    except Exception as error:  # the lines before it are not lost
        damage = error
    guess.check_text(b"".join(head)[: guess.HEAD], name, reading.encoding)
    yield from head
    if damage:
        raise damage
    yield from lines


def of_line(line: bytes, place: str, reading: Reading) -> Piece:
    """The document in a line of JSON, or its problem."""
    replaced = decoding.count_replaced(line, reading.encoding, reading.errors)
    try:
        record = json.loads(decoding.decode(line, place, reading.encoding, reading.errors))
    except DataError as error:
        return unread(error, len(line), replaced)
    except (ValueError, RecursionError) as error:
        hint = "Mend or remove it, or leave it out with --skip_unreadable"
        return unread(DataError(f"{place} is not JSON: {error}", hint), len(line), replaced)
    return piece_of(record, place, reading, replaced, len(line))


def of_json(file: IO[bytes], name: str, reading: Reading) -> Iterator[Piece]:
    """Yields a document for each record, be they in an array or one after the other."""
    counted = decoding.CountedFile(file, reading.encoding, reading.errors)
    blocks = decoding.stream(counted, name, reading.encoding, reading.errors)
    for number, record in enumerate(values(blocks, name), start=1):
        yield piece_of(record, f"{name}, record {number}", reading, counted.take_replaced())
