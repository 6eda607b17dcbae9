"""Bytes to text: whole, a range of a file, or a stream; line ends as in Python's text mode."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import IO

from bardlet.data.text import guess
from bardlet.errors import DataError, UsageError

# Not "surrogateescape": it leaves code points that no tokenizer can encode.
ERROR_HANDLERS = ("strict", "replace", "ignore", "backslashreplace")
BLOCK = 1 << 20  # bytes that a stream is decoded by
NEAR = 1 << 9  # bytes in which a word mostly ends
# Text can be cut here and encoded in parts: in every pattern of tokenizers/patterns.py, a word that
# follows a letter or digit and has none itself begins at its first character, whatever comes next.
CUT = re.compile(r"(?<=[^\W_])(?=[ \n,.;:!?\u3000-\u3002\uff01\uff0c\uff1a\uff1b\uff1f])")


def word_end(window: bytes | memoryview) -> int | None:
    """Where a word of `CUT` ends in `window`, UTF-8 that may begin or end within a character; None
    where none does.
    """
    skipped = next((i for i, byte in enumerate(window[:4]) if byte & 0xC0 != 0x80), 0)
    for end in (NEAR, len(window)):
        shown = str(window[skipped:end], "utf-8", "surrogateescape")
        if match := CUT.search(shown):
            return skipped + len(shown[: match.start()].encode("utf-8", "surrogateescape"))
    return None


class CountedFile(io.RawIOBase):
    """A file that counts the places that an error handler replaces in what is read of it."""

    def __init__(self, file: IO[bytes], encoding: str, errors: str) -> None:
        super().__init__()
        self.file = file
        self.replaced = 0
        self.encoding, self.strict = encoding, errors == "strict"
        self.decoders: tuple[codecs.IncrementalDecoder, ...] = ()
        self.damage: Exception | None = None  # that the next reading raises

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        raw = self.read_block(size)
        if not (self.strict or self.decoders):
            new = codecs.getincrementaldecoder(guess.with_byte_order(self.encoding, raw))
            # for every such place "replace" gives one character, and "ignore" none
            self.decoders = new("replace"), new("ignore")
        if self.decoders:
            longer, shorter = (len(decoder.decode(raw, not raw)) for decoder in self.decoders)
            self.replaced += longer - shorter
        return raw

    def read_block(self, size: int) -> bytes:
        """As `read` of the file, but what comes before damage is not lost with it."""
        if self.damage:
            raise self.damage
        read_part = getattr(self.file, "read1", self.file.read)
        raw = b""
        while len(raw) < size:
            try:
                part = read_part(size - len(raw))
            except Exception as error:
                if not raw:
                    raise
                self.damage = error
                break
            if not part:
                break
            raw += part
        return raw

    def take_replaced(self) -> int:
        """The number of replaced places since the last call."""
        replaced, self.replaced = self.replaced, 0
        return replaced


def count_replaced(raw: bytes, encoding: str, errors: str) -> int:
    """How many places of `raw` an error handler replaces."""
    if errors == "strict":
        return 0
    encoding = guess.with_byte_order(encoding, raw)
    return len(raw.decode(encoding, "replace")) - len(raw.decode(encoding, "ignore"))


def check_decoding(encoding: str, errors: str) -> None:
    """Raises UsageError for an encoding or an error handler that cannot decode text."""
    if errors not in ERROR_HANDLERS:
        raise UsageError(
            f"unknown error handler {errors!r}", f"--errors is one of: {', '.join(ERROR_HANDLERS)}."
        )
    try:
        # also refuses codecs that do not give text, or replace nothing
        b"ab\xff".decode(encoding, "replace")
    except (LookupError, ValueError):
        hint = "Common ones are utf-8, utf-16, latin-1 and cp1252."
        raise UsageError(f"unknown encoding {encoding!r}", hint) from None


def decode(raw: bytes, name: str, encoding: str, errors: str, offset: int = 0) -> str:
    """Returns the text without its byte order mark, line ends as in Python's text mode.

    `offset` is where in its file `raw` begins.
    """
    try:
        text = raw.decode(guess.with_byte_order(encoding, raw), errors)
    except UnicodeDecodeError as error:
        # Some codecs count from after the byte order mark; the user's editor does not.
        at = len(raw) - len(error.object) + error.start
        raise undecodable(name, encoding, raw, error, offset + at) from None
    except UnicodeError as error:
        raise malformed(name, encoding, error) from None
    check_decoded(text, encoding, name)
    text = text if offset else text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def kept_utf8(raw: bytes, encoding: str, errors: str) -> bytes:
    """`raw` where it is, byte for byte, what `decode` makes of it in UTF-8; else nothing."""
    plain = codecs.lookup(encoding).name == "utf-8" and errors == "strict"
    return raw if plain and b"\r" not in raw and not raw.startswith(codecs.BOM_UTF8) else b""


def stream(
    file: CountedFile, name: str, encoding: str, errors: str, *, translate: bool = True
) -> Iterator[str]:
    """Yields the text of `file` a block at a time, as `decode` gives it whole, with line ends as
    they are where not `translate`.
    """
    head, done = b"", 0
    decoder: io.IncrementalNewlineDecoder | None = None
    while True:
        raw = file.read(BLOCK)
        head, done = head or raw, done + len(raw)
        if decoder is None:
            guess.check_text(raw[: guess.HEAD], name, encoding)
            new = codecs.getincrementaldecoder(guess.with_byte_order(encoding, raw))
            decoder = io.IncrementalNewlineDecoder(new(errors), translate=translate)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            at = done - len(error.object) + error.start
            raise undecodable(name, encoding, head, error, at) from None
        except UnicodeError as error:
            raise malformed(name, encoding, error) from None
        check_decoded(text, encoding, name)
        yield text if done > len(raw) else text.removeprefix("\ufeff")
        if not raw:
            return


def undecodable(
    name: str, encoding: str, head: bytes, error: UnicodeDecodeError, at: int
) -> DataError:
    """What to say of a byte that is not of the encoding; `head` is how its file begins."""
    raw = (
        head if head.startswith(guess.MARKS["utf-16"]) else guess.sample(error.object, error.start)
    )
    shown = guess.readings(raw, encoding)
    return DataError(
        f"{name} is not {encoding}: "
        f"byte 0x{error.object[error.start]:02x} at offset {at} ({error.reason})",
        f"Name its encoding{': ' * bool(shown)}{shown or ' with --encoding'}, "
        "or go on with --errors replace.",
    )


def malformed(name: str, encoding: str, error: UnicodeError) -> DataError:
    """What to say of text that is not of its encoding, where its codec names no byte."""
    return DataError(
        f"{name} is not {encoding}: {' '.join(str(error).split())}",
        "Name the encoding it is really in, such as --encoding utf-8 or utf-16-le.",
    )


def check_decoded(text: str, encoding: str, name: str) -> None:
    """`check_surrogates` for text out of an encoding; UTF-8 has none by itself."""
    if codecs.lookup(encoding).name != "utf-8":
        check_surrogates(text, name)


def check_surrogates(text: str, name: str) -> None:
    """Raises DataError for half a surrogate pair, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        problem = f"{name} has a lone surrogate, not a character"
        hint = "Name the encoding it is really in with --encoding."
        raise DataError(problem, hint) from None
