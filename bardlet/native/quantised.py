"""The formats that weights, and keys and values, are kept in while texts are written.

This is the definition: the compiled core has the same numbers (native/src/quantised.h, kv_cache.h).

float32, bfloat16   plain numbers
int8, int4          integers in [-127, 127] or [-8, 7], 32 weights of a row with a scale in float16;
                    those of GGUF's Q8_0 and Q4_0

A KV cache in int8 has integers in [-127, 127] with a scale for the key, and one for the value, of
each token and head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bardlet import native
from bardlet.errors import UsageError
from bardlet.model import GPT, KVCache, Mask

FORMATS = ("auto", "float32", "bfloat16", "int8", "int4")  # auto: what products take
CACHES = ("auto", "int8")  # auto: what activations are
BITS = {"int8": 8, "int4": 4}
GROUP = 32  # weights that share a scale
CHUNK = 1 << 22  # weights rounded at once: what is held beside them stays small


def check(weights: str, cache: str = "auto") -> None:
    """Raise UsageError for formats of weights and of the KV cache that are not known."""
    for name, value, known in (("weights", weights, FORMATS), ("cache", cache, CACHES)):
        if value not in known:
            raise UsageError(f"{name}={value} is not known", f"Known are {', '.join(known)}")


def check_decoded(model: GPT, weights: str, cache: str = "auto") -> None:
    """Raise UsageError where texts of this model cannot be written with formats of weights and of
    the KV cache."""
    check(weights, cache)
    for name, value in (("weights", weights), ("cache", cache)):
        if value != "auto" and not native.runs(model):
            raise UsageError(
                f"{name}={value} needs the compiled core, which does not run this model here",
                f"It runs on x86-64 and Arm CPUs, in sizes that are multiples of 32; --{name}=auto "
                "goes without it",
            )
    if weights == "bfloat16" and not native.core().bardlet_bf16():
        raise UsageError("weights=bfloat16: this CPU has no such products", "int8 takes less")


@torch.no_grad()
def round_weights(model: GPT, weights: str) -> None:
    """Round a model's matrices and its embedding of tokens to a format, in place.

    Positions, norms and biases stay. Raises UsageError where a row is not a multiple of 32 weights.
    """
    check(weights)
    if weights == "auto":
        return
    for name, weight in model.named_parameters():  # a tied head is named once
        if weight.dim() != 2 or name == "transformer.wpe.weight":
            continue
        if weights in BITS and weight.size(1) % GROUP:
            raise UsageError(f"weights={weights}: rows of {weight.size(1)} are not multiples of 32")
        for part in weight.data.view(-1).split(CHUNK):
            part.copy_(rounded(part, weights))


def rounded(weight: Tensor, weights: str) -> Tensor:
    """Weights in the nearest numbers of a format, float32; groups of 32 follow one another."""
    if weights == "bfloat16":
        return weight.bfloat16().float()
    if weights not in BITS:
        return weight
    groups = weight.float().view(-1, GROUP)  # (N, 32)
    low, high = groups.aminmax(dim=1, keepdim=True)  # (N, 1)
    if weights == "int8":
        scale, min_q = torch.maximum(high, -low) / 127, -127
    else:  # the largest becomes -8, whose mirror image there is not
        scale, min_q = torch.where(high > -low, high / -8, low / -8), -8
    inverse = torch.where(scale.abs() > 1e-30, 1 / scale, 0.0)
    q = (groups * inverse).round().clamp(min_q, 127 if weights == "int8" else 7)
    return (q * scale.half().float()).view(weight.shape)


class RoundedKVCache(KVCache):
    """A KV cache of numbers in int8: what the core's decoder attends to, for torch."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return super().append(layer, rounded_rows(k), rounded_rows(v))


def rounded_rows(x: Tensor) -> Tensor:
    """Keys or values (..., D) in the nearest numbers of int8, each row with its scale."""
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 1e-30, 1 / scale, 0.0)
    return ((x.float() * inverse).round() * scale).type_as(x)


def rounding_cache(model: GPT, batch_size: int, cache: str) -> KVCache | None:
    """An empty cache for `model`'s forward that rounds to a format; None where nothing is."""
    if cache == "auto":
        return None
    weight = model.lm_head.weight
    return RoundedKVCache(model.config, batch_size, weight.device, weight.dtype)


class RoundedCacheGPT(nn.Module):
    """A model's forward of whole contexts with keys and values rounded to a format."""

    def __init__(self, model: GPT, cache: str) -> None:
        super().__init__()
        self.model, self.cache = model, cache

    def forward(self, idx: Tensor, targets: Tensor, first: Mask = None) -> Any:
        """What GPT.forward returns."""
        return self.model(idx, targets, rounding_cache(self.model, len(idx), self.cache), first)
