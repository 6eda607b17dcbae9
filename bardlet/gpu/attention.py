"""Attention within documents by FlexAttention (arXiv:2412.05496), which leaves masked blocks out.

Scaled dot-product attention with a dense mask, as in model.py, is its oracle, and what computes
where torch does not compile.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Positions of queries and keys in a block by the GPU's generation, for FlashAttention-4's kernels:
# two tiles of 128 queries are one block on Blackwell. Other GPUs have none that leave blocks out.
FLASH_BLOCKS = {9: (128, 128), 10: (256, 128), 11: (256, 128)}
FLASH_HEADS = range(16, 129, 8)  # sizes of a head that have the same tiles on the way back
FLASH_PACKAGE = "flash_attn.cute"  # of flash-attn-4


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What computes FlexAttention, and its name for people."""

    name: str
    block: tuple[int, int]  # positions of queries and keys
    backend: str  # torch's own word for it

    @property
    def flash(self) -> bool:
        return self.backend == "FLASH"


FLEX = Kernel(name="FlexAttention", block=(128, 128), backend="AUTO")


def kernels(device: torch.device, dtype: torch.dtype, head_size: int) -> list[Kernel]:
    """What a compiled model can compute it with on a device, the fastest first."""
    if device.type != "cuda":
        return []
    block = FLASH_BLOCKS.get(torch.cuda.get_device_capability(device)[0])
    fits = dtype in (torch.bfloat16, torch.float16) and head_size in FLASH_HEADS
    # on the way back it adds in any order
    if not block or not fits or torch.are_deterministic_algorithms_enabled():
        return [FLEX]
    if not installed(FLASH_PACKAGE):
        return [FLEX]
    return [Kernel(name="FlashAttention-4", block=block, backend="FLASH"), FLEX]


def installed(package: str) -> bool:
    """Whether a package is there; older ones of the same name lack the part that is asked for."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def within_documents(
    first: Tensor, kernel: Kernel = FLEX
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Causal attention from the earliest position that each attends to, first (B, T) int64.

    Compiled, it makes no score outside of the blocks that documents touch.
    """
    # imports the compiler, a second or more
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k >= first[b, q])

    B, T = first.shape
    mask = create_block_mask(sees, B, None, T, T, device=first.device, BLOCK_SIZE=kernel.block)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, T, D), k and v (B, K, T, D); as q."""
        y = flex_attention(
            q, k, v, block_mask=mask, enable_gqa=k.size(1) != q.size(1),
            kernel_options={"BACKEND": kernel.backend},  # pyright: ignore
        )  # fmt: skip
        assert isinstance(y, Tensor)  # it was not asked for more
        return y

    return attend
