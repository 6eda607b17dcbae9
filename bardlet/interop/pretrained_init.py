"""The model that a run begins from where `init_from` names one, whichever program it is of."""

from __future__ import annotations

import torch

from bardlet import lora
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import fingerprint
from bardlet.errors import BardletError, DataError
from bardlet.interop import load
from bardlet.model import GPT


def load_pretrained(config: TrainConfig, dataset: Dataset) -> GPT:
    """The model that `init_from` names, with the run's context, dropout and adapters.

    Raises DataError where the dataset's tokens are not the model's.
    """
    trained = load.load_model(
        config.init_from, block_size=config.block_size, dropout=config.dropout
    )  # fmt: skip
    if fingerprint(trained.tokenizer) != fingerprint(dataset.tokenizer):
        raise DataError(
            f"{dataset.folder} was prepared with another tokenizer ({dataset.tokenizer.kind}, "
            f"{dataset.vocab_size:,} tokens) than {config.init_from} has "
            f"({trained.tokenizer.kind}, {trained.tokenizer.vocab_size:,} tokens)",
            f"Prepare its text again: bardlet prepare TEXT --tokenizer {name_of(config.init_from)} "
            f"--out {dataset.folder}_again",
        )
    if config.lora_rank:
        torch.manual_seed(config.seed)
        lora.adapt(trained.model, config.lora_rank)
    return trained.model


def name_of(source: str) -> str:
    """What `bardlet prepare --tokenizer` calls the tokenizer of a source."""
    if source in load.HUB_NAMES:
        return "gpt2"
    try:
        factory.existing(source)
    except BardletError:
        return f"RUN, after `bardlet import {source} RUN`,"
    return source
