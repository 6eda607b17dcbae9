"""ggml's K-quants: blocks of 256 weights, whose parts have small integers as their scales.

Layouts are those of ggml, little-endian; d and dmin are float16.

Q4_K   d, dmin, 12 bytes of 6-bit scales s and minima m of 8 parts of 32, then 128 bytes of
       nibbles q: weight = d s q - dmin m. Of each 32 bytes the low halves are one part, the high
       ones the next.
Q5_K   the same with 32 bytes of fifth bits before the nibbles, bit i of a byte being part i's
Q6_K   128 bytes of low nibbles and 64 of high pairs of bits of q, 16 signed bytes s, d:
       weight = d s (q - 32), for 16 parts of 16 weights

Scales are the parts' ranges, rounded; ggml's own search for better ones is not repeated here.
"""

from __future__ import annotations

import numpy as np

BLOCK = 256


def decode(raw: np.ndarray, name: str, block_bytes: int) -> np.ndarray:
    """The weights that bytes (bytes,) uint8 hold in a K-quant: (weights,) float32."""
    blocks = raw.reshape(-1, block_bytes)  # (N, bytes)
    return decode_6(blocks) if name == "Q6_K" else decode_4_5(blocks, name)


def encode(blocks: np.ndarray, name: str) -> np.ndarray:
    """The bytes of float32 blocks (N, 256): (bytes,) uint8."""
    return (encode_6 if name == "Q6_K" else encode_4)(blocks).reshape(-1)


def decode_4_5(blocks: np.ndarray, name: str) -> np.ndarray:
    d, dmin = half(blocks[:, :2]), half(blocks[:, 2:4])  # (N, 1) each
    packed = blocks[:, 4:16]
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((low & 63, high & 15 | low >> 6 << 4), axis=1)  # (N, 8)
    minima = np.concatenate((middle & 63, high >> 4 | middle >> 6 << 4), axis=1)  # (N, 8)
    nibbles = blocks[:, -128:].reshape(-1, 4, 1, 32)
    q = np.concatenate((nibbles & 15, nibbles >> 4), axis=2).reshape(-1, 8, 32)
    if name == "Q5_K":
        bits = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None] & 1
        q = q + 16 * bits
    weights = (d * scales)[..., None] * q.astype(np.float32) - (dmin * minima)[..., None]
    return weights.astype(np.float32).reshape(-1)


def decode_6(blocks: np.ndarray) -> np.ndarray:
    d = half(blocks[:, 208:])  # (N, 1)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)  # (N, 16)
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    q = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    return ((d * scales)[..., None] * q).astype(np.float32).reshape(-1)


def encode_4(blocks: np.ndarray) -> np.ndarray:
    parts = blocks.reshape(-1, 8, 32)
    minima = np.maximum(0, -parts.min(2))  # (N, 8)
    scales = (parts.max(2) + minima).clip(0) / np.float32(15)
    d, dmin = (scale(of.max(1, keepdims=True) / 63) for of in (scales, minima))  # (N, 1) each
    s = np.rint(scales * inverse(widened(d))).clip(0, 63).astype(np.uint8)
    m = np.rint(minima * inverse(widened(dmin))).clip(0, 63).astype(np.uint8)
    step, least = (widened(d) * s)[..., None], (widened(dmin) * m)[..., None]
    q = np.rint((parts + least) * inverse(step)).clip(0, 15).astype(np.uint8)  # (N, 8, 32)
    q = q.reshape(-1, 4, 2, 32)
    nibbles = (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)
    packed = (s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6,
              s[:, 4:] & 15 | m[:, 4:] << 4)  # fmt: skip
    return np.concatenate((d.view(np.uint8), dmin.view(np.uint8), *packed, nibbles), axis=1)


def encode_6(blocks: np.ndarray) -> np.ndarray:
    parts = blocks.reshape(-1, 16, 16)
    # the weight of largest magnitude becomes -32, the one end that its mirror image lacks
    scales = largest(parts) / np.float32(-32)  # (N, 16)
    d = scale(largest(scales[:, None])[:, :1] / np.float32(-128))  # (N, 1)
    s = np.rint(scales * inverse(widened(d))).clip(-128, 127).astype(np.int8)
    step = (widened(d) * s)[..., None]
    q = (np.rint(parts * inverse(step)).clip(-32, 31) + 32).astype(np.uint8)
    q = q.reshape(-1, 2, 4, 32)
    low = (q & 15).reshape(-1, 2, 2, 64)
    low = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)
    high = q >> 4
    high = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(
        -1, 64
    )
    return np.concatenate((low, high, s.view(np.uint8), d.view(np.uint8)), axis=1)


def largest(parts: np.ndarray) -> np.ndarray:
    """The entry of largest magnitude along the last dimension, with its sign."""
    at = np.abs(parts).argmax(-1)
    return np.take_along_axis(parts, at[..., None], axis=-1)[..., 0]


def scale(values: np.ndarray) -> np.ndarray:
    """Scales as float16, as they are stored."""
    return np.ascontiguousarray(values).astype("<f2")


def widened(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def half(raw: np.ndarray) -> np.ndarray:
    """Two bytes of each row as float16, widened: (N, 2) uint8 -> (N, 1) float32."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def inverse(values: np.ndarray) -> np.ndarray:
    """1 / values, 0 where they are."""
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)
