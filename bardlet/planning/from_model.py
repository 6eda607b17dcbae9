"""A run that begins from a model, tried on random weights in its shape, which take as long."""

from __future__ import annotations

import dataclasses

from bardlet import lora
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import UsageError
from bardlet.model import GPT, GPTConfig
from bardlet.training.resume import model_config, with_model_shape


def of_shape(config: TrainConfig, model: GPTConfig, dataset: Dataset | None) -> TrainConfig:
    """The options of a run from a model of this shape, which has rows for all of the dataset's
    tokens. UsageError where its context is shorter than the run's.
    """
    if config.block_size > model.block_size:
        raise UsageError(
            f"block_size={config.block_size} is above the {model.block_size} of {config.init_from}",
            f"Give at most --block_size={model.block_size}",
        )
    rows = max(model.vocab_size, dataset.vocab_size if dataset else 0)
    return dataclasses.replace(with_model_shape(config, model), vocab_size=rows)


def new_model(config: TrainConfig, vocab_size: int) -> GPT:
    """A model of a run's shape, in place of the one that it begins from."""
    model = GPT(model_config(dataclasses.replace(config, lora_rank=0), vocab_size))
    if config.lora_rank:
        lora.adapt(model, config.lora_rank)
    return model


def begun(config: TrainConfig, dataset: Dataset) -> GPT:
    """What a trial of a run with LoRA begins from."""
    return new_model(config, dataset.vocab_size)
