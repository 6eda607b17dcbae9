"""Which text is for training and which for validation."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator

from bardlet.data.text.documents import documents
from bardlet.data.text.inputs import Collection
from bardlet.data.text.records import Piece, Reading, normalized
from bardlet.errors import DataError

FEW = 20  # documents, below which each is split by position: a hash might leave a side without any
MIN_BLOCK, MAX_BLOCK = 500, 1 << 16  # characters
HEAD = 1 << 16  # characters that decide on which side of the split a document falls


def automatic(
    collection: Collection, reading: Reading, val_fraction: float, *, part: bool
) -> tuple[str, float, str]:  # fmt: skip
    """What `auto` means for a collection or a part of one, known before all is read: the rule, the
    fraction and, where these are not what is usual, a remark.

    Few documents, and those that all fall to one side, are each split by position. Of pairs, which
    cannot be, the one nearest to the other side falls to it.
    """
    if part or any(entry.kind == "hub" for entry in collection.inputs):
        return "document", val_fraction, ""
    pairs, count, places = reading.masked, 0, set[int]()
    for place in hashes(collection, reading):
        count += 1
        places.add(place)
        side = {of_hash < val_fraction * 2**64 for of_hash in (min(places), max(places))}
        if len(side) == 2 and (pairs or count >= FEW):
            return "document", val_fraction, ""
    if pairs and len(places) > 1:
        empty_val = min(places) >= val_fraction * 2**64
        nearest = min(places) if empty_val else max(places)
        fraction = nearest / 2**64
        while (nearest < fraction * 2**64) != empty_val:  # of a number that was rounded
            fraction = math.nextafter(fraction, 1.0 if empty_val else 0.0)
        side = "val" if empty_val else "train"
        what = "pair" if reading.prompt_key else "conversation"
        note = f"by its hash no {what} falls to {side} at val_fraction={val_fraction:g}"
        return "document", fraction, f"{note}: val_fraction={fraction:.4g} is taken"
    if pairs or count < FEW:
        return ("document" if pairs else "position"), val_fraction, ""
    side = "val" if min(places) >= val_fraction * 2**64 else "train"
    note = f"by their hash no document falls to {side}: each is split by position"
    return "position", val_fraction, note


def hashes(collection: Collection, reading: Reading) -> Iterator[int]:
    """Yields where each document that has text falls, see `hash_of`."""
    for entry in collection.inputs:
        alone = entry.kind == "text" and not reading.document_separator
        with contextlib.suppress(DataError):  # reading all of it says so
            for piece in documents(entry, reading):
                if piece.first and piece.text and not piece.text.isspace():
                    piece = normalized(piece, reading.normalize)
                    yield hash_of(piece.prompt + piece.text)
                if alone:  # no other begins in what follows
                    break


def hash_of(head: str) -> int:
    """A number below 2^64 for a document that begins with `head`, whatever others there are."""
    raw = head[:HEAD].encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


def goes_to_val(head: str, val_fraction: float) -> bool:
    """Whether a document that begins with `head` is for validation."""
    return hash_of(head) < val_fraction * 2**64


def sides(piece: Piece, by: str, val_fraction: float) -> list[tuple[str, str, bool, bool]]:
    """The parts of a piece: the split, the text, and whether a document begins and ends there."""
    size, split_point = len(piece.text), piece.split_point
    if by == "blocks":
        return block_sides(piece, val_fraction)
    if split_point < 0 and by == "document":
        split_point = 0 if goes_to_val(piece.prompt + piece.text, val_fraction) else size
    elif split_point < 0:
        split_point = train_size(size, val_fraction)
    cut = min(max(split_point - piece.char_offset, 0), size)
    parts = []
    if cut:
        ends = piece.last or split_point <= piece.char_offset + size
        parts.append(("train", piece.text[:cut], piece.first, ends))
    if cut < size:
        parts.append(("val", piece.text[cut:], split_point >= piece.char_offset, piece.last))
    return parts


def train_size(size: int, val_fraction: float) -> int:
    """How many of a document's characters are for training: nanoGPT's int(n * 0.9), and neither
    side is empty where there are two.
    """
    return min(max(int(size * (1 - val_fraction)), 1), max(size - 1, 1))


def block_sides(piece: Piece, val_fraction: float) -> list[tuple[str, str, bool, bool]]:
    """`sides` by blocks: each split has its blocks of the document joined.

    `split_point` of a part is the number of characters of its document.
    """
    start, size = piece.char_offset, len(piece.text)
    total = size if piece.split_point < 0 else piece.split_point
    block = block_size(total, val_fraction)
    in_val = [block_in_val(k, val_fraction) for k in range(-(-total // block))]
    parts = []
    for split, wanted in (("train", False), ("val", True)):
        numbers = [k for k, val in enumerate(in_val) if val is wanted]
        bounds = [(max(k * block - start, 0), (k + 1) * block - start) for k in numbers]
        text = "".join([piece.text[a:b] for a, b in bounds if b > 0])
        if text:
            begins = numbers[0] * block >= start
            ends = min((numbers[-1] + 1) * block, total) <= start + size
            parts.append((split, text, begins, ends))
    return parts


def block_size(total: int, val_fraction: float) -> int:
    """Characters of a block in a text of `total`: so few that validation has ten, where they have
    MIN_BLOCK or more then.
    """
    wanted = min(max(int(total * val_fraction / 10), MIN_BLOCK), MAX_BLOCK)
    return max(min(wanted, math.ceil(total * val_fraction)), 1)


def block_in_val(number: int, val_fraction: float) -> bool:
    """Whether a block is for validation: a `val_fraction` of them is, at equal distances."""
    before, after = (math.floor(k * val_fraction + 0.5) for k in (number, number + 1))
    return after > before
