"""What a model expects next: its own probabilities, and those that a choice of token draws with."""

from __future__ import annotations

import torch
from torch import Tensor

from bardlet.model import GPT
from bardlet.sampling.filters import Sampling, filtered


def logits_after(model: GPT, ids: Tensor) -> Tensor:
    """The logits (V,) float32 of the token after ids (T,), of which the newest context counts."""
    ids = ids[-model.config.block_size :].to(model.lm_head.weight.device)
    with torch.inference_mode():
        return model.eval()(ids[None])[0][0, -1].float().cpu()


def probabilities(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The model's own probabilities (V,), and those that `sampling` draws with (V,), float64.

    At a temperature of 0 the likeliest has all of it.
    """
    own = logits.double().softmax(-1)
    changed = filtered(logits[None], sampling)[0].double()
    if sampling.degree:
        return own, changed.softmax(-1)
    return own, torch.nn.functional.one_hot(changed.argmax(), len(own)).double()
