"""Attention within documents by FlexAttention (arXiv:2412.05496), which leaves masked blocks out.

Scaled dot-product attention with a dense mask, as in model.py, is its oracle, and what computes
where torch does not compile.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def within_documents(first: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Causal attention from the earliest position that each attends to, first (B, T) int64.

    Compiled, it makes no score outside of the blocks of 128 x 128 that documents touch.
    """
    # imports the compiler, a second or more
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k >= first[b, q])

    B, T = first.shape
    mask = create_block_mask(sees, B, None, T, T, device=first.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, T, D), k and v (B, K, T, D); as q."""
        y = flex_attention(q, k, v, block_mask=mask, enable_gqa=k.size(1) != q.size(1))
        assert isinstance(y, Tensor)  # it was not asked for more
        return y

    return attend
