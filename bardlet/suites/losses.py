"""A model's loss token by token over a text, laid out by bytes, so that tokenizers compare."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import DataError
from bardlet.suites.likelihood import Scorer, Span

MIN_DOCUMENTS = 30  # below, their resampling says little
BLOCKS = 400  # at most, of texts without as many documents
MIN_BLOCK = 1024  # bytes: neighbouring tokens are not independent


@dataclass(frozen=True, kw_only=True)
class TextLosses:
    """The losses of the tokens of a text that count, front to back."""

    nats: np.ndarray  # (N,) float64
    bytes: np.ndarray  # (N,) int64, of each token in UTF-8
    ends: np.ndarray  # (N,) int64: how many bytes of the text there are with it
    documents: np.ndarray  # (N,) int64: the number of its document
    text: str  # sha256 of the whole text, and of which of its bytes count

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.nats.mean())

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    def segments(self) -> tuple[np.ndarray, str]:
        """The part of the text that each token is in, (N,) int64, and what the parts are.

        They are the same whatever the tokens are.
        """
        count = int(self.documents.max()) + 1
        if count >= MIN_DOCUMENTS:
            return self.documents, f"{count:,} documents"
        size = max(MIN_BLOCK, math.ceil(int(self.ends[-1]) / BLOCKS))
        numbers = np.maximum(self.ends - 1, 0) // size
        return numbers, f"{int(numbers.max()) + 1:,} blocks of {size:,} bytes"


def of_split(
    scorer: Scorer, dataset: Dataset, split: str, done: Callable[[int], None] = lambda count: None
) -> TextLosses:
    """The losses on a whole split, in the windows of `evaluate`."""
    windows = dataset.windows(split, scorer.context)
    return losses(scorer, windows, dataset.tokenizer, dataset.end_of_text, done)


def of_text(
    scorer: Scorer, text: str, done: Callable[[int], None] = lambda count: None
) -> TextLosses:
    """The losses on a text as one document. DataError for a character that has no token."""
    ids = scorer.trained.tokenizer.encode(text).astype(np.int64)
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens has none to predict")
    windows = (
        np.stack([ids[at : at + scorer.context + 1][:-1], ids[at + 1 : at + scorer.context + 1]])
        for at in range(0, len(ids) - 1, scorer.context)
    )
    return losses(scorer, windows, scorer.trained.tokenizer, None, done)


def losses(
    scorer: Scorer, windows: Iterable[np.ndarray], tokenizer: Tokenizer, end: int | None,
    done: Callable[[int], None],
) -> TextLosses:  # fmt: skip
    """The losses of windows, (2, n) inputs and targets that follow each other; -1 does not count.

    `end` is the token between documents, beyond which attention does not reach in a model that was
    trained with doc_mask.
    """
    names, sizes = tokenizer.tokens(), tokenizer.token_bytes()
    masked = end if scorer.trained.state.config.get("doc_mask") else None
    nats: list[np.ndarray] = []
    kept = [np.zeros(1, dtype=bool)]  # whether each token counts: the first has no prediction
    ids: list[np.ndarray] = []
    last = -1
    for batch in batches(windows, scorer):
        spans = [Span((*window[0].tolist(), max(0, int(window[1, -1]))), 1) for window in batch]
        for (logprobs, _), window in zip(scorer.tokens(spans, masked), batch, strict=True):
            counts = window[1] >= 0
            nats.append(-logprobs.numpy()[counts])
            kept.append(counts)
            ids.append(window[0])
            last = int(window[1, -1])
        done(sum(window.shape[1] for window in batch))
    if not nats or not sum(map(len, nats)):
        raise DataError("nothing of the text counts", "Name other data with --dataset")
    # each window begins with what the one before ended with, whether that counted or not
    tokens = np.concatenate([*ids, [last] if last >= 0 else []]).astype(np.int64)
    counted = np.concatenate(kept)[: len(tokens)]
    number = np.cumsum(tokens == end) - (tokens == end) if end is not None else 0 * tokens
    return TextLosses(
        nats=np.concatenate(nats), bytes=sizes[tokens][counted],
        ends=np.cumsum(sizes[tokens])[counted], documents=number[counted],
        text=digest(tokens, names, end, counted),
    )  # fmt: skip


def batches(windows: Iterable[np.ndarray], scorer: Scorer) -> Iterator[list[np.ndarray]]:
    """Windows, as many together as are computed at once."""
    size = max(1, scorer.micro_batcher.size // scorer.context)
    batch: list[np.ndarray] = []
    for window in windows:
        batch.append(window)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def digest(tokens: np.ndarray, names: list[bytes], end: int | None, counted: np.ndarray) -> str:
    """What tells a text from another, whatever its tokens: its bytes, and which of them count."""
    text = hashlib.sha256()
    for at in range(0, len(tokens), 1 << 16):
        part = tokens[at : at + (1 << 16)].tolist()
        text.update(b"".join(b"\0\0" if token == end else names[token] for token in part))
    if not counted[1:].all():
        text.update(b"".join(names[token] for token in tokens[counted].tolist()))
    return text.hexdigest()
