"""Weights in GGUF's dtypes: blocks of a scale and small integers, to float32 and back.

A quantised row is a sequence of blocks of 32 weights, of K-quants 256, so its length must be a
multiple of that.
Layouts are those of ggml, little-endian; d is a block's scale and m its minimum, float16.

F32, F16, BF16   plain numbers
Q8_0             d, then 32 signed bytes q: weight = d q
Q4_0             d, then 16 bytes of two nibbles q: weight = d (q - 8)
Q4_1             d, m, then 16 bytes of two nibbles q: weight = d q + m

Q4_K, Q5_K, Q6_K  see k_quants.py

Byte j of the nibbles holds weight j in its low half and weight j + 16 in its high half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bardlet.interop.gguf import k_quants
from bardlet.interop.gguf.k_quants import half, inverse

BLOCK = 32  # weights in a block of the quantised formats


@dataclass(frozen=True, kw_only=True)
class QuantType:
    """A dtype of GGUF: its id in ggml, and how many bytes hold how many weights."""

    id: int
    block: int
    block_bytes: int


QUANT_TYPES = {
    "F32": QuantType(id=0, block=1, block_bytes=4),
    "F16": QuantType(id=1, block=1, block_bytes=2),
    "Q4_0": QuantType(id=2, block=BLOCK, block_bytes=18),
    "Q4_1": QuantType(id=3, block=BLOCK, block_bytes=20),
    "Q8_0": QuantType(id=8, block=BLOCK, block_bytes=34),
    "Q4_K": QuantType(id=12, block=k_quants.BLOCK, block_bytes=144),
    "Q5_K": QuantType(id=13, block=k_quants.BLOCK, block_bytes=176),
    "Q6_K": QuantType(id=14, block=k_quants.BLOCK, block_bytes=210),
    "BF16": QuantType(id=30, block=1, block_bytes=2),
}
DTYPE_BY_ID = {dtype.id: name for name, dtype in QUANT_TYPES.items()}
WRITABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")


def encode(weights: np.ndarray, name: str) -> np.ndarray:
    """The bytes of float32 weights in a dtype of WRITABLE: (bytes,) uint8.

    The last dimension must be a multiple of the dtype's block.
    """
    flat = np.ascontiguousarray(weights, dtype="<f4").reshape(-1)
    if name == "F32":
        return flat.view(np.uint8)
    if name == "F16":
        return flat.astype("<f2").view(np.uint8)
    if name == "BF16":
        bits = flat.view("<u4").astype(np.uint64)
        nearest_even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return nearest_even.astype("<u2").view(np.uint8)
    if name in ("Q4_K", "Q6_K"):
        return k_quants.encode(flat.reshape(-1, k_quants.BLOCK), name)
    blocks = flat.reshape(-1, BLOCK)  # (N, 32)
    if name == "Q8_0":
        scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)  # (N, 1)
        q = np.rint(blocks * inverse(scale)).astype(np.int8).view(np.uint8)  # (N, 32)
    else:
        assert name == "Q4_0", name
        # the weight of largest magnitude becomes -8, the one end that its mirror image lacks
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), axis=1)
        scale = largest / np.float32(-8)  # (N, 1)
        nibbles = np.clip(np.floor(blocks * inverse(scale) + np.float32(8.5)), 0, 15)
        nibbles = nibbles.astype(np.uint8)  # (N, 32)
        q = nibbles[:, :16] | nibbles[:, 16:] << 4  # (N, 16)
    return np.concatenate((scale.astype("<f2").view(np.uint8), q), axis=1).reshape(-1)


def decode(raw: np.ndarray, name: str) -> np.ndarray:
    """The weights that bytes (bytes,) uint8 hold in a dtype: (weights,) float32."""
    if name == "F32":
        return raw.view("<f4").astype(np.float32)
    if name == "F16":
        return raw.view("<f2").astype(np.float32)
    if name == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if name.endswith("_K"):
        return k_quants.decode(raw, name, QUANT_TYPES[name].block_bytes)
    blocks = raw.reshape(-1, QUANT_TYPES[name].block_bytes)  # (N, bytes)
    scale = half(blocks[:, :2])  # (N, 1)
    if name == "Q8_0":
        return (scale * blocks[:, 2:].view(np.int8)).reshape(-1)
    packed = blocks[:, -16:]
    q = np.concatenate((packed & 15, packed >> 4), axis=1).astype(np.float32)  # (N, 32)
    if name == "Q4_0":
        return (scale * (q - 8)).reshape(-1)
    assert name == "Q4_1", name
    return (scale * q + half(blocks[:, 2:4])).reshape(-1)
