"""What GPUs and their links reach, as published: the rates that `scaling.py` computes with.

Products of matrices: the best rates that were found by search over their sizes, in bfloat16
(stas00/ml-engineering, "Maximum Achievable Matmul FLOPS"; H200 is H100's chip). Attention:
FlashAttention-2, forward and backward (arXiv:2307.08691: up to 225 TFLOP/s on A100 and 335 on
H100). Links within a node: bus bandwidth of an all-reduce of 16 GiB, measured (ml-engineering,
network/). Peaks, memory and its bandwidth: the makers' data sheets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bardlet.errors import UsageError, did_you_mean

GIB = 2**30
# The share of a network card's rate that an all-reduce over nodes reaches: 37 of 50 GB/s
# (ml-engineering)
NETWORK_REACHED = 0.74
# words of a GPU's name that say nothing of its rates; 40GB does
NO_RATE = re.compile(r"|NVIDIA|GEFORCE|TESLA|SXM\d*|HBM\d\w*|(?!40GB)\d+GB")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by its rates, in FLOP/s and bytes/s, and its memory in bytes."""

    name: str
    peak: float  # dense, in bfloat16: what MFU is a share of
    matmul: float
    attention: float
    bandwidth: float
    memory: float
    link: float  # to the others of its node
    bus: float  # to main memory, one way: 80% of PCIe's rate, 31.5 GB/s of PCIe 4 and 63 of PCIe 5
    estimated: str = ""  # which of these rates nobody has published


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="A100", peak=312e12, matmul=271.2e12, attention=225e12, bandwidth=2.0e12,
            memory=80 * GIB, link=234.9e9, bus=25e9),
        Gpu(name="A100-40GB", peak=312e12, matmul=271.2e12, attention=225e12, bandwidth=1.555e12,
            memory=40 * GIB, link=234.9e9, bus=25e9),
        Gpu(name="H100", peak=989e12, matmul=794.5e12, attention=335e12, bandwidth=3.35e12,
            memory=80 * GIB, link=367.6e9, bus=50e9),
        Gpu(name="H200", peak=989e12, matmul=794.5e12, attention=335e12, bandwidth=4.8e12,
            memory=141e9, link=367.6e9, bus=50e9),
        Gpu(name="B200", peak=2250e12, matmul=1745e12, attention=736e12, bandwidth=8.0e12,
            memory=180e9, link=845.7e9, bus=50e9,
            estimated="attention, as much faster as products are"),
        Gpu(name="RTX4090", peak=165e12, matmul=165e12, attention=165e12, bandwidth=1.008e12,
            memory=24 * GIB, link=25e9, bus=25e9,
            estimated="products and attention at their peak, and the link at 80% of PCIe 4"),
    )
}  # fmt: skip


def find(name: str) -> Gpu:
    """The GPU of this name, as people and drivers write it: h100, A100-80GB, NVIDIA H100 80GB HBM3,
    4090.
    """
    words = [word for word in re.split(r"[\s_-]+", name.upper()) if not NO_RATE.fullmatch(word)]
    short = {"4090": "RTX4090", "A10040GB": "A100-40GB"}
    written = "".join(words)
    gpu = GPUS.get(short.get(written, written))
    if gpu is None:
        known = f"{did_you_mean(name.upper(), GPUS)}Known are {', '.join(GPUS)}"
        raise UsageError(f"gpu={name} has no published rates here", known)
    return gpu
