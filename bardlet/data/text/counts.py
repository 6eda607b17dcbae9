"""What of a corpus does not reach the dataset, or not as it is, counted by reason.

Readers and the pipeline add to it, the manifest keeps it, and the user hears a line a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

EXAMPLES = 8  # that are named of a reason
# What is said of one, and of several.
REASONS: dict[str, tuple[str, str]] = {
    "hidden": ("hidden file was left out", "hidden files were left out"),
    "own": ("folder of a dataset, run or model was left out",
            "folders of datasets, runs or models were left out"),
    "vocabulary": ("file of a vocabulary was left out", "files of vocabularies were left out"),
    "linked": ("link to what is read already, or above, was not followed",
               "links to what is read already, or above, were not followed"),
    "other_endings": ("file with an ending that --ext does not name was left out",
                      "files with endings that --ext does not name were left out"),
    "links": ("link in an archive was left out, with what it leads to",
              "links in archives were left out, with what they lead to"),
    "packed": ("archive or Parquet file in an archive was left out: unpack the outer one",
               "archives and Parquet files in archives were left out: unpack the outer one"),
    "not_text": ("file that is not text was passed over",
                 "files that are not text were passed over"),
    "other_encoding": ("file that is not in the encoding, which --encoding names, was passed over",
                       "files that are not in the encoding, which --encoding names, were passed "
                       "over"),
    "other_json": ("JSON file without what --text_key names was left out",
                   "JSON files without what --text_key names were left out"),
    "json_as_text": ("file that begins as JSON was read as text (--format jsonl: as records)",
                     "files that begin as JSON were read as text (--format jsonl: as records)"),
    "damaged": ("input could not be read to its end", "inputs could not be read to their end"),
    "unread": ("document that could not be read was left out",
               "documents that could not be read were left out"),
    "replaced": ("place that is not of the encoding was mended",
                 "places that are not of the encoding were mended"),
    "nul": ("NUL character is in the text, which binary files have",
            "NUL characters are in the text, which binary files have"),
    "decomposed": ("document is not in the normal form NFC, as most text is (--normalize nfc)",
                   "documents are not in the normal form NFC, as most text is (--normalize nfc)"),
    "unseparated": ("text does not have the document separator and is one document",
                    "texts do not have the document separator and are one document each"),
    "marks": ("line that looks like a --document_separator was kept as text",
              "lines that look like a --document_separator were kept as text"),
    "unknown": ("character that the vocabulary lacks became its token for unknown ones",
                "characters that the vocabulary lacks became its token for unknown ones"),
    "dropped": ("character that the vocabulary has no token for vanished",
                "characters that the vocabulary has no tokens for vanished"),
    "altered": ("document is not the same when it is decoded",
                "documents are not the same when they are decoded"),
    "unanswered": ("conversation without an answer was left out",
                   "conversations without an answer were left out"),
    "other_roles": ("conversation with a role or order that is not known was left out",
                    "conversations with roles or an order that are not known were left out"),
    "empty_turns": ("conversation with an empty turn was left out",
                    "conversations with an empty turn were left out"),
    "long_conversations": ("conversation of more than 1,000 turns was left out",
                           "conversations of more than 1,000 turns were left out"),
    "unpaired": ("pair without a chosen or a rejected answer was left out",
                 "pairs without a chosen or a rejected answer were left out"),
    "equal_answers": ("pair of the same answer twice was left out",
                      "pairs of the same answer twice were left out"),
    "other_prompts": ("pair whose answers are to different prompts was left out",
                      "pairs whose answers are to different prompts were left out"),
    "role_tokens": ("name of a special token in what somebody wrote was kept as plain text",
                    "names of special tokens in what somebody wrote were kept as plain text"),
    "empty": ("empty document was left out", "empty documents were left out"),
    "uncompared": ("long or damaged document was kept without being compared",
                   "long or damaged documents were kept without being compared"),
    "duplicates": ("duplicate was left out", "duplicates were left out"),
}  # fmt: skip


class Omission(NamedTuple):
    """So many of something, for one reason; `bytes` is 0 where their size is not known."""

    reason: str
    number: int = 1
    bytes: int = 0
    example: str = ""


@dataclass(kw_only=True)
class Count:
    """How many there are for a reason, their bytes where known, and the first few by name."""

    number: int = 0
    bytes: int = 0
    examples: Sequence[str] = ()


class Counts:
    """The counts of every reason that occurred."""

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        """No counts, or those that `to_json` gave."""
        self.entries = {reason: Count(**entry) for reason, entry in (entries or {}).items()}

    def add(self, reason: str, number: int = 1, bytes: int = 0, example: str = "") -> None:
        """Count `number` more, of `bytes` bytes together."""
        if not (number or example):
            return
        entry = self.entries.setdefault(reason, Count())
        entry.number += number
        entry.bytes += bytes
        if example and example not in entry.examples and len(entry.examples) <= EXAMPLES:
            # one more than is named: that there are more is said
            entry.examples = (*entry.examples, example)

    def add_all(self, omissions: Iterable[Omission]) -> None:
        for omission in omissions:
            self.add(*omission)

    def update(self, entries: Mapping[str, Count]) -> None:
        """Add the counts of another part of the work."""
        for reason, entry in entries.items():
            self.add(reason, entry.number, entry.bytes)
            for example in entry.examples:
                self.add(reason, 0, 0, example)

    def number(self, reason: str) -> int:
        return self.entries[reason].number if reason in self.entries else 0

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The manifest's entry: for each reason, in the order of `REASONS`, its fields."""
        return {r: dict(vars(self.entries[r])) for r in REASONS if r in self.entries}

    def report(self) -> list[str]:
        """A line for each reason."""
        return [line(reason, self.entries[reason]) for reason in REASONS if reason in self.entries]


def line(reason: str, entry: Count) -> str:
    """What is said of a count: "2 duplicates were left out (31 bytes)"."""
    said = f"{entry.number:,} {REASONS[reason][entry.number != 1]}"
    if entry.bytes:
        said += f" ({entry.bytes:,} byte{'s' * (entry.bytes != 1)})"
    if entry.examples:
        said += f": {', '.join(entry.examples[:EXAMPLES])}"
        said += ", ..." * (len(entry.examples) > EXAMPLES)
    return said
