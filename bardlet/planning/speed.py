"""How fast this machine trains, measured in a fraction of a second."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import torch

from bardlet.model import GPT, GPTConfig
from bardlet.native.training import NativeGPT, fits
from bardlet.system.device import Machine
from bardlet.system.distributed import here

STEP_S = 0.003  # of an iteration, whatever its size
REACHED = 0.35  # of a GPU's peak, by a well fed model


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a machine trains."""

    flops: float  # a second
    layer_s: float = 0.0  # an iteration takes this for each layer, however small

    def seconds(self, model: GPT, tokens: float) -> float:
        """Of an iteration with so many tokens, by the FLOPs that model.py counts."""
        counted = model.flops_per_token() * tokens / self.flops
        return max(counted, self.layer_s * model.config.n_layer) + STEP_S


def measure(machine: Machine) -> Speed:
    """The speed of all processes: a small model's forward and backward, and of a GPU its peak
    besides, as often as there are processes.

    Those of one machine share its cores.
    """
    processes = here().world_size
    config = GPTConfig(
        family="llama", n_layer=12, n_head=3, n_embd=96, block_size=256, vocab_size=256,
        qk_norm=True, rope_theta=1024.0,
    )  # fmt: skip
    model = GPT(config).to(machine.device)
    forward = NativeGPT(model, machine.dtype) if fits(model, training=True) else model
    idx = torch.zeros(8, config.block_size, dtype=torch.int64, device=machine.device)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        with machine.autocast():
            _, loss = forward(idx, idx)
        loss.backward()
        sum(p.grad.sum() for p in model.parameters() if p.grad is not None)
        loss.item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    if machine.device.type == "cpu":
        busy = torch.get_num_threads() * int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        processes *= min(1.0, (os.cpu_count() or 1) / busy)
        return Speed(flops=processes * model.flops_per_token() * idx.numel() / best)
    flops = processes * REACHED * machine.peak_flops()
    return Speed(flops=flops, layer_s=best / config.n_layer)
