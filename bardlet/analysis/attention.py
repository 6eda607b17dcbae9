"""What a model computes on the way from a context to its logits: attention and residual stream.

The model's own attention does not keep its weights. They are computed beside it, from what each
attention layer was given, so that they are those that it used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bardlet.errors import UsageError
from bardlet.model import GPT, CausalSelfAttention, rotate


@dataclass(frozen=True)
class Trace:
    """What one pass over T tokens computed, in float32 on the CPU.

    Shapes: L layers, H heads, T time, C n_embd, V vocabulary.
    """

    attention: Tensor  # (L, H, T, T): row t is how much of each position t took; it sums to 1
    residual: Tensor  # (L + 1, T, C): the embeddings, then what each layer left in the stream
    logits: Tensor  # (T, V)


@torch.inference_mode()
def trace(model: GPT, ids: Sequence[int]) -> Trace:
    """Run the model over token ids (T,), and return what it computed on the way.

    Both families, as the weights are: in grouped-query attention, heads share keys, and each has
    weights of its own. Raises UsageError where there are no ids or more than the context holds.
    """
    size = model.config.block_size
    if not 0 < len(ids) <= size:
        raise UsageError(f"{len(ids)} tokens: attention is over 1 to {size}, the model's context")
    idx = torch.tensor([list(ids)], device=model.lm_head.weight.device)
    attention: list[Tensor] = []
    residual: list[Tensor] = []

    def before_attention(module: Any, args: Any) -> None:
        attention.append(weights(module, args[0], args[1])[0].cpu())

    def before_block(module: Any, args: Any) -> None:
        residual.append(args[0][0].float().cpu())

    blocks: Any = model.transformer["h"]
    hooks = [block.attn.register_forward_pre_hook(before_attention) for block in blocks]
    hooks += [block.register_forward_pre_hook(before_block) for block in blocks]
    hooks.append(model.transformer["ln_f"].register_forward_pre_hook(before_block))
    try:
        logits, _ = model.eval()(idx, idx)
    finally:
        for hook in hooks:
            hook.remove()
    return Trace(torch.stack(attention), torch.stack(residual), logits[0].float().cpu())


def weights(layer: CausalSelfAttention, x: Tensor, rotary: Tensor | None) -> Tensor:
    """How much of each position an attention layer takes from its input x (B, T, C): (B, H, T, T).

    float32; what a position may not see has exactly 0.
    """
    config, T = layer.config, x.size(1)
    q, k, _ = layer.c_attn(x).split(layer.sizes, dim=2)
    q, k = (part.unflatten(2, (-1, config.head_size)) for part in (q, k))  # (B, T, H|K, D)
    if config.llama and config.qk_norm:
        q, k = layer.q_norm(q), layer.k_norm(k)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    q, k = q.transpose(1, 2).float(), k.transpose(1, 2).float()  # (B, H, T, D), (B, K, T, D)
    k = k.repeat_interleave(config.n_head // config.kv_heads, dim=1)  # (B, H, T, D)
    future = torch.full((T, T), -math.inf, device=x.device).triu(1)
    return (q @ k.mT / math.sqrt(config.head_size) + future).softmax(-1)


@torch.inference_mode()
def lens(model: GPT, residual: Tensor) -> Tensor:
    """The logits that the residual stream (..., C) would give if no layer came after: (..., V).

    The "logit lens": what the model would say so far.
    """
    head = model.lm_head.weight
    x = model.transformer["ln_f"](residual.to(head.device, head.dtype))
    return F.linear(x.float(), head.float()).cpu()
