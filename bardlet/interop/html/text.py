"""The text that a model was trained on, as tokens, for the counts of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bardlet.data.dataset import mixture
from bardlet.data.dataset.folder import SPLITS
from bardlet.data.tokenizers.base import Tokenizer, fingerprint
from bardlet.errors import DataError, UsageError
from bardlet.run.state import DatasetRef

MAX_BYTES = 16 << 20  # of text; the page sorts it in seconds for a megabyte, and keeps 20 times it


@dataclass(frozen=True)
class Texts:
    """The tokens of both splits, and what the page is told of them."""

    tokens: bytes
    about: dict[str, Any]


def read(trained_on: DatasetRef, tokenizer: Tokenizer) -> Texts:
    """The text of a dataset; DataError where it is not here as it was, UsageError if too large."""
    if not trained_on.name:
        raise UsageError(
            "this model was not trained here, so its text is not known", "Leave out --with_text"
        )
    dataset = mixture.opened(trained_on.name)
    known = dataset.hash == trained_on.hash
    if not known or fingerprint(dataset.tokenizer) != fingerprint(tokenizer):
        raise DataError(
            f"{dataset.folder} does not have the tokens that the model was trained on",
            "Leave out --with_text, or prepare the dataset as it was",
        )
    dataset.verify()
    streams = [dataset.splits[name] for name in SPLITS]
    kind = np.min_scalar_type(max(0, tokenizer.vocab_size - 1))
    size = 0
    parts = []
    sizes = np.array([len(token) for token in tokenizer.tokens()])
    for stream in streams:
        if len(stream) > MAX_BYTES:
            raise too_large(len(stream))
        ids = stream.read(0, len(stream))
        size += int(sizes[ids].sum())
        parts.append(ids.astype(kind.newbyteorder("<")).tobytes())
    if size > MAX_BYTES:
        raise too_large(size)
    about = {"dtype": str(kind), "lengths": [len(stream) for stream in streams]}
    return Texts(b"".join(parts), about)


def too_large(size: int) -> UsageError:
    return UsageError(
        f"the training text has {size / 1e6:,.0f} MB, and a page counts in {MAX_BYTES >> 20} MiB "
        "at most",
        "Leave out --with_text; `bardlet serve` counts in larger ones",
    )
