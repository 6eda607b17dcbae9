"""A tokenizer as the page reads it (web/tokenizer.js): characters, bytes, byte-level BPE."""

from __future__ import annotations

from typing import Any

from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.bpe import BPETokenizer
from bardlet.data.tokenizers.byte import ByteTokenizer
from bardlet.data.tokenizers.byte_tokens import ALPHABET
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.data.tokenizers.patterns import GPT2
from bardlet.errors import UsageError

FORMS = ("NFC", "NFD", "NFKC", "NFKD")  # of Unicode, which JavaScript has too
# options of a BPE that change what it does, and that the page does not know
UNKNOWN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
           "byte_fallback")  # fmt: skip
CUT = ("lstrip", "rstrip", "single_word")  # what an added token may take of the text around it


def described(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as JSON values; UsageError for one that the page does not know."""
    end, special = tokenizer.end_of_text, sorted(tokenizer.special().values())
    if isinstance(tokenizer, CharTokenizer):
        points = [ord(char) for char in tokenizer.chars]  # a string would join halves of pairs
        return {
            "kind": "char", "points": points, "unknown": tokenizer.unknown, "ends": tokenizer.ends,
            "end": end, "special": special,
        }  # fmt: skip
    byte_level = {
        "kind": tokenizer.kind, "own": [], "merges": [], "patterns": [], "normalize": None,
        "whole_words": False, "end": end, "special": special,
    }  # fmt: skip
    if isinstance(tokenizer, ByteTokenizer):
        ends = [[end, name, False] for name in tokenizer.special()]
        return {**byte_level, "spelt": [*ALPHABET, None], "own": ends}
    if isinstance(tokenizer, BPETokenizer):
        return {**byte_level, **of_document(tokenizer)}
    raise UsageError(
        f"the page has characters, bytes and byte-level BPE, not {tokenizer.kind}",
        "--format=gguf or --format=hf take this vocabulary",
    )


def of_document(tokenizer: BPETokenizer) -> dict[str, Any]:
    """What a byte-level BPE's `tokenizer.json` says, in the page's terms."""
    document = tokenizer.document
    model, added = document["model"], document.get("added_tokens") or []
    if odd := [name for name in UNKNOWN if model.get(name)]:
        raise refused(f"{odd[0]} of its model")
    if any(token.get(flag) for token in added for flag in CUT):
        raise refused("an added token that takes the spaces around it")
    # the library numbers them anew where the file leaves a gap
    id_of = tokenizer.library.token_to_id
    own = [[id_of(token["content"]), token["content"], not token.get("special")] for token in added]
    vocab = dict(model["vocab"])
    names = {token["content"] for token in added}
    ids = {token: i for token, i in vocab.items() if token not in names}
    if odd := [token for token in ids if not set(token) <= set(ALPHABET)]:
        raise refused(f"the token {odd[0]!r}, which is not spelt in bytes")
    spelt: list[str | None] = [None] * tokenizer.vocab_size
    for token, i in ids.items():
        spelt[i] = token
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return {
        "spelt": spelt, "own": own, "merges": [vocab[token] for pair in pairs for token in pair],
        "patterns": patterns(document), "normalize": normal_form(document),
        "whole_words": bool(model.get("ignore_merges")),
    }  # fmt: skip


def patterns(document: dict[str, Any]) -> list[str]:
    """The patterns that split a text into words, one after another."""
    step = document.get("pre_tokenizer") or {}
    *splits, last = step.get("pretokenizers") or [step]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        raise refused(f"the pre-tokenizer {last.get('type')} with a space before the text")
    for split in splits:
        isolated = split.get("behavior") == "Isolated" and not split.get("invert")
        if split.get("type") != "Split" or not isolated or "Regex" not in split["pattern"]:
            raise refused(f"the pre-tokenizer {split.get('type')}")
    own = [GPT2] if last.get("use_regex", True) else []
    return [split["pattern"]["Regex"] for split in splits] + own


def normal_form(document: dict[str, Any]) -> str | None:
    """The form of Unicode that a text is brought into first, if any."""
    normalizer = document.get("normalizer")
    if not normalizer:
        return None
    if normalizer.get("type") not in FORMS:
        raise refused(f"the normalizer {normalizer.get('type')}")
    return normalizer["type"]


def refused(what: str) -> UsageError:
    return UsageError(
        f"the page does not know {what} of this vocabulary",
        "--format=gguf or --format=hf take it",
    )
