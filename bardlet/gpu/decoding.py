"""A token step that does not change from token to token, which a CUDA graph records and replays.

At one token a step, launching a hundred kernels takes a GPU's host longer than they do. Recorded,
they are launched at once; for that all shapes and places in memory stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bardlet.gpu import graphs
from bardlet.model import GPT, KVCache

MIN_SPAN = 256  # positions that a step attends to: more cost less than recording it once more


class StaticCache(KVCache):
    """The first `span` positions of a cache, written where a number on the device says."""

    length: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, cache: KVCache, span: int) -> None:
        self.k, self.v = cache.k[:, :, :, :span], cache.v[:, :, :, :span]
        self.length = torch.zeros((), dtype=torch.int64, device=cache.k.device)
        self.places = torch.arange(span, device=cache.k.device)
        self.unfilled = torch.empty(0)

    def begin(self) -> None:
        """Note what is filled with the next token, (1, span): 0 there and -inf behind it.

        In this form SDPA takes it as it is, and not once more in each layer.
        """
        mask = torch.where(self.places <= self.length, 0.0, -math.inf)
        self.unfilled = mask.to(self.k.dtype)[None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, 1, D) keys and values of one layer; all of its places, (B, K, span, D)."""
        for kept, new in ((self.k[layer], k), (self.v[layer], v)):
            kept.index_copy_(2, self.length.view(1), new.to(kept.dtype))
        return self.k[layer], self.v[layer]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of (B, H, 1, D) queries over what is filled of (B, K, span, D); as q.

        Heads that share keys are as queries of one head: a GPU has no fast kernel for both a mask
        and fewer heads of keys.
        """
        shared = q.reshape(q.size(0), k.size(1), -1, q.size(3))  # (B, K, H / K, D)
        y = F.scaled_dot_product_attention(shared, k, v, attn_mask=self.unfilled)
        return y.reshape(q.shape)


class DecodeStep:
    """The step of one token of each text in a cache, over a span that has room for it."""

    def __init__(self, model: GPT, cache: KVCache) -> None:
        """`cache` is the model's and has texts in it; on CUDA the step is captured at once."""
        self.model, device = model, cache.k.device
        self.span = min(model.config.block_size, max(MIN_SPAN, 1 << cache.length.bit_length()))
        self.static = StaticCache(cache, self.span)
        self.idx = torch.zeros(cache.k.size(1), 1, dtype=torch.int64, device=device)  # (B, 1)
        self.logits: Tensor | None = None
        self.replay: Callable[[], None] | None = None
        if device.type == "cuda":
            self.capture(cache.length)

    def __call__(self, idx: Tensor, length: int) -> Tensor:
        """Logits (B, 1, V) behind idx (B, 1) at position `length`, until the next call."""
        assert length < self.span
        self.idx.copy_(idx)
        self.static.length.fill_(length)
        (self.replay or self.compute)()
        assert self.logits is not None
        return self.logits

    def compute(self) -> None:
        self.static.begin()
        x = self.model.hidden(self.idx, self.static, self.static.attend)  # (B, 1, C)
        self.logits = wide_logits(x, self.model.lm_head.weight)

    def capture(self, length: int) -> None:
        """Record the step. What it writes while it warms up, the first call writes again."""
        for _ in range(2):  # libraries load their kernels
            self.static.length.fill_(length)
            self.compute()
        self.replay = graphs.record(self.compute, self.idx.device)


def wide_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Logits (B, 1, V) float32 of states (B, 1, C) and a head (V, C), as GPT.forward has them.

    A GPU sums products of 16 bits in float32 and can leave them so: the head is read once, in place
    of being copied to float32 for each token.
    """
    if weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16):
        rows = x[:, 0].to(weight.dtype)  # (B, C)
        return torch.mm(rows, weight.T, out_dtype=torch.float32)[:, None]
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.linear(x.to(wide), weight.to(wide))
