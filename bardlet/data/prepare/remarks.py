"""What a user should know of a corpus after it was read, and did not ask for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bardlet.data.text.inputs import Collection
from bardlet.data.text.records import Reading
from bardlet.data.tokenizers import bpe_encoding
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.bpe import BPETokenizer

REPORTED = 20  # inputs that are named
MUCH = 64_000_000  # bytes of text, which take the slow library half a minute


def without_effect(
    collection: Collection, reading: Reading, args: Any, sources: list[str]
) -> list[str]:
    """Remarks on the options of reading that do nothing for these sources."""
    kinds = {entry.kind for entry in collection.inputs}
    plain = kinds <= {"text", "memory"}
    bytes_of_text = kinds - {"hub"} - ({"memory"} if not getattr(args, "file", None) else set())
    several = any(Path(s).is_dir() or any(c in s for c in "*?[") for s in sources)
    table = (
        (args.sample != "0" and "hub" not in kinds, "--sample", "no source is on the hub"),
        (reading.text_key != "text" and plain, "--text_key", "plain text has no fields"),
        (reading.text_key != "text" and reading.prompt_key, "--text_key",
         "--prompt_key and --response_key say what is read"),
        (reading.messages_key and plain, "--messages_key", "plain text has no fields"),
        (reading.prompt_key and plain, "--prompt_key", "plain text has no fields"),
        (reading.encoding != "utf-8" and not bytes_of_text, "--encoding", "no source is a file"),
        (reading.errors != "strict" and not bytes_of_text, "--errors", "no source is a file"),
        (reading.format and not bytes_of_text, "--format", "no source is a file"),
        (reading.ext and not (several or kinds & {"zip", "tar"}), "--ext",
         "no source is a folder, glob or archive, and a file that is named is read"),
        (reading.document_separator and not kinds & {"text", "memory", "zip", "tar"},
         "--document_separator", "there is no plain text among the sources"),
        (getattr(args, "distinct", False) and collection.single
         and not reading.document_separator, "--distinct", "the source is one document"),
    )  # fmt: skip
    return [f"{option} has no effect: {why}" for useless, option, why in table if useless]


def failures(failed: dict[str, str]) -> list[str]:
    """Remarks on the inputs that could not be read; `failed` says why by input."""
    lines = [f"not all read: {name}: {why}" for name, why in list(failed.items())[:REPORTED]]
    if len(failed) > REPORTED:
        lines.append(f"{len(failed):,} inputs in all could not be read")
    return lines


def uneven(
    splits: dict[str, Any], rule: dict[str, Any], *, masked: bool, parts: bool = False
) -> list[str]:  # fmt: skip
    """A remark where a split by documents gives one side far more or less than was asked for."""
    sizes = {split: entry["bytes"] for split, entry in splits.items()}
    share, wanted = sizes["val"] / max(sum(sizes.values()), 1), rule["val_fraction"]
    if rule["by"] != "document" or wanted / 2 <= share <= min(2 * wanted, (1 + wanted) / 2):
        return []
    hint = f"--split position{' without --part' * parts} takes the end of each"
    if masked:  # whose documents no split may cut
        hint = "--val takes a source for validation alone"
    return [
        f"val has {share:.1%} of the text, not {wanted:.1%}: by their hash, few documents or some "
        f"long ones fall to one side; {hint}"
    ]


def slow(encoder: Tokenizer, size: int) -> list[str]:
    """A remark where `size` bytes are much to encode, and what does so quickly was not compiled."""
    quicker = isinstance(encoder, BPETokenizer) and encoder.pattern
    if size < MUCH or not quicker or bpe_encoding.core() or sys.platform == "win32":
        return []
    return [
        "the compiled core is missing and encodes this vocabulary many times as fast: with a C++ "
        "compiler, install bardlet again"
    ]


def unended(encoder: Tokenizer, asked: str, *, separate: bool) -> list[str]:
    """A remark where no token stands between documents, though there are several or one was asked
    for.
    """
    if not separate and asked:
        return ["--end_of_text has no effect: a single text has nothing to stand between"]
    if not separate or encoder.end_of_text is not None:
        return []
    names = list(encoder.special())
    hint = "--end_of_text NAME takes one of its tokens"
    if names:
        hint += f", such as its special ones: {', '.join(names[:8])}{', ...' * (len(names) > 8)}"
    return [f"the vocabulary has no token that is known to end a text: a new line does; {hint}"]
