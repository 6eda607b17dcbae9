"""The file format `tokenizer.json` of Hugging Face's tokenizers library: written, checked, opened.

A file may come from anywhere, and the library trusts what it reads: ids that need gigabytes,
patterns that take forever and replacements that blow a text up are refused before it sees them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bardlet.data.tokenizers.patterns import GPT2
from bardlet.errors import DataError
from bardlet.io.safe_read import parse_json, unique

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 256 << 20  # the largest in use, of 262,144 tokens, has 33 MB
MAX_ID = 1 << 22
MAX_TOKEN = 1 << 17  # characters; longer words are encoded in parts, see `patterns.parts`
MAX_GROWTH = 64  # of a text by the steps of a normalizer, pre-tokenizer or decoder
MAX_STEPS = 64  # of each of these, some of which make a text longer by a constant
MAX_PATTERN = 4096
MAX_WORD = 1024  # characters of a word that WordPiece takes apart, in time cubic in them
MAX_SQUARES = 10**8  # of the lengths of tokens, summed: what the time to find merges grows with
MAX_ENDLESS = 6  # repetitions without end in one alternative; possessive ones count twice
MODELS = ("BPE", "WordLevel", "WordPiece", "Unigram")


def byte_level(
    vocab: dict[str, int], merges: list[tuple[str, str]], pattern: str | None,
    special: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    """A byte-level BPE in the format of Hugging Face's tokenizers library.

    Tokens are spelt in `ALPHABET`, merges in order of rank. `pattern` splits text into words that
    no token spans, None does not; `special` are tokens that no text is encoded to, with their ids.
    """
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    bare = {**level, "use_regex": pattern == GPT2}  # the format has a name for that pattern
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    both = {"type": "Sequence", "pretokenizers": [{**split, "invert": False}, bare]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added(special),
        "normalizer": None,
        "pre_tokenizer": both if pattern not in (None, GPT2) else bare,
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }


def added(special: dict[str, int]) -> list[dict[str, Any]]:
    """The format's entries of tokens that no text is encoded to, by name with their ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": name, **flags, "special": True} for name, i in special.items()]


def without(document: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A document without these of its added tokens."""
    model, listed = document["model"], document.get("added_tokens") or ()
    if isinstance(vocab := model["vocab"], dict):
        model = {**model, "vocab": {t: i for t, i in vocab.items() if t not in names}}
    kept = [token for token in listed if token["content"] not in names]
    return {**document, "model": model, "added_tokens": kept}


def parse(text: str, name: str) -> dict[str, Any]:
    """The document in `text`, checked; DataError with the `name` of the file where it is wrong."""
    try:
        document = parse_json(text)
        if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
            raise ValueError("it has no model")
        check_ids(document)
        for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            check_steps(document.get(key))
    except RecursionError:
        raise DataError(f"{name} is damaged: it is nested too deep") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is damaged: {error}") from None
    return document


def check_ids(document: dict[str, Any]) -> None:
    """Raises ValueError or TypeError unless tokens and ids belong together one to one."""
    model = document["model"]
    if model.get("type", "BPE") not in MODELS:
        raise ValueError(f"{model['type']!r} is not one of the models {', '.join(MODELS)}")
    if model.get("max_input_chars_per_word", 0) > MAX_WORD:
        raise ValueError(f"max_input_chars_per_word is more than {MAX_WORD:,}")
    vocab = model["vocab"]
    if model.get("type") == "Unigram":
        vocab = unique([(piece, i) for i, (piece, _) in enumerate(vocab)])
    if not isinstance(vocab, dict):
        raise ValueError("its vocabulary is not an object")
    ids = dict(vocab)
    for token in document.get("added_tokens") or []:
        content = token["content"]
        if not isinstance(content, str) or not content:
            raise ValueError("an added token is not text")
        if ids.setdefault(content, token["id"]) != token["id"]:
            raise ValueError(f"{content!r} has two ids")
    if not all(type(i) is int and 0 <= i < MAX_ID for i in ids.values()):
        raise ValueError(f"an id is not a number from 0 to {MAX_ID - 1:,}")
    if len(set(ids.values())) != len(ids):
        raise ValueError("two tokens share an id")
    if max(map(len, ids), default=0) > MAX_TOKEN:
        raise ValueError(f"a token has more than {MAX_TOKEN:,} characters")


def check_steps(step: Any) -> None:
    """Raises ValueError where a step of the pipeline has a pattern to refuse, or where all steps
    together make a text too long.
    """
    growth = count = 1
    for node in nodes(step):
        if isinstance(node.get("Regex"), str):
            check_pattern(node["Regex"])
        count += "type" in node
        growth *= max(1, growth_of(node))
    if growth > MAX_GROWTH:
        raise ValueError(f"its steps make a text up to {growth:,} times as long")
    if count > MAX_STEPS:
        raise ValueError(f"it has {count:,} steps one after the other, and {MAX_STEPS} are allowed")


def growth_of(node: dict[str, Any]) -> int:
    """How many times as long a step of the pipeline makes a text at most."""
    if node.get("type") == "ByteLevel":
        return 4  # a character for each byte, and a space before each word
    if node.get("type") == "Precompiled":  # SentencePiece's: size and bytes of a trie, then texts
        raw = base64.b64decode(node["precompiled_charsmap"])
        texts = raw[4 + int.from_bytes(raw[:4], "little") :].decode("utf-8", "replace")
        return max(map(len, texts.split("\0")))
    if node.get("suffix") == "" or node.get("word_delimiter_token") == "":
        raise ValueError("a step of its decoder replaces the empty text")
    grown = node.get("content") or node.get("prepend")
    if not isinstance(grown, str):
        return 1
    pattern = node.get("pattern")
    return len(grown) + (isinstance(pattern, dict) and may_match_nothing(pattern))


def may_match_nothing(pattern: dict[str, Any]) -> bool:
    """Whether a pattern may match between any two characters: False only where it cannot."""
    if not isinstance(regex := pattern.get("Regex"), str):
        return pattern.get("String") == ""
    character = r"\\[pP]\{[^}]*\}|\\[sSdDwWnrt.]|\[\^?\]?(?:\\.|[^\[\]\\])*\]|[^\\\[\](){}?*+|^$]"
    once = rf"(?:{character})(?:\+|\{{[1-9]\d*(?:,\d*)?\}})?(?![*?+{{])[^()|]*"
    several = (re.fullmatch(once, alternative) for alternative in regex.split("|"))
    return r"\K" in regex or not all(several)


def nodes(step: Any) -> Iterator[dict[str, Any]]:
    """Every object in and below `step`."""
    if isinstance(step, dict):
        yield step
        step = list(step.values())
    if isinstance(step, list):
        for child in step:
            yield from nodes(child)


def check_pattern(pattern: str) -> None:
    """Raises ValueError for a pattern that may take time exponential in the text.

    The library's matcher backtracks, so what can match in several ways must not be repeated, as in
    (a+)+ and (a|aa)*, nor stand in a row without end. The patterns of published vocabularies pass.
    """
    shown = repr(pattern if len(pattern) <= 80 else pattern[:80] + "...")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern {shown} has {len(pattern):,} characters")
    if re.search(r"\\[1-9gk]", pattern.replace(r"\\", "")):
        raise ValueError(f"the pattern {shown} refers to another part of itself")
    # what is one character: properties and codes, other escapes, classes from the inside out
    bare = re.sub(r"\\[pPx]\{[^}]*\}|\\.", "x", pattern, flags=re.DOTALL)
    while (fewer := re.sub(r"\[\^?\]?[^\[\]]*\]", "x", bare)) != bare:
        bare = fewer
    endless = re.compile(r"[*+]|\{\d+,\}")
    several = re.compile(r"[*+?|]|\{\d+,\d*\}")
    group = re.compile(r"\((?:\?(?:[:=!>]|<[=!]|[a-z-]+:?))?([^()?][^()]*|)\)([*+{]?)")
    while match := group.search(bare):
        inside, repeated = several.search(match[1]), match[2]
        if inside and repeated:
            raise ValueError(f"the pattern {shown} repeats what can match in several ways")
        rest = "x+" if endless.search(match[1]) else "x?" if inside else "x"
        bare = bare[: match.start()] + rest + bare[match.end(1) + 1 :]
    if "(" in bare or ")" in bare:
        raise ValueError(f"the pattern {shown} is not one of a vocabulary")
    if any(len(endless.findall(part)) > MAX_ENDLESS for part in re.split(r"\|", bare)):
        raise ValueError(f"the pattern {shown} has too many repetitions in a row")


def open_with_library(text: str, name: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a checked document; it cuts, pads and adds nothing, nor draws."""
    import tokenizers

    try:
        opened = attempt(tokenizers.Tokenizer.from_str, text)
    except ValueError as error:
        raise DataError(f"{name} is damaged: {error}") from None
    opened.no_truncation()
    opened.no_padding()
    opened.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]  # what it adds
    if getattr(opened.model, "dropout", None):  # merges left out by chance, which trains better
        opened.model.dropout = None  # pyright: ignore[reportAttributeAccessIssue]
    opened.encode_special_tokens = True  # "<|endoftext|>" in a text is a text
    return opened


def attempt(call: Callable[[Any], Any], argument: object) -> Any:
    """What a library makes of this `argument`; ValueError with its reason where it refuses."""
    try:
        return call(argument)
    except BaseException as error:
        # the library says that a file is wrong by a panic, which is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from None
