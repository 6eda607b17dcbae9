"""The model that a run begins from where `init_from` names one, whichever program it is of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from bardlet import lora
from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers import factory
from bardlet.data.tokenizers.base import Tokenizer, fingerprint
from bardlet.errors import BardletError, DataError, UsageError
from bardlet.interop import load, nanogpt
from bardlet.interop.gguf import file as gguf_file
from bardlet.interop.gguf import model as gguf_model
from bardlet.interop.huggingface import config as hf_config
from bardlet.interop.huggingface import files as hf_files
from bardlet.model import GPT, GPTConfig
from bardlet.run import run_folder, weights
from bardlet.run.state import read_json


def load_pretrained(config: TrainConfig, dataset: Dataset) -> GPT:
    """The model that `init_from` names, with the run's context, dropout and adapters.

    Raises DataError where the dataset's tokens are not the model's.
    """
    trained = load.load_model(
        config.init_from, block_size=config.block_size, dropout=config.dropout
    )  # fmt: skip
    names = more_tokens(trained.tokenizer, dataset.tokenizer)
    if names:
        grow(trained.model, dataset.tokenizer, names, config.seed, frozen=bool(config.lora_rank))
    elif fingerprint(trained.tokenizer) != fingerprint(dataset.tokenizer):
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


def more_tokens(model: Tokenizer, dataset: Tokenizer) -> list[str]:
    """The special tokens that a dataset's tokenizer has beyond those of a model's, which it is
    otherwise; empty where it is another one, or the same.
    """
    names = [name for name in dataset.special() if name not in model.special()]
    if not names:
        return []
    extended = factory.with_roles(model, names)
    return names if fingerprint(extended) == fingerprint(dataset) else []


@torch.no_grad()
def grow(
    model: GPT, tokenizer: Tokenizer, names: list[str], seed: int, *, frozen: bool
) -> None:  # fmt: skip
    """Give a model rows for these tokens, each the mean of those that it has, which stay.

    Rows that are `frozen` stay as they begin, and have to be told apart: they are drawn around the
    mean as the others lie around it.
    """
    ids = [tokenizer.special()[name] for name in names]
    count = min(ids)  # of the tokens that the model knows
    rows = max(model.config.vocab_size, max(ids) + 1)
    generator = torch.Generator().manual_seed(seed % 2**63)
    grown = []
    tables = [model.transformer["wte"], model.lm_head][: 1 if model.config.tied else 2]
    for table in tables:
        old: Tensor = table.weight
        new = torch.cat((old, old[:1].expand(rows - len(old), -1))).clone()
        mean = old[:count].mean(0)
        new[ids] = mean
        if frozen:
            spread = torch.randn(len(ids), new.size(1), generator=generator)
            new[ids] += spread * old[:count].std(0)
        grown.append(torch.nn.Parameter(new))
    model.transformer["wte"].weight = grown[0]
    model.lm_head.weight = grown[-1]
    model.config = dataclasses.replace(model.config, vocab_size=rows)


def context_of(source: str) -> int:
    """The context of the model that a source names, read from what is small; 0 where that cannot be
    known before the model is read, or cannot be read, which is said then.
    """
    if source in load.HUB_NAMES:
        return load.HUB_CONTEXT
    try:
        return shape_of(source).block_size if Path(source).exists() else 0
    except (BardletError, OSError, ValueError):
        return 0


def shape_of(source: str) -> GPTConfig:
    """The shape of the model that a source names, read from what is small.

    Raises what load_model does where there is no such source, or it is damaged.
    """
    path = Path(source)
    if path.suffix in (".pt", ".gguf") and not path.is_file():
        raise UsageError(f"no file at {path}")
    if path.suffix == ".pt":
        return nanogpt.read_config(nanogpt.load(path), path)
    if path.suffix == ".gguf":
        return gguf_model.read_config(gguf_file.read(path))
    if not path.exists() and load.is_hub_name(source):
        path = load.download(load.HUB_NAMES.get(source, source))
    other = load.foreign_file(path)
    if other is None or run_folder.is_run(path):
        return weights.config_of(read_json(run_folder.find(path) / "config.json"))
    if other.suffix == ".pt":
        return shape_of(str(other))
    return hf_config.from_hf(hf_files.read_json(other), other)


def name_of(source: str) -> str:
    """What `bardlet prepare --tokenizer` calls the tokenizer of a source."""
    if source in load.HUB_NAMES:
        return "gpt2"
    try:
        factory.existing(source)
    except BardletError:
        return f"RUN, after `bardlet import {source} RUN`,"
    return source
