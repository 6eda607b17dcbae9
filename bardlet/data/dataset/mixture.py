"""Datasets by name, and several of them as one: `a:0.7,b:0.3` trains on windows of both."""

from __future__ import annotations

import hashlib

from bardlet.data.dataset.folder import SPLITS, Dataset, find
from bardlet.data.dataset.stream import TokenStream
from bardlet.data.tokenizers import base as tokenizers
from bardlet.errors import DataError, UsageError


def opened(name: str) -> Dataset:
    """The dataset of a name or path, or the mixture where there are several, with weights."""
    parts = [part.rpartition(":") for part in name.split(",")]
    if len(parts) == 1:
        return Dataset(find(name))
    weights = []
    for folder, _, weight in parts:
        try:
            weights.append(float(weight))
        except ValueError:
            weights.append(0.0)
        if not folder or not 0 < weights[-1] < 1e9:
            raise UsageError(
                f"dataset={name} does not give each of its datasets a weight above 0",
                "Write it as a:0.7,b:0.3",
            )
    return Mixture([Dataset(find(folder)) for folder, _, _ in parts], weights)


def resolved(name: str) -> str:
    """The same datasets by paths that mean the same from anywhere."""
    parts = [part.rpartition(":") for part in name.split(",")]
    if len(parts) == 1:
        return str(find(name).resolve())
    return ",".join(f"{find(folder).resolve()}:{weight}" for folder, _, weight in parts)


class Mixture(Dataset):
    """Datasets that share a tokenizer; validation is on the splits of all, one after another."""

    def __init__(self, datasets: list[Dataset], weights: list[float]) -> None:
        """DataError where the tokenizers differ."""
        first = datasets[0]
        for other in datasets[1:]:
            if tokenizers.fingerprint(other.tokenizer) != tokenizers.fingerprint(first.tokenizer):
                raise DataError(
                    f"{other.folder} and {first.folder} were prepared with different tokenizers",
                    f"Prepare the one with --tokenizer {first.folder / 'tokenizer.json'}",
                )
        for dataset in datasets:
            if dataset.stream:
                raise UsageError(
                    f"{dataset.folder} is a stream, which no mixture can take windows of anywhere",
                    "Prepare its text without --stream, or train on it alone",
                )
        self.datasets = datasets
        self.folder = first.folder
        self.parts = [
            (dataset.splits["train"], weight / sum(weights))
            for dataset, weight in zip(datasets, weights, strict=True)
        ]
        ends = {d.end_of_text: d for d in datasets if d.end_of_text is not None}
        if len(ends) > 1:
            one, other = list(ends.values())[:2]
            raise DataError(
                f"texts end with token {one.end_of_text} in {one.folder} and with "
                f"{other.end_of_text} in {other.folder}",
                "Prepare one of them again with the other's --end_of_text",
            )
        self.end_of_text = next(iter(ends), None)
        self.chat_template = next((d.chat_template for d in datasets if d.chat_template), "")
        self.preferences = any(d.preferences for d in datasets)
        self.tokenizer = tokenizers.with_end_of_text(first.tokenizer, self.end_of_text)
        shares = [f"{d.hash}:{w:.9f}" for d, (_, w) in zip(datasets, self.parts, strict=True)]
        self.hash = hashlib.sha256(",".join(shares).encode()).hexdigest()
        self.splits = {
            split: TokenStream(
                [shard for dataset in datasets for shard in dataset.splits[split].shards],
                self.vocab_size,
                masks=[mask for dataset in datasets for mask in dataset.splits[split].masks],
            )
            for split in SPLITS
        }

    def verify(self) -> None:
        for dataset in self.datasets:
            dataset.verify()
