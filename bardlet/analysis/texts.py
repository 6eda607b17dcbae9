"""What ails a run because of its training text: too little of it, or little that teaches."""

from __future__ import annotations

import math

from bardlet.analysis.finding import Finding
from bardlet.analysis.history import History

HALF_LIFE = 15.4  # repetitions after which a token teaches 1/e of a new one (arXiv:2305.16264)
MIN_COUNTED = 0.8  # of the windows; below, a fifth of the work or more teaches nothing
PER_ID = 50  # training tokens for each of the vocabulary; by Zipf half are met under 10 times


def data_repeated(history: History) -> Finding | None:
    """The same tokens were read so often that another time teaches little."""
    tokens, seen = history.start.get("train_tokens"), [line.get("tokens") for line in history.iters]
    if not tokens or not seen or seen[-1] is None:
        return None
    epochs = seen[-1] / tokens
    worth = math.exp(-(epochs - 1) / HALF_LIFE)  # of a token read again, measured in new ones
    if worth >= 0.5:
        return None
    epochs_worth = math.floor(1 + HALF_LIFE * math.log(2))
    return Finding(
        illness=f"data repeated {epochs:.0f} times", iter=None,
        evidence=f"{seen[-1]:,} tokens were read from {tokens:,}; to read them once more is worth "
        f"about {worth:.0%} of as much new text",
        suggestion=f"Prepare more text, or lower --max_iters to {epochs_worth} epochs: "
        f"{int(epochs_worth / epochs * history.done):,}",
    )  # fmt: skip


def vocabulary_too_large(history: History) -> Finding | None:
    """There are too few tokens to learn from for so many different ones."""
    tokens, vocab = history.start.get("train_tokens"), history.start.get("vocab_size")
    if not tokens or not vocab or tokens / vocab >= PER_ID:
        return None
    return Finding(
        illness="vocabulary too large for the data", iter=None,
        evidence=f"{tokens:,} training tokens for a vocabulary of {vocab:,}: "
        f"{tokens / vocab:.1f} for each, where {PER_ID} are little",
        suggestion=f"Prepare more text, or a --dataset with fewer kinds of token than "
        f"{max(2, tokens // PER_ID):,}",
    )  # fmt: skip


def little_counts(history: History) -> Finding | None:
    """Many windows have no token that counts in the loss: prompts longer than the context."""
    share, size = history.start.get("counted_windows"), history.start.get("block_size", 0)
    if share is None or share >= MIN_COUNTED:
        return None
    empty = sum(line.get("counted") == 0 for line in history.iters)
    nothing = f"; in {empty:,} of {len(history.iters):,} logged iterations none did" * bool(empty)
    return Finding(
        illness="little counts in the loss", iter=None,
        evidence=f"{share:.1%} of the windows of {size} tokens have a token that counts{nothing}",
        suggestion="Raise --block_size above the length of the prompts, or --batch_size; shorter "
        "prompts help as much",
    )  # fmt: skip
