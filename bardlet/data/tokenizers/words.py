"""A vocabulary that is only a list of names with ids, as nanoGPT's meta.pkl has it.

Characters and some names of special tokens, or words: how a text is cut into them is not said, so
it is taken from the names. A name that stands for unknown ones takes what the others lack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from bardlet.data.tokenizers import base, json_file
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.byte_tokens import END_OF_TEXT
from bardlet.data.tokenizers.char import PATTERN, UNKNOWN, CharTokenizer
from bardlet.errors import DataError

SPECIAL = re.compile(r"<[^<>\s]+>|\[[A-Za-z_]+\]")  # <UNK>, <|endoftext|>, [PAD]
UNKNOWN_NAME = re.compile(r"(?i)unk|[<\[]\|?(unk|unknown|oov)\|?[>\]]")
# by which a text is cut into words, the finest first; and whether it has white space as words
CUTS = (
    (r"\w+|\s|[^\w\s]", True), (r"\w+|\s+|[^\w\s]+", True), (r"\s|\S+", True), (r"\s+|\S+", True),
    (r"\w+|[^\w\s]", False), (r"\w+|[^\w\s]+", False), (r"\S+", False),
)  # fmt: skip


def from_ids(ids: Mapping[str, int], name: str) -> Tokenizer:
    """The tokenizer of a vocabulary; `name` says which, for messages.

    DataError where ids do not count from 0 up, or where no way of cutting a text gives the names.
    """
    by_id = sorted(ids, key=lambda word: ids[word])
    if not by_id or [ids[word] for word in by_id] != list(range(len(by_id))):
        raise DataError(f"{name} is damaged: its ids are not 0..V-1, each of one name")
    if len(ids) == 1 and len(by_id[0]) > 1:
        raise DataError(f"{name} is damaged: {by_id[0]!r} is all that it names")
    if "" in ids:
        raise DataError(f"{name} is damaged: the token {ids['']} is an empty text")
    ends = by_id[-1] == END_OF_TEXT
    lacks = by_id[: len(by_id) - ends][-1:] == [UNKNOWN]
    chars = by_id[: len(by_id) - ends - lacks]
    if all(len(word) == 1 for word in chars):
        return CharTokenizer("".join(chars), unknown=lacks, ends=ends)
    unknown = next((word for word in by_id if UNKNOWN_NAME.fullmatch(word)), None)
    special = [word for word in by_id if SPECIAL.fullmatch(word) or word == unknown]
    words = [word for word in by_id if word not in special]
    if all(len(word) == 1 for word in words):
        pattern, spaces = PATTERN["Regex"], True
    else:
        pattern, spaces = cut_of(words, name)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "invert": False}
    # without words of white space, what is between words is left out, and one space put back
    steps = [{**split, "behavior": "Isolated"}]
    if not spaces:
        steps.insert(0, {"type": "WhitespaceSplit"})
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": json_file.added({word: ids[word] for word in special}),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {"type": "Fuse"} if spaces else None,
        "model": {"type": "WordLevel", "vocab": dict(ids), "unk_token": unknown or UNKNOWN},
    }  # fmt: skip
    return base.from_json(json.dumps(document, ensure_ascii=False, indent=1) + "\n", name)


def cut_of(words: list[str], name: str) -> tuple[str, bool]:
    """The pattern that cuts a text into these words, and whether some are white space."""
    spaces = any(word.isspace() for word in words)
    for pattern, has_spaces in CUTS:
        cut = re.compile(pattern)
        if has_spaces == spaces and all(cut.fullmatch(word) for word in words):
            return pattern, spaces
    odd = next(word for word in words if not re.fullmatch(CUTS[-1][0], word))
    raise DataError(
        f"{name} has the word {odd!r}, which no cutting by white space or punctuation gives",
        "Put the tokenizer.json that cuts so in its place",
    )
