"""The formats that weights are kept in while texts are written, and a model rounded to one.

This is the definition: the compiled core packs the same numbers (native/src/quantised.h).

float32, bfloat16   plain numbers
int8, int4          integers in [-127, 127] or [-8, 7], 32 weights of a row with a scale in float16;
                    those of GGUF's Q8_0 and Q4_0
"""

from __future__ import annotations

import torch
from torch import Tensor

from bardlet import native
from bardlet.errors import UsageError
from bardlet.model import GPT

FORMATS = ("auto", "float32", "bfloat16", "int8", "int4")  # auto: what products take
BITS = {"int8": 8, "int4": 4}
GROUP = 32  # weights that share a scale
CHUNK = 1 << 22  # weights rounded at once: what is held beside them stays small


def check(weights: str) -> None:
    """Raise UsageError for a format that is not known."""
    if weights not in FORMATS:
        raise UsageError(f"weights={weights} is not known", f"Known are {', '.join(FORMATS)}")


def check_decoded(model: GPT, weights: str) -> None:
    """Raise UsageError where texts of this model cannot be written with weights in a format."""
    check(weights)
    if weights == "auto":
        return
    if not native.runs(model):
        raise UsageError(
            f"weights={weights} needs the compiled core, which does not run this model here",
            "It runs on x86-64 and Arm CPUs, in sizes that are multiples of 32; --weights=auto "
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
