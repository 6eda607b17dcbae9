"""Whether validation is text of another kind than training: the losses, and the characters."""

from __future__ import annotations

import math
from collections import Counter

from bardlet.analysis.finding import Finding
from bardlet.analysis.history import History
from bardlet.data.dataset.folder import Dataset

GAP = 0.5  # nats; healthy runs of presets have 0.2 to 0.4 by character
GAP_SHARE = 0.15  # of the validation loss
DIFFERENT = 0.1  # of the characters, beyond what chance makes of samples as large
SAMPLE, PARTS = 1 << 19, 64  # tokens of a split that are compared, from so many places
NAMED = 3  # characters in a message


def gap(history: History, dataset: Dataset | None) -> Finding | None:
    """Validation is far above train even where it is best."""
    evals = [e for e in history.evals if e.get("val_loss") is not None and e.get("train_loss")]
    if not evals:
        return None
    best = min(evals, key=lambda line: line["val_loss"])
    above = best["val_loss"] - best["train_loss"]
    if above < max(GAP, GAP_SHARE * best["val_loss"]):
        return None
    about = "~" * bool(best.get("val_batches"))
    evidence = (
        f"val loss {about}{best['val_loss']:.2f} at a train loss of {best['train_loss']:.2f}, "
        f"{above:.2f} nats between them"
    )
    differ = difference(dataset) if dataset else ""
    if differ:
        return Finding(
            illness="the splits are of different kinds", iter=None,
            evidence=f"{evidence}; {differ}",
            suggestion="Prepare the text with --split blocks, which takes validation from "
            "everywhere in it, or with --val of text like that which the model is for",
        )  # fmt: skip
    return Finding(
        illness="validation far above train", iter=best["iter"], evidence=evidence,
        suggestion="Prepare more text, or train a smaller model or with --dropout=0.2; where the "
        "end of the text is of another kind, with --split blocks",
    )  # fmt: skip


def difference(dataset: Dataset) -> str:
    """How the characters of both splits differ, for people; empty where they are alike."""
    train, val = (characters(dataset, split) for split in ("train", "val"))
    m, n = train.total(), val.total()
    if not m or not n:
        return ""
    moved = {c: val[c] / n - train[c] / m for c in train | val}
    pooled = {c: (train[c] + val[c]) / (m + n) for c in moved}
    # half the mean absolute deviation of each share, were both samples of one text
    chance = sum(math.sqrt(p * (1 - p) * (1 / m + 1 / n) * 2 / math.pi) for p in pooled.values())
    distance = sum(map(abs, moved.values())) / 2
    if distance < DIFFERENT + chance / 2:
        return ""
    largest = sorted(moved, key=lambda c: -abs(moved[c]))[:NAMED]
    shares = ", ".join(f"{c!r} {train[c] / m:.1%} and {val[c] / n:.1%}" for c in largest)
    return f"{distance:.0%} of the characters differ (in train and in val: {shares})"


def characters(dataset: Dataset, split: str) -> Counter[str]:
    """How often each character is in samples from everywhere in a split."""
    stream = dataset.splits[split]
    size = min(SAMPLE, len(stream)) // PARTS
    counts: Counter[str] = Counter()
    for part in range(PARTS if size else 1):
        start = part * (len(stream) // PARTS)
        ids = stream.read(start, size or len(stream))
        counts.update(dataset.tokenizer.decode(ids.tolist()))
    return counts
