"""The files in which vocabularies are published, each as a `tokenizer.json`.

tokenizer.json itself, SentencePiece's .model, tiktoken's ranks, and vocab.json with merges.txt. A
file is known by what is in it, since names are shared: tokenizer.model is of either of two kinds.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from pathlib import Path

from bardlet.data.tokenizers import sentencepiece_file
from bardlet.data.tokenizers.byte_tokens import ALPHABET, END_OF_TEXT
from bardlet.data.tokenizers.json_file import MAX_FILE_BYTES, MAX_ID, MAX_SQUARES, byte_level
from bardlet.data.tokenizers.patterns import CL100K, GPT2, LLAMA3, O200K, QWEN
from bardlet.data.tokenizers.pretrained import of_ranks
from bardlet.data.tokenizers.special import stated
from bardlet.errors import DataError
from bardlet.io.safe_read import parse_json, read_text, regular

TOKENIZER = "tokenizer.json"
# The files of a folder that is a vocabulary, the best first.
NAMES = (TOKENIZER, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken",
         "vocab.json", "encoder.json", "*.model")  # fmt: skip
MERGES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
RANK = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})\r?\n?")  # a line of tiktoken's
VOCABULARY = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\d')  # how a vocab.json begins
HEAD = 1 << 12  # bytes by which a form is known
# What its files leave out, known by how many ranks they have: the pattern, and what ends a text.
RANKS: dict[int, tuple[str, dict[str, int]]] = {
    50256: (GPT2, {END_OF_TEXT: 50256}),
    50280: (GPT2, {END_OF_TEXT: 50256}),
    100256: (CL100K, {END_OF_TEXT: 100257}),
    199998: (O200K, {END_OF_TEXT: 199999}),
    128000: (LLAMA3, {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001}),
    151643: (QWEN, {END_OF_TEXT: 151643}),
}
PATTERNS = {"Qwen2Tokenizer": QWEN, "Qwen2TokenizerFast": QWEN}  # of byte-level BPE, by its class
CONVERT = (
    "Convert it where it comes from: transformers' AutoTokenizer.from_pretrained(FOLDER)"
    ".save_pretrained(OUT) writes a tokenizer.json"
)


def find(folder: Path) -> Path:
    """The file of the vocabulary in a folder; tokenizer.json where there is none."""
    for name in NAMES:
        if files := sorted(path for path in folder.glob(name) if path.is_file()):
            return files[0]
    return folder / TOKENIZER


def read(path: Path) -> str | None:
    """The `tokenizer.json` of a file of another form; None for a file that is of no such form.

    DataError where the file is damaged, or does not say all that its vocabulary does.
    """
    head = beginning(path, HEAD)
    if RANK.match(head):
        return of_tiktoken(whole(path), path)
    if VOCABULARY.match(head):
        return of_pair(path, path.with_name(MERGES.get(path.name, "merges.txt")))
    if path.name in MERGES.values() or head.startswith(b"#version"):
        others = {merges: vocab for vocab, merges in MERGES.items()}
        return of_pair(path.with_name(others.get(path.name, "vocab.json")), path)
    if path.suffix == ".model" and not head.lstrip().startswith(b"{"):
        return sentencepiece_file.to_json(whole(path), str(path))
    if path.suffix == ".txt":
        raise DataError(f"{path} is not a tokenizer.json", CONVERT)
    return None


def beginning(path: Path, size: int) -> bytes:
    """The first bytes of a file, `size` at most."""
    try:
        with regular(path).open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise DataError(f"cannot read the tokenizer {path}: {error}") from None


def whole(path: Path) -> bytes:
    """The bytes of a file; DataError where they are more than a vocabulary has."""
    raw = beginning(path, MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise DataError(f"{path} has more than {MAX_FILE_BYTES:,} bytes")
    return raw


def of_tiktoken(raw: bytes, path: Path) -> str:
    """The vocabulary of ranks that a tiktoken file has, a token in base64 and its id a line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        match = RANK.fullmatch(line.rstrip())
        try:
            if not match:
                raise ValueError("it is not a token and its rank")
            token, rank = base64.b64decode(match[1], validate=True), int(match[2])
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{path} is damaged: line {number}: {error}") from None
        if token in ranks or rank >= MAX_ID or not token:
            raise DataError(f"{path} is damaged: line {number} has a token again, or none")
        ranks[token] = rank
    if sum(len(token) ** 2 for token in ranks) > MAX_SQUARES:
        raise DataError(f"{path} is damaged: its tokens are too long")
    if len(ranks) not in RANKS:
        raise DataError(
            f"{path} has {len(ranks):,} tokens of tiktoken's, and does not say how a text is split "
            "into words: that is known of those with "
            + ", ".join(f"{count:,}" for count in sorted(RANKS)),
            "Give a tokenizer.json of it",
        )
    pattern, special = RANKS[len(ranks)]
    return with_normalizer(of_ranks(ranks, pattern, special), pattern)


def of_pair(vocab_path: Path, merges_path: Path) -> str:
    """The byte-level BPE of GPT-2's two files, the ids of tokens and the merges in order."""
    for path in (vocab_path, merges_path):
        if not path.is_file():
            other = merges_path if path == vocab_path else vocab_path
            raise DataError(
                f"{other} is one of the two files of a vocabulary, and {path.name} is not beside it"
            )
    try:
        vocab = parse_json(read_text(vocab_path, max_bytes=MAX_FILE_BYTES))
        lines = read_text(merges_path, max_bytes=MAX_FILE_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{vocab_path} or {merges_path.name} is damaged: {error}") from None
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise DataError(f"{vocab_path} is damaged: it does not have an id for each token")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if wrong := [" ".join(pair) for pair in pairs if len(pair) != 2]:
        raise DataError(f"{merges_path} is damaged: {wrong[0]!r} is not a pair of tokens")
    made = {*ALPHABET, *("".join(pair) for pair in pairs)}
    known = len(made & vocab.keys())
    if known < len(made) / 2 or "a</w>" in vocab:
        raise DataError(f"{vocab_path} is not a byte-level vocabulary as GPT-2's is", CONVERT)
    # a text is never encoded to a token that no merge makes
    special = {name: i for name, i in vocab.items() if name not in made}
    kept = [(left, right) for left, right in pairs if {left, right, left + right} <= vocab.keys()]
    pattern = PATTERNS.get(stated(vocab_path.parent, "tokenizer_class"), GPT2)
    document = byte_level(vocab, kept, pattern, special)
    return with_normalizer(json.dumps(document, ensure_ascii=False) + "\n", pattern)


def with_normalizer(text: str, pattern: str) -> str:
    """The vocabulary with the normal form that those of the pattern work on."""
    if pattern != QWEN:
        return text
    return json.dumps({**json.loads(text), "normalizer": {"type": "NFC"}}, ensure_ascii=False)
