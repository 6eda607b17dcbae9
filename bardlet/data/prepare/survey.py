"""What has to be known of a corpus before its first token: its alphabet, where texts are split.

Nothing, for a tokenizer that is there already and documents that fall to one side whole. A
tokenizer that is made before there are splits, or compared with others, surveys all of a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bardlet.data.prepare import encoding, scanning, workers
from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.prepare.options import CUTTING, has_borders
from bardlet.data.prepare.progress import bar
from bardlet.data.prepare.remarks import failures
from bardlet.data.prepare.splits import sides, train_size
from bardlet.data.prepare.units import Range, Unit, units
from bardlet.data.text.counts import Counts
from bardlet.data.text.inputs import Collection
from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.data.tokenizers.char import count as count_characters
from bardlet.errors import DataError

SAMPLE = 1 << 27  # bytes of text that a vocabulary is trained on, taken from everywhere


@dataclass(kw_only=True)
class Tally:
    """What of a corpus was changed or left out, and by input why it could not be read."""

    failed: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def add(self, result: encoding.Result) -> None:
        """Take note of what became of a unit."""
        self.counts.update(result.counts.entries)
        for name, why in result.failed.items():
            self.failed.setdefault(name, why)

    def report(self) -> list[str]:
        """Remarks for the user."""
        return failures(self.failed) + self.counts.report()


@dataclass(kw_only=True)
class Survey:
    """What was found. `places` is, by unit, the offset and split point of each part of a text."""

    characters: int = -1  # -1: not counted
    places: dict[str, list[list[int]]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    end_of_text: int | None = None  # the token between documents
    chat_template: str = ""  # of conversations, in Jinja

    def noted(self) -> dict[str, Any]:
        """What a preparation that goes on needs of it."""
        return {
            "characters": self.characters, "places": self.places, "end_of_text": self.end_of_text,
            "chat_template": self.chat_template,
        }  # fmt: skip

    def template(self) -> dict[str, str]:
        """The template, where there are conversations."""
        return {"chat_template": self.chat_template} if self.chat_template else {}

    def with_split_points(self, unit: Unit) -> Unit:
        """The unit with its parts of texts knowing where they are split."""
        places = iter(self.places.get(str(unit.index), ()))
        parts = tuple(
            replace(part, char_offset=place[0], split_point=place[1])
            if is_part(part) and (place := next(places, None))
            else part
            for part in unit.parts
        )
        return replace(unit, parts=parts)


def is_part(part: Any) -> bool:
    """Whether this is a part of a text and no whole one."""
    if isinstance(part, Range):
        whole = part.start == 0 and part.end == part.input.bytes
        return part.input.kind == "text" and not whole
    return not (part.first and part.last)


def ends(part: Any) -> bool:
    """Whether a text ends with this part of it."""
    return part.end == part.input.bytes if isinstance(part, Range) else part.last


def survey(
    collection: Collection, spec: EncodeSpec, options: Any,
    read: Callable[[], Iterable[Unit]], say: Callable[[str], None], count: int,
    seen: Survey,
) -> Tokenizer:  # fmt: skip
    """Read what has to be read into `seen`, and choose the tokenizer."""
    name = options.tokenizer
    factory.check_size(name, options.vocab_size)
    encoder = None
    if name not in ("char", "bpe"):
        encoder = factory.choose(name, "", vocab_size=options.vocab_size, say=say)
        encoder = factory.ended_by(encoder, options.end_of_text)
    talks = bool(options.reading.messages_key)
    counts = np.zeros(128, dtype=np.int64)
    if name == "char" or spec.by in CUTTING:
        counts = scan(collection, spec, read, seen, count)
    if name == "char":
        check_text("".join(map(chr, np.flatnonzero(counts))), collection, spec, seen)
        if talks:  # what the template writes is not in the text
            counts = count_characters(factory.chat_characters(options.chat_template), counts)
        encoder = CharTokenizer.of_counts(counts, options.vocab_size, ends=spec.separate)
    elif name == "bpe":
        text = sample(collection, spec, read, seen)
        check_text(text, collection, spec, seen)
        encoder = factory.choose(name, text, vocab_size=options.vocab_size, say=say)
    assert encoder is not None
    encoder = factory.ended_by(encoder, options.end_of_text)
    if talks:
        encoder, seen.chat_template = factory.for_chats(encoder, name, options.chat_template)
    seen.end_of_text = encoder.end_of_text
    return encoder


def learnt(collection: Collection, options: Any, say: Callable[[str], None]) -> Tokenizer:
    """The tokenizer that `options` ask for, made for all of a corpus; DataError where it is empty.

    There are no splits yet, so nothing is left out for validation.
    """
    seen = Survey()
    spec, read = everything(collection, options, separate=True)
    size = sum(entry.bytes for entry in collection.inputs)
    count = workers.default_count(size, options.tokenizer == "char")
    made = survey(collection, spec, options, read, say, count, seen)
    for line in seen.tally.report():
        say(line)
    return made


def text_of(
    collection: Collection, options: Any, max_bytes: int, say: Callable[[str], None]
) -> str:  # fmt: skip
    """About `max_bytes` bytes of text from everywhere in a corpus; DataError where it is empty."""
    seen = Survey()
    spec, read = everything(collection, options, separate=has_borders(collection, options))
    text = sample(collection, spec, read, seen, max_bytes)
    check_text(text, collection, spec, seen)
    for line in seen.tally.report():
        say(line)
    return text


def everything(
    collection: Collection, options: Any, *, separate: bool
) -> tuple[EncodeSpec, Callable[[], Iterable[Unit]]]:  # fmt: skip
    """The spec that takes all documents for training, and what gives their units."""
    options.check()
    spec = EncodeSpec(
        reading=options.reading, by="document", val_fraction=0.0, separate=separate,
        skip=options.skip_unreadable,
    )  # fmt: skip
    return spec, lambda: units(collection.inputs, options.reading, 0.0)


def scan(
    collection: Collection, spec: EncodeSpec, read: Callable[[], Iterable[Unit]],
    seen: Survey, count: int,
) -> np.ndarray:  # fmt: skip
    """Count the characters of everything into `seen`; return how often each one is there."""
    counts = np.zeros(128, dtype=np.int64)
    seen.characters = 0
    text: list[tuple[str, int]] = []  # the parts of the text that is being read: unit, characters
    with bar("reading", sum(entry.bytes for entry in collection.inputs)) as advance:
        for unit, scanned in workers.ordered_map(scanning.scan, read(), spec, count):
            seen.characters += scanned.characters
            seen.tally.add(scanned.result)
            last = int(scanned.alphabet.max(initial=0))
            if last >= len(counts):
                counts = np.concatenate([counts, np.zeros(last + 1 - len(counts), np.int64)])
            counts[scanned.alphabet] += scanned.counts
            advance(unit.bytes)
            for part, size in zip(unit.parts, scanned.sizes, strict=True):
                if not is_part(part):
                    continue
                text.append((str(unit.index), size))
                if ends(part) and spec.by in CUTTING:
                    place(seen, text, spec)
                if ends(part):
                    text = []
    return counts


def place(seen: Survey, text: list[tuple[str, int]], spec: EncodeSpec) -> None:
    """Note for each part of a text where it stands and where the text is split, or is by blocks,
    ends.
    """
    split_point = sum(size for _, size in text)
    if spec.by == "position":
        split_point = train_size(split_point, spec.val_fraction)
    offset = 0
    for index, size in text:
        seen.places.setdefault(index, []).append([offset, split_point])
        offset += size


def sample(
    collection: Collection, spec: EncodeSpec, read: Callable[[], Iterable[Unit]],
    seen: Survey, max_bytes: int = 0,
) -> str:  # fmt: skip
    """Text for training from everywhere in the corpus: all of it up to `max_bytes` bytes (0:
    `SAMPLE`), and of more text so much and up to a unit more.
    """
    max_bytes = max_bytes or SAMPLE
    total = sum(entry.bytes for entry in collection.inputs)  # of files, whose text can be longer
    taken: list[str] = []
    size = passed = 0
    for unit in read():
        passed += unit.bytes
        if size >= max_bytes:
            break
        if total and size >= max_bytes * passed / total:  # more than its share of what was passed
            continue
        result = encoding.Result(splits={})
        for piece in encoding.pieces(seen.with_split_points(unit), spec, result):
            for split, text, _, ends in sides(piece, spec.by, spec.val_fraction):
                if split == "train":
                    taken += [piece.prompt, text]
                    size += sum(len(part.encode("utf-8")) for part in (piece.prompt, text))
                    if spec.separate and ends and not text.endswith("\n"):
                        taken.append("\n")
        seen.tally.add(result)
    return "".join(taken)


def check_text(text: str, collection: Collection, spec: EncodeSpec, seen: Survey) -> None:
    """Raise DataError where all of a corpus is white space, and there are no splits to check."""
    if not spec.val_fraction and not text.strip():
        for why in seen.tally.failed.values():
            raise DataError(f"nothing could be read: {why}")
        raise DataError(f"{collection.name} is empty", "Give a source with some text in it.")
