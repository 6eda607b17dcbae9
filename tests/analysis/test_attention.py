"""Attention weights and the residual stream, against what the model itself computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import tiny_model

from bardlet.analysis import attention
from bardlet.errors import UsageError
from bardlet.model import GPT


def outputs(model: GPT, idx: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of each attention layer, by the model's own attention."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    blocks: Any = model.transformer["h"]
    hooks = [block.attn.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
             for block in blocks]  # fmt: skip
    with torch.no_grad():
        model.eval()(idx)
    for hook in hooks:
        hook.remove()
    return seen


def test_weights_times_values_are_the_attention_of_the_model(family: str) -> None:
    model = tiny_model(family)
    idx = torch.randint(50, (1, 16), generator=torch.Generator().manual_seed(1))
    traced = attention.trace(model, idx[0].tolist())
    L, H, T, D = 2, 4, 16, 8
    assert traced.attention.shape == (L, H, T, T)
    blocks: Any = model.transformer["h"]
    for layer, (x, out) in enumerate(outputs(model, idx)):
        attn = blocks[layer].attn
        with torch.no_grad():
            v = attn.c_attn(x).split(attn.sizes, dim=2)[2].unflatten(2, (-1, D)).transpose(1, 2)
            v = v.repeat_interleave(H // v.size(1), dim=1)  # (1, H, T, D)
            again = attn.c_proj((traced.attention[layer] @ v).transpose(1, 2).flatten(2))
        assert (again - out).abs().max() < 1e-5
    assert torch.allclose(traced.attention.sum(-1), torch.ones(L, H, T))
    assert traced.attention.triu(1).abs().max() == 0


def test_logits_are_the_models_and_the_last_lens_too(family: str) -> None:
    model, ids = tiny_model(family), [3, 1, 4, 1, 5, 9, 2, 6]
    traced = attention.trace(model, ids)
    with torch.no_grad():
        logits, _ = model(torch.tensor([ids]))
    assert (traced.logits[-1] - logits[0, 0]).abs().max() < 1e-5
    seen = attention.lens(model, traced.residual)
    assert seen.shape == (3, 8, 50)
    assert (seen[-1] - traced.logits).abs().max() < 1e-5
    assert (seen[0] - traced.logits).abs().max() > 0.1
    embedding = model.get_parameter("transformer.wte.weight")[ids]
    if family == "llama":
        assert torch.equal(traced.residual[0], embedding)


def test_a_model_is_left_as_it_was_and_its_context_is_a_limit(family: str) -> None:
    model = tiny_model(family)
    for ids in ([], [0] * 17):
        with pytest.raises(UsageError, match="attention is over 1 to 16"):
            attention.trace(model, ids)
    with pytest.raises(IndexError):
        attention.trace(model, [99])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert attention.trace(model.to(torch.bfloat16), [0] * 16).attention.dtype == torch.float32
