"""What a file is: by its name, and where that says nothing by its first bytes."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import PurePosixPath

from bardlet.data.text import guess

TEXTS = (".txt", ".md", ".markdown", ".text", ".rst", ".tex", ".org", ".srt", ".log", ".html",
         ".htm", ".py")  # fmt: skip
KINDS = {
    **dict.fromkeys(TEXTS, "text"), ".jsonl": "jsonl", ".ndjson": "jsonl", ".jl": "jsonl",
    ".jsonlines": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".tab": "csv",
    ".parquet": "parquet", ".zip": "zip", ".tar": "tar",
}  # fmt: skip
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}
ARCHIVES = ("zip", "tar")
FORMATS = ("text", "jsonl", "json", "csv", "parquet")  # of --format
# no text, though of a kind that is read
VOCABULARIES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FIELD = re.compile(r'[\s\ufeff]*\[?\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')  # how records of JSON begin


def kind_of(name: str) -> tuple[str, str]:
    """The kind and compression that a file's name stands for; "" where it says nothing."""
    lower = name.lower()
    for short, full in SHORT.items():
        lower = lower.removesuffix(short) + full if lower.endswith(short) else lower
    compression = next((p for p in COMPRESSIONS if lower.endswith(p)), "")
    return KINDS.get(PurePosixPath(lower.removesuffix(compression)).suffix, ""), compression


def kind_by_head(head: bytes, encoding: str) -> str:
    """jsonl, json or text: the kind of a file by how it begins, where its name says nothing."""
    decoder = codecs.getincrementaldecoder(guess.with_byte_order(encoding, head))("replace")
    try:
        shown = decoder.decode(head)
    except UnicodeError:
        return "text"
    if not FIELD.match(shown):
        return "text"
    try:
        first = json.loads(shown.lstrip("\ufeff \t\r\n").splitlines()[0])
    except (ValueError, RecursionError):
        return "json"
    return "jsonl" if isinstance(first, dict) else "json"


def ending(name: str) -> str:
    """The ending of a name, as it is said."""
    return PurePosixPath(name.lower()).suffix or "no ending"


def endings(text: str) -> tuple[str, ...]:
    """The endings of --ext: "txt,.md" is .txt and .md."""
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    return tuple(part if part.startswith(".") else f".{part}" for part in parts)


def has_ending(name: str, ext: str) -> bool:
    """Whether a name has one of the endings of --ext, before that of a compression too."""
    lower = name.lower()
    plain = next((lower.removesuffix(p) for p in COMPRESSIONS if lower.endswith(p)), lower)
    return not ext or lower.endswith(endings(ext)) or plain.endswith(endings(ext))
