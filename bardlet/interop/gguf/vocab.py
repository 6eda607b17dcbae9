"""Tokenizers in GGUF: `tokenizer.ggml.*` out of a tokenizer, and the other way round.

llama.cpp splits a text into words by a pattern that it knows by name, spells the bytes of a word in
GPT-2's 256 printable characters and applies the merges in order, as byte-level vocabularies do. A
character tokenizer becomes one: a character of several bytes gets the merges that join them, which
join nothing else, as no character's bytes begin within another's.

Our own files hold the tokenizer.json itself too, under the standard's name for it, and are read
back from that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bardlet.data.tokenizers import char
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.byte_tokens import ALPHABET, END_OF_TEXT, spell
from bardlet.data.tokenizers.json_file import byte_level
from bardlet.data.tokenizers.patterns import CL100K, GPT2, O200K
from bardlet.errors import CheckpointError

DOCUMENT = "tokenizer.huggingface.json"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED = 1, 2, 3, 4, 5  # token types
UNKNOWN_CHARACTER = char.UNKNOWN.encode()
# llama.cpp's names of the patterns that split a text, one after the other
PATTERNS = {
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "llama-bpe": (CL100K,),
    "qwen2": (CL100K.replace("{1,3}", ""),),
    "gpt-4o": (O200K,),
}
NAMES = {patterns: name for name, patterns in PATTERNS.items()}


def to_metadata(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """A tokenizer's keys in GGUF, for a model of `rows`.

    Rows without a token get names of their own, and the first of them ends texts if no token does.
    Raises CheckpointError for what llama.cpp cannot do.
    """
    if tokenizer.kind not in ("char", "byte", "bpe"):
        raise CheckpointError(
            f"GGUF takes char, byte and byte-level BPE tokenizers, this one is {tokenizer.kind}"
        )
    text = tokenizer.to_json()
    document = json.loads(text)
    raw, end = tokenizer.tokens(), tokenizer.end_of_text
    if len(raw) > rows:
        raise CheckpointError(f"{len(raw):,} tokens do not fit {rows:,} rows of the model")
    tokens = [spell(token) for token in raw] + [""] * (rows - len(raw))
    types = [NORMAL] * rows
    if tokenizer.kind == "char":
        others = {UNKNOWN_CHARACTER, *map(str.encode, tokenizer.special())}
        characters = [token for token in raw if token not in others]
        pre, merges = "gpt-2", [merge for char in characters for merge in merges_of(char)]
        if UNKNOWN_CHARACTER in raw:
            types[raw.index(UNKNOWN_CHARACTER)] = UNKNOWN
    else:
        merges = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]
        pre = pattern_name(document) if merges else "gpt-2"
    for token in document.get("added_tokens") or ():
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER
    for i in (i for i, token in enumerate(tokens) if not token):
        tokens[i], types[i] = f"<|unused_{i}|>", UNUSED
        if end is None:
            end, tokens[i], types[i] = i, END_OF_TEXT, CONTROL
    assert end is not None, "a vocabulary without an end needs a row for it"
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        # llama.cpp refuses an empty list: this joins two zero bytes, which nothing else does
        "tokenizer.ggml.merges": list(dict.fromkeys(merges)) or [f"{ALPHABET[0]} {ALPHABET[0]}"],
        # without them llama.cpp takes token 11 for both and stops there
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
        # lone surrogates, which a character tokenizer can have, as JSON's escapes
        DOCUMENT: text.encode("utf-8", "backslashreplace").decode("utf-8"),
    }


def merges_of(char: bytes) -> list[str]:
    """The merges that make one token of a character's bytes."""
    return [f"{spell(char[:i])} {spell(char[i : i + 1])}" for i in range(1, len(char))]


def pattern_name(document: Mapping[str, Any]) -> str:
    """llama.cpp's name of the pattern by which a byte-level BPE splits a text."""
    patterns = tuple(split_patterns(document.get("pre_tokenizer")))
    if document.get("normalizer") or patterns not in NAMES:
        raise CheckpointError(
            "llama.cpp does not know the pattern by which this tokenizer splits a text: "
            + " then ".join(patterns),
            "`bardlet tokenizer train` makes one whose pattern it knows",
        )
    return NAMES[patterns]


def split_patterns(step: Any) -> list[str]:
    """The regular expressions that a pre_tokenizer splits by, in order."""
    if not step:
        return []
    kind = step["type"]
    if kind == "Sequence":
        return [pattern for part in step["pretokenizers"] for pattern in split_patterns(part)]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return [GPT2] if step.get("use_regex", True) else []
    if kind == "Digits" and step.get("individual_digits"):
        return [r"\p{N}"]
    if kind == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
        return [step["pattern"].get("Regex", "")]
    return [kind]


def from_metadata(metadata: Mapping[str, Any], name: str) -> str:
    """The tokenizer.json of the tokenizer in the GGUF file `name`."""
    if isinstance(metadata.get(DOCUMENT), str):
        return metadata[DOCUMENT]
    kind, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2" or not isinstance(pre, str) or pre not in PATTERNS:
        raise CheckpointError(
            f"{name} has tokenizer.ggml.model={kind}, tokenizer.ggml.pre={pre}",
            f"Read are gpt2 (byte-level BPE) with {', '.join(PATTERNS)}",
        )
    try:
        tokens, merges, types = (
            metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type")
        )
        vocab = {token: i for i, token in enumerate(tokens)}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        if not len(vocab) == len(tokens) == len(types) or any(len(pair) != 2 for pair in pairs):
            raise ValueError("its tokens, types and merges do not match")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the tokenizer in {name} is damaged: {error}") from None
    added = {t: i for i, t in enumerate(tokens) if types[i] in (CONTROL, USER)}
    document = byte_level(vocab, pairs, None, added)
    for token in document["added_tokens"]:
        token["special"] = types[token["id"]] == CONTROL
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in PATTERNS[pre]
    ]
    steps = [*splits, document["pre_tokenizer"]]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    document["model"]["ignore_merges"] = pre == "llama-bpe"
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def of_type(metadata: Mapping[str, Any], *types: int) -> list[int]:
    """The tokens of these types."""
    return [i for i, kind in enumerate(metadata["tokenizer.ggml.token_type"]) if kind in types]
