"""What the JSON files of datasets and checkpoints must hold, and the check that they do.

A shape is a type, None, a tuple of alternatives, a list with the shape of every element, or a dict
with those of its keys, where `key?` may be missing and `...` stands for all others. What no reader
looks at is not in a shape.
"""

from __future__ import annotations

LONGEST = 4096  # characters of a name
VERSIONED = {"format_version?": int}
ANY = (str, bool, int, float, None)
SPLIT = {
    "characters": int, "bytes": int, "tokens": int,
    "shards": [
        {
            "file": str, "tokens": int, "sha256?": str,
            "docs?": {"file": str, "sha256": str}, "mask?": {"file": str, "sha256": str},
        },
    ],
}  # fmt: skip
FILES = {
    "manifest.json": {
        "format_version": int, "name": str, "hash": str, "tokenizer_hash": str, "notes": [str],
        "end_of_text?": (int, None),
        "sources": [{"name": str, "bytes": int, "sha256": str}],
        "splits": {"train": SPLIT, "val": SPLIT, ...: SPLIT},
    },
    "state.json": {
        "iter": int, "tokens": int, "scaler": {...: ANY},
        "dataset": {"name": str, "hash": str, "end_of_text?": (int, None)},
        "best_val_loss?": (float, None), "computes?": {...: ANY}, "versions?": {...: str},
        "guards?": {"losses?": [float], "skipped?": int, "since_best?": int},
        "config?": {"max_iters?": int, "patience?": int, ...: ANY},
        "imported?": {"source": str, "token_ids": {...: (int, [int], None)}},
    },
    "eval.json": {
        "train_loss": float, "val_loss": float, "bits_per_byte": float, "since_best?": int,
    },
    "checksums.json": {"files": {...: {"bytes": int, "sha256": str}}},
}  # fmt: skip


def check(value: object, shape: object, name: str = "it") -> None:
    """Raise ValueError where a JSON value is not of `shape`."""
    if isinstance(shape, tuple):
        if not any(fits(value, one) for one in shape):
            check(value, shape[0], name)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} is no list")
        for i, element in enumerate(value):
            check(element, shape[0], f"{name}[{i}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is no object")
        for key in shape:
            if key is not ... and not key.endswith("?") and key not in value:
                raise ValueError(f"{name} has no {key}")
        for key, part in value.items():
            known = next((k for k in (key, f"{key}?", ...) if k in shape), None)
            if known is not None:
                check(part, shape[known], f"{name}.{key[:100]}")
    elif not is_a(value, shape):
        raise ValueError(f"{name} cannot be {str(value)[:100]!r}")


def fits(value: object, shape: object) -> bool:
    try:
        check(value, shape)
    except ValueError:
        return False
    return True


def is_a(value: object, kind: object) -> bool:
    """Whether a value is of a type: int and float within 64 bits, int at least 0, str LONGEST."""
    match value:
        case None:
            return kind is None
        case bool():
            return kind is bool
        case int():
            low = 0 if kind is int else -1 << 63
            return kind in (int, float) and low <= value < 1 << 63
        case str():
            return kind is str and len(value) <= LONGEST
    return isinstance(kind, type) and isinstance(value, kind)
