"""Which text is for training and which for validation."""

from __future__ import annotations

import contextlib
import hashlib
import itertools

from bardlet.data.text.documents import documents
from bardlet.data.text.records import Piece, Reading
from bardlet.data.text.sources import Collection
from bardlet.errors import DataError

FEW = 20  # documents, below which each is split by position: a hash might leave a side without any
HEAD = 1 << 16  # characters that decide on which side of the split a document falls


def automatic(collection: Collection, reading: Reading, *, part: bool) -> str:
    """What `auto` means for a collection or a part of one: known before all is read."""
    whole = part or reading.prompt_key
    return "document" if whole or many(collection, reading) else "position"


def many(collection: Collection, reading: Reading) -> bool:
    """Whether there are enough documents for a hash to leave no side without any."""
    count = 0
    for entry in collection.inputs:
        if entry.kind in ("text", "memory"):
            count += 1
        elif entry.kind == "hub":
            return True
        else:
            with contextlib.suppress(DataError):  # reading all of it says so
                ends = (piece.last for piece in documents(entry, reading) if piece.last)
                count += sum(itertools.islice(ends, FEW))
        if count >= FEW:
            return True
    return False


def goes_to_val(head: str, val_fraction: float) -> bool:
    """Whether a document that begins with `head` is for validation, whatever others there are."""
    raw = head[:HEAD].encode("utf-8", "surrogatepass")
    place = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
    return place < val_fraction * 2**64


def sides(piece: Piece, by: str, val_fraction: float) -> list[tuple[str, str, bool, bool]]:
    """The parts of a piece: the split, the text, and whether a document begins and ends there."""
    size, split_point = len(piece.text), piece.split_point
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
