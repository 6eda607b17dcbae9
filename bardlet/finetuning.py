"""Training that goes on from a model of any source: where it begins, and what it changes."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from bardlet import lora
from bardlet import train as training
from bardlet.config import OWN, TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import fingerprint
from bardlet.errors import BardletError, DataError
from bardlet.interop import load
from bardlet.model import GPT
from bardlet.writing import write


def train(config: TrainConfig, say: Callable[[str], None]) -> training.Result:
    """Train as `config` says; where it names a model, with a sample of it before and after."""
    main = os.environ.get("RANK", "0") == "0"
    shows = main and config.init_from not in OWN and not config.eval_only

    def shown(config: TrainConfig, dataset: Dataset) -> GPT:
        model = begin(config, dataset)
        if shows:
            show("before training", config.init_from, config, say)
        return model

    result = training.train(config, shown)
    if shows and not result.stopped:
        show("after training", config.out_dir, config, say)
    return result


def show(when: str, run: str, config: TrainConfig, say: Callable[[str], None]) -> None:
    """Print a short sample of a model."""
    say(f"a sample {when}:")
    write(
        run=run, which="best", start=None, num_samples=1, max_new_tokens=100, temperature=0.8,
        top_k=200, seed=config.seed % 2**32, device_name=config.device, dtype=config.dtype,
        as_json=False, say=say,
    )  # fmt: skip


def begin(config: TrainConfig, dataset: Dataset) -> GPT:
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
