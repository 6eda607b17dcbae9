"""A token step that does not change from token to token, which a CUDA graph records and replays.

At one token a step, launching a hundred kernels takes a GPU's host longer than they do. Recorded,
they are launched at once; for that all shapes and places in memory stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bardlet.gpu import graphs
from bardlet.model import GPT, KVCache

MIN_SPAN = 128  # positions that a step attends to


class StaticCache(KVCache):
    """The first `span` positions of a cache, written where a number on the device says."""

    length: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, cache: KVCache, span: int) -> None:
        self.k, self.v = cache.k[:, :, :, :span], cache.v[:, :, :, :span]
        self.length = torch.zeros((), dtype=torch.int64, device=cache.k.device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, 1, D) keys and values of one layer; all of its places, (B, K, span, D)."""
        for kept, new in ((self.k[layer], k), (self.v[layer], v)):
            kept.index_copy_(2, self.length.view(1), new.to(kept.dtype))
        return self.k[layer], self.v[layer]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of (B, H, 1, D) queries over what is filled of (B, K, span, D); as q."""
        filled = torch.arange(k.size(2), device=k.device) <= self.length  # (span,)
        gqa = k.size(1) != q.size(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=filled[None], enable_gqa=gqa)


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
        self.logits, _ = self.model(self.idx, cache=self.static, first=self.static.attend)

    def capture(self, length: int) -> None:
        """Record the step. What it writes while it warms up, the first call writes again."""
        for _ in range(2):  # libraries load their kernels
            self.static.length.fill_(length)
            self.compute()
        self.replay = graphs.record(self.compute, self.idx.device)
