"""SentencePiece's .model files as a `tokenizer.json`.

SentencePiece's own package reads the file and has to give the same tokens for a few texts.
"""

from __future__ import annotations

import base64
import importlib
import json
from typing import Any

from bardlet.data.tokenizers.json_file import MAX_SQUARES, added, open_with_library
from bardlet.errors import DataError
from bardlet.system.optional_deps import need, reason

PROTO = "sentencepiece.sentencepiece_model_pb2"  # the file's format
SPACE = "\u2581"  # what stands for a space in pieces
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BPE = 1, 2  # types of models
PROBES = (
    "Hello, world!  It's 12.50 o'clock", " caf\u00e9 na\u00efve \ufb01x", "a", "",
    "\u4f60\u597d\uff0c\u4e16\u754c", "x\u00b2 \u0928\u092e\u0938\u094d\u0924\u0947 \U0001f600",
)  # fmt: skip


def to_json(raw: bytes, name: str) -> str:
    """The `tokenizer.json` of the .model file `raw`; DataError with its `name` where there is none
    that does the same.
    """
    purpose = f"{name}, a model of SentencePiece,"
    package = need("sentencepiece", "sentencepiece", purpose, DataError)
    try:
        proto = importlib.import_module(PROTO).ModelProto.FromString(raw)
        processor = package.SentencePieceProcessor(model_proto=raw)
        document = converted(proto)
    except ImportError:
        problem = f"{purpose} needs the package protobuf"
        raise DataError(problem, "Install it: pip install 'bardlet[sentencepiece]'") from None
    except Exception as error:  # its own, of any kind
        raise DataError(f"{name} is not a model of SentencePiece: {reason(error)}") from None
    text = json.dumps(document, ensure_ascii=False) + "\n"
    library = open_with_library(text, name)
    own = [token["content"] for token in document["added_tokens"] if not token["special"]]
    for probe in (*PROBES, *(f"a{token}b {token} c" for token in own[:8])):
        ids = library.encode(probe, add_special_tokens=False).ids
        if ids != processor.encode(probe):
            raise DataError(
                f"{name} cannot be read: its tokens of {probe!r} would be others",
                "Convert it with transformers: AutoTokenizer.from_pretrained(FOLDER)"
                ".save_pretrained(OUT) writes a tokenizer.json",
            )
    return text


def converted(proto: Any) -> dict[str, Any]:
    """The document of a model; ValueError for a kind that is neither Unigram nor BPE."""
    kind = proto.trainer_spec.model_type
    if kind not in (UNIGRAM, BPE):
        raise ValueError("it is neither a Unigram model nor a BPE")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if sum(len(piece) ** 2 for piece, _ in pieces) > MAX_SQUARES:
        raise ValueError("its pieces are too long")
    types = [piece.type for piece in proto.pieces]
    unknown = types.index(UNKNOWN)
    fallback = BYTE in types
    special = {p: i for i, (p, _) in enumerate(pieces) if types[i] in (UNKNOWN, CONTROL)}
    own = {p: i for i, (p, _) in enumerate(pieces) if types[i] == USER_DEFINED}
    model: dict[str, Any] = {"type": "Unigram", "unk_id": unknown, "vocab": pieces,
                             "byte_fallback": fallback}  # fmt: skip
    if kind == BPE:
        of_text = (NORMAL, USER_DEFINED)
        scored = {p: s for (p, s), t in zip(pieces, types, strict=True) if t in of_text}
        model = {
            "type": "BPE", "dropout": None, "unk_token": pieces[unknown][0], "fuse_unk": True,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "byte_fallback": fallback, "ignore_merges": False,
            "vocab": {piece: i for i, (piece, _) in enumerate(pieces)},
            "merges": merges_of(scored),
        }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": added(special) + [{**token, "special": False} for token in added(own)],
        **steps(proto.normalizer_spec, fallback=fallback), "post_processor": None, "model": model,
    }  # fmt: skip


def merges_of(scores: dict[str, float]) -> list[list[str]]:
    """The pairs that make each piece, the piece with the highest score first."""
    rank = {piece: i for i, piece in enumerate(scores)}
    merges = []
    for piece, score in scores.items():
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs = [(left, right) for left, right in cuts if left in scores and right in scores]
        pairs.sort(key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        merges += [(-score, rank[piece], list(pair)) for pair in pairs]
    merges.sort(key=lambda merge: merge[:2])
    return [pair for _, _, pair in merges]


def steps(spec: Any, *, fallback: bool) -> dict[str, Any]:
    """What is done before and after the model."""
    normalizers: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    space = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    first = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * spec.add_dummy_prefix
    bytes_first = [{"type": "ByteFallback"}] * fallback
    decoder = {"type": "Sequence", "decoders": [space, *bytes_first, {"type": "Fuse"}, *first]}
    before: dict[str, Any] | None = None
    if spec.remove_extra_whitespaces:
        normalizers.append({"type": "Strip", "strip_left": True, "strip_right": True})
        pattern = {"Regex": " {2,}"}
        normalizers.append({"type": "Replace", "pattern": pattern, "content": " "})
        scheme = "always" if spec.add_dummy_prefix else "never"
        before = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme}
        before["split"] = False
    else:  # a space comes before the text even where it begins with one
        normalizers += [{"type": "Prepend", "prepend": SPACE}] * spec.add_dummy_prefix
        normalizers.append({**space, "pattern": {"String": " "}, "content": SPACE})
    normalizer = {"type": "Sequence", "normalizers": normalizers}
    return {"normalizer": normalizer, "pre_tokenizer": before, "decoder": decoder}
