"""A unit of text to token ids: what each process does, with nothing to know of the others."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bardlet.data.dataset.folder import SPLITS
from bardlet.data.prepare.encode_spec import EncodeSpec
from bardlet.data.prepare.splits import sides
from bardlet.data.prepare.units import Range, Unit, read
from bardlet.data.text.conversations import Turn
from bardlet.data.text.counts import Counts
from bardlet.data.text.preferences import shared
from bardlet.data.text.records import Piece, normalized
from bardlet.data.text.separators import count_marks
from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.errors import DataError

BLOCK = 1 << 18  # bytes of a text, decoded and encoded while they are in the cache


@dataclass(kw_only=True)
class Encoded:
    """One split's tokens of a unit, and for each document or part of one an entry in the lists."""

    ids: list[np.ndarray] = field(default_factory=list)
    begins: list[bool] = field(default_factory=list)
    # which tokens count in the loss, (T,) bool each; None: all
    counted: list[np.ndarray | None] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)  # of the unit, whose entry it is


@dataclass(kw_only=True)
class Result:
    """What became of a unit."""

    splits: dict[str, Encoded]
    digests: list[bytes] = field(default_factory=list)  # of each document; none for a part of one
    counts: Counts = field(default_factory=Counts)  # of what does not reach the dataset
    failed: dict[str, str] = field(default_factory=dict)  # by input, why


def pieces(
    unit: Unit, spec: EncodeSpec, result: Result, *, divided: bool = False, undecoded: bool = False
) -> Iterator[Piece]:  # fmt: skip
    """Yields the pieces of a unit; `result` gets what was replaced and, with `skip`, what cannot be
    read. See `of_part` for `divided` and `undecoded`.
    """
    for part in unit.parts:
        yield from of_part(part, unit, spec, result, divided=divided, undecoded=undecoded)


def of_part(
    part: Range | Piece, unit: Unit, spec: EncodeSpec, result: Result, *, divided: bool,
    undecoded: bool = False,
) -> Iterator[Piece]:  # fmt: skip
    """`pieces`, of one part of a unit; `divided` where it may be cut after any word, `undecoded`
    where parts of it may stay bytes.
    """
    name = part.input.name if isinstance(part, Range) else unit.source
    # with `skip`, what cannot be read is left out whole
    block = BLOCK if divided and not spec.skip else 0
    try:
        for piece in read(part, spec.reading, block, undecoded=undecoded):
            if piece.problem and not spec.skip:
                raise piece.problem
            result.counts.add("replaced", piece.replaced_bytes)
            result.counts.add_all(piece.omitted)
            if piece.problem:
                result.failed.setdefault(name, piece.problem.message)
            elif not piece.notice:
                piece = normalized(piece, spec.reading.normalize)
                for part_of_it in (piece.prompt, piece.text):
                    if "\0" in part_of_it:  # which is seen much faster than it is counted
                        result.counts.add("nul", part_of_it.count("\0"))
                yield piece
    except DataError as error:
        if not spec.skip:
            raise
        left = part.end - part.start if isinstance(part, Range) else 0
        result.counts.add("damaged", 1, left)
        result.failed.setdefault(name, error.message)
        if isinstance(part, Range) and (edge := edge_of(part)):
            yield edge


def is_divisible(encoder: tokenizers.Tokenizer) -> bool:
    """Whether a text that is cut after a word has the tokens of its parts."""
    return encoder.kind in ("char", "byte") or bool(getattr(encoder, "pattern", None))


def edge_of(part: Range) -> Piece | None:
    """What stands for a part of a text that cannot be read, where the text begins or ends there."""
    first, last = part.start == 0, part.end == part.input.bytes
    if part.input.kind != "text" or first == last:
        return None
    return Piece(
        text="\n", first=first, last=last, char_offset=part.char_offset,
        split_point=part.split_point,
    )  # fmt: skip


def encode(unit: Unit, spec: EncodeSpec) -> Result:
    """The tokens of a unit."""
    result = Result(splits={split: Encoded() for split in SPLITS})
    divided = is_divisible(spec.encoder)
    undecoded = divided and spec.undecoded
    for piece in pieces(unit, spec, result, divided=divided, undecoded=undecoded):
        if piece.characters >= 0:
            result.digests.append(b"")
            encode_undecoded(result, piece, spec)
            continue
        whole = piece.first and piece.last
        if whole and (not piece.text or piece.text.isspace()):
            result.counts.add("empty", 1, size(piece.prompt + piece.text))
            continue
        if piece.first and not unicodedata.is_normalized("NFC", piece.text):
            result.counts.add("decomposed", not spec.reading.normalize)
        for mark, number in count_marks(piece.text).items():
            result.counts.add("marks", number, 0, mark)
        digest = b""
        if spec.distinct and whole:
            raw = (piece.prompt + "\0" + piece.text).encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(raw, digest_size=16).digest()
        elif spec.distinct and piece.first:
            result.counts.add("uncompared")
        result.digests.append(digest)
        for split, part, begins, ends in sides(piece, spec.by, spec.val_fraction):
            if split not in spec.splits:
                continue
            if piece.turns:
                for turns in filter(None, (piece.turns, piece.rejected)):
                    encode_conversation(result, split, turns, spec, piece)
                continue
            utf8 = piece.utf8 if len(part) == len(piece.text) else b""
            encode_part(result, split, part, piece.prompt, begins, ends, spec, utf8)
    return result


def size(text: str, utf8: bytes = b"") -> int:
    """Its bytes in UTF-8, which `utf8` has where it is known."""
    if utf8:
        return len(utf8)
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def encode_undecoded(result: Result, piece: Piece, spec: EncodeSpec) -> None:
    """Add a part within a text to its split, if that is encoded."""
    assert isinstance(spec.encoder, BPETokenizer)
    split = "val" if piece.split_point < piece.char_offset else "train"
    if split not in spec.splits:
        return
    ids = [spec.encoder.encode_utf8(piece.utf8)]
    add(result, split, ids, None, False, piece.characters, len(piece.utf8), spec)


def encode_part(
    result: Result, split: str, shown: str, prompt: str, begins: bool, ends: bool,
    spec: EncodeSpec, utf8: bytes,
) -> None:  # fmt: skip
    """Add a document, or a part of one, to a split; `utf8` is `shown` so, where that is known."""
    encoder = spec.encoder
    end = encoder.end_of_text if spec.separate and ends else None
    if spec.separate and ends and encoder.end_of_text is None and not shown.endswith("\n"):
        shown, utf8 = shown + "\n", utf8 and utf8 + b"\n"
    if utf8 and isinstance(encoder, BPETokenizer):
        of_shown = encoder.encode_utf8(utf8)
    else:
        of_shown = encoder.encode(shown)
    asked = encoder.encode(prompt) if prompt else np.zeros(0, dtype=np.uint8)
    ids = [asked, of_shown] if prompt else [of_shown]
    uncut = begins and (split == "train" or spec.by in ("document", "given"))
    for text, tokens in zip((prompt, shown)[not prompt :], ids, strict=True):
        result.counts.add_all(spec.coverage.omissions(text, tokens, begins=uncut))
        uncut = False
    if end is not None:
        ids.append(np.array([end], dtype=np.uint32))
    counted = np.arange(sum(map(len, ids))) >= len(asked) if spec.reading.masked else None
    text = prompt + shown
    bytes = size(text, b"" if prompt else utf8)
    add(result, split, ids, counted, begins, len(text), bytes, spec)


def encode_conversation(
    result: Result, split: str, turns: tuple[Turn, ...], spec: EncodeSpec, piece: Piece
) -> None:
    """Add a conversation to a split, which ends with what ends a text, or begins with it where its
    template does. What both of a pair have in common is a prompt, which does not count.
    """
    end = spec.encoder.end_of_text
    messages = [{"role": role, "content": text} for role, text in turns]
    ids, counted = spec.chat.encode(messages, after=shared(piece.turns, piece.rejected))
    if end is not None and (not len(ids) or ids[0] != end):
        ids, counted = np.append(ids, end), np.append(counted, False)
    for _, text in turns:
        result.counts.add("role_tokens", spec.chat.typed(text))
        if not spec.coverage.exact:
            tokens = spec.encoder.encode(text)
            result.counts.add_all(spec.coverage.omissions(text, tokens, begins=False))
    text = "\n".join(content for _, content in turns)
    ids = [ids.astype(np.uint32)]
    add(result, split, ids, counted, True, len(text), size(text), spec)


def add(
    result: Result, split: str, ids: list[np.ndarray], counted: np.ndarray | None, begins: bool,
    characters: int, bytes: int, spec: EncodeSpec,
) -> None:  # fmt: skip
    """Add the ids of a document, or of a part of one, to a split."""
    if spec.narrow:
        ids = [part.astype(np.uint16) if part.itemsize > 2 else part for part in ids]
    encoded = result.splits[split]
    encoded.ids.append(np.concatenate(ids) if len(ids) > 1 else ids[0])
    encoded.begins.append(begins)
    encoded.counted.append(counted)
    encoded.characters.append(characters)
    encoded.bytes.append(bytes)
    encoded.documents.append(len(result.digests) - 1)
