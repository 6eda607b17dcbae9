"""The token that stands between texts: the special token that a vocabulary means for it.

Only special tokens count: the name of any other, such as `</s>` among the HTML tags of a
vocabulary, is ordinary text that a document may have.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from bardlet.errors import DataError
from bardlet.io.safe_read import parse_json, read_json, read_text

# what published vocabularies call it, without brackets and case, the likeliest first
END_NAMES = ("endoftext", "endofsentence", "endofdocument", "endofdoc", "eos", "/s", "eostoken",
             "eod", "eot", "sep")  # fmt: skip
# what ends a turn of a chat, and is the eos_token of models that were tuned for chats
TURN_NAMES = ("imend", "endofturn", "turn", "endofturntoken", "eotid", "eomid", "end")
TEMPLATES = {  # where ours note the template of conversations
    "manifest.json": [("chat_template",)],
    "state.json": [("dataset", "chat_template"), ("imported", "chat_template")],
}
TEMPLATE = "chat_template.jinja"  # transformers' file of it
NOTES = {"manifest.json": ("end_of_text",), "state.json": ("dataset", "end_of_text")}  # ours
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")


def end_of_text(document: dict[str, Any], eos: str = "") -> str | None:
    """The special token that ends a text; None where there is none.

    `eos` is the name that the vocabulary's publisher gives it: it decides, unless it ends a turn of
    a chat and another token ends a text.
    """
    special = names(document)
    if eos in special and plain(eos) not in TURN_NAMES:
        return eos
    by_plain = {plain(name): name for name in reversed(special)}
    known = [by_plain[name] for name in END_NAMES if name in by_plain]
    return known[0] if known else eos if eos in special else None


def names(document: dict[str, Any]) -> list[str]:
    """The special tokens of a `tokenizer.json`."""
    added = document.get("added_tokens") or []
    return [token["content"] for token in added if token.get("special")]


def plain(name: str) -> str:
    """A special token's name without what encloses its words and joins them."""
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def stated(folder: Path, key: str) -> str:
    """What the files of transformers in a folder say under a key; empty where none does.

    DataError where such a file is damaged.
    """
    for name in CONFIGS:
        path = folder / name
        if not path.is_file():
            continue
        value = None
        try:
            document = parse_json(read_text(path))
            with contextlib.suppress(AttributeError):  # of what is not an object
                value = document.get(key)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}", "Mend or remove it") from None
        if isinstance(value, dict):  # a token with its flags
            value = value.get("content")
        if isinstance(value, str) and value:
            return value
    return ""


def end_noted(folder: Path) -> int | None:
    """The token that ends a text by what a dataset or checkpoint notes, None where none does."""
    for name, keys in NOTES.items():
        if not (folder / name).is_file():
            continue
        try:
            value: Any = read_json(folder / name)
            for key in keys:
                value = value.get(key)
        except (OSError, ValueError, AttributeError):  # opening the folder itself says so
            continue
        if type(value) is int and value >= 0:
            return value
    return None


def chat_template(folder: Path) -> str:
    """The template of conversations that a folder with a vocabulary has; empty where it has none.

    DataError where its file is damaged.
    """
    for name, places in TEMPLATES.items():
        for keys in places if (folder / name).is_file() else ():
            value: Any = None
            with contextlib.suppress(OSError, ValueError):  # opening the folder itself says so
                value = read_json(folder / name)
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, str) and value:
                return value
    if (folder / TEMPLATE).is_file():
        try:
            return read_text(folder / TEMPLATE)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / TEMPLATE} is damaged: {error}", "Remove it") from None
    return stated(folder, "chat_template")
