"""Low-rank adaptation (arXiv:2106.09685): training beside weights that stay as they are.

Each linear layer of the blocks computes W x + 2 B A x, with A of `lora_rank` rows and B of as many
columns. Only A and B are trained, so gradients and the optimizer's moments take a small part of
the weights' would; `merge` adds 2 B A to W, which leaves a model without adapters.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from bardlet.model import GPT, GPTConfig

SCALE = 2.0  # alpha / rank, with alpha twice the rank as is usual


class LoRALinear(nn.Module):
    """A linear layer with frozen weights and the two small matrices that are trained."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        out, size = layer.weight.shape
        self.weight, self.bias = layer.weight, layer.bias
        # A random and B zero: it begins as the layer was
        self.lora_a = nn.Parameter(torch.empty(rank, size))
        nn.init.normal_(self.lora_a, std=size**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(out, rank))
        self.adapts = True  # whether they are used

    def forward(self, x: Tensor) -> Tensor:
        if not self.adapts:
            return F.linear(x, self.weight, self.bias)
        small = F.linear(F.linear(x, self.lora_a), self.lora_b)  # (B, T, out)
        return F.linear(x, self.weight, self.bias) + SCALE * small


def adapt(model: GPT, rank: int) -> None:
    """Freeze a model's weights and give each linear layer of its blocks matrices of `rank`.

    A is drawn from the global generator.
    """
    for p in model.parameters():
        p.requires_grad_(False)
    for part, name, layer in layers(model, nn.Linear):
        setattr(part, name, LoRALinear(layer, rank))
    model.config = dataclasses.replace(model.config, lora_rank=rank)


@contextlib.contextmanager
def without(model: GPT) -> Iterator[None]:
    """A context in which a model computes as it did before it was adapted."""
    adapters = [layer for _, _, layer in layers(model, LoRALinear)]
    for layer in adapters:
        layer.adapts = False
    try:
        yield
    finally:
        for layer in adapters:
            layer.adapts = True


@torch.no_grad()
def merge(model: GPT) -> None:
    """Add 2 B A to the weights and take the adapters out; a model without any stays as it is."""
    for part, name, layer in layers(model, LoRALinear):
        out, size = layer.weight.shape
        plain = nn.Linear(size, out, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(layer.weight + SCALE * layer.lora_b @ layer.lora_a)
        plain.bias = layer.bias
        setattr(part, name, plain)
    for p in model.parameters():
        p.requires_grad_()
    model.config = dataclasses.replace(model.config, lora_rank=0)


Layer = TypeVar("Layer", bound=nn.Module)


def layers(model: GPT, kind: type[Layer]) -> list[tuple[nn.Module, str, Layer]]:
    """(parent, name in it, layer) of every layer of a kind in the model's blocks."""
    return [
        (part, name, child)
        for part in model.get_submodule("transformer.h").modules()
        for name, child in part.named_children()
        if isinstance(child, kind)
    ]


def build_model(config: GPTConfig) -> GPT:
    """The model of a configuration, with adapters where that has a rank."""
    model = GPT(config)
    if config.lora_rank:
        adapt(model, config.lora_rank)
    return model
