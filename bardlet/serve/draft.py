"""What guesses how a text goes on, by the name that `--draft` has for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from bardlet import native
from bardlet.data.tokenizers.base import fingerprint
from bardlet.errors import UsageError
from bardlet.interop.load import load_model
from bardlet.interop.verify import Trained
from bardlet.model import GPT
from bardlet.native.speculation import Draft, Guesser, Lookup


def guesser(
    name: str, trained: Trained, dtype: torch.dtype, weights: str
) -> Callable[[], Guesser]:  # fmt: skip
    """What makes the guesser `name` for the texts of a model: "lookup", or a run.

    Raises UsageError where the core does not run either model, or their vocabularies differ.
    """
    need_core(name, trained.model)
    if name == "lookup":
        return Lookup
    draft = load_model(name)
    if fingerprint(draft.tokenizer) != fingerprint(trained.tokenizer):
        raise UsageError(
            f"{name} has another vocabulary than {trained.source}",
            "A draft guesses in the same tokens; --draft=lookup needs no second model",
        )
    model = draft.model.eval()
    without_padding(model, draft.tokenizer.vocab_size)
    need_core(name, model)
    return lambda: Draft(model, dtype, weights)


def need_core(name: str, model: GPT) -> None:
    """Raise UsageError where the compiled core does not run a model."""
    if not native.runs(model):
        raise UsageError(
            f"draft={name} needs the compiled core, which does not run both models here",
            "It runs on x86-64 and Arm CPUs, in sizes that are multiples of 32",
        )


def without_padding(model: GPT, vocab_size: int) -> None:
    """Take from a model the tokens at the end of its vocabulary that stand for no text.

    `vocab_size` larger than the dataset's makes them, for speed; training makes them unlikely only.
    """
    if vocab_size == model.config.vocab_size:
        return
    model.config = dataclasses.replace(model.config, vocab_size=vocab_size)
    head = torch.nn.Parameter(model.lm_head.weight.detach()[:vocab_size].clone())
    embedding = model.get_parameter("transformer.wte.weight").detach()[:vocab_size].clone()
    model.lm_head.weight = head
    model.transformer["wte"].weight = head if model.config.tied else torch.nn.Parameter(embedding)
