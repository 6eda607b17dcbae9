"""A token that ends texts, for models without one: other programs cannot do without its id.

It gets a row of the model's vocabulary, the mean of all others: a logit that is the mean of all
logits is never the largest, and the others stay as they are. Read back, the row is taken away.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers import json_file
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.byte_tokens import NO_END
from bardlet.interop.tensor_names import EMBEDDING, HEAD
from bardlet.model import GPTConfig


def add_row(
    config: GPTConfig, weights: Mapping[str, Tensor]
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The model with one more token, whose row is the mean of all others."""
    weights = dict(weights)
    for name in weights.keys() & {EMBEDDING, HEAD}:
        weights[name] = torch.cat((weights[name], weights[name].mean(0, keepdim=True)))
    return dataclasses.replace(config, vocab_size=config.vocab_size + 1), weights


def without_row(
    config: GPTConfig, weights: Mapping[str, Tensor], tokens: int
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The model without the row that `add_row` gave it after those of its `tokens`.

    The model as it is where its rows are not one more, or where the last has been trained since
    and is no longer the mean of the others.
    """
    names = weights.keys() & {EMBEDDING, HEAD}
    means = {name: weights[name][:-1].mean(0) for name in names}
    if tokens != config.vocab_size - 1 or not all(
        (weights[name][-1] - mean).norm() <= 0.01 * mean.norm()  # sixteen bits round it by 0.002
        for name, mean in means.items()
    ):
        return config, dict(weights)
    cut = {name: weights[name][:-1].clone() for name in names}
    return dataclasses.replace(config, vocab_size=tokens), {**weights, **cut}


def with_token(text: str, i: int) -> str:
    """A tokenizer.json with the token `i`, which no text is encoded to, for the end of texts."""
    document = json.loads(text)
    tokens = [*(document.get("added_tokens") or ()), *json_file.added({NO_END: i})]
    return json.dumps({**document, "added_tokens": tokens}, ensure_ascii=False, indent=1) + "\n"


def without_tokens(tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """The tokenizer without special tokens that the model has no `rows` for.

    Programs that train give a tokenizer some, for padding, and leave the model as it is.
    """
    if tokenizer.vocab_size <= rows:
        return tokenizer
    document = json.loads(tokenizer.to_json())
    listed = document.get("added_tokens") or ()
    beyond = {t["content"] for t in listed if t["id"] >= rows and t.get("special")}
    text = json.dumps(json_file.without(document, beyond))
    return tokenizers.from_json(text, "the tokenizer without its last tokens")
