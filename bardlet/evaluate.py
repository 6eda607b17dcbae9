"""Validation: the loss over a whole split, each token predicted once, with no randomness at all."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from bardlet import native
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import first_seen, random_batches
from bardlet.errors import DataError
from bardlet.gpu.forward import on_gpu
from bardlet.model import GPT
from bardlet.native.quantised import RoundedCacheGPT
from bardlet.native.training import NativeGPT, fits
from bardlet.system import sharding
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.system.memory import MicroBatcher


@dataclass(frozen=True, kw_only=True)
class Score:
    """A loss and what it was measured on."""

    loss: float  # nats per token
    tokens: int  # predicted tokens
    bits_per_byte: float  # of their UTF-8 text: comparable between tokenizers

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # above, a float64 overflows


class EvalInterrupted(Exception):  # noqa: N818
    """The evaluation was ended half way, as asked."""


def evaluate(
    model: GPT, dataset: Dataset, split: str, *, batch_size: int, machine: Machine, group: Group,
    sampled: int = 0, seed: int = 0, stop: Callable[[], bool] = lambda: False,
    doc_mask: bool = False, cache: str = "auto",
) -> Score:  # fmt: skip
    """The model's loss on a split: in windows of its context, non-overlapping, front to back.

    The figure does not depend on batch_size or on the number of processes but for rounding.
    `sampled` > 0 takes that many batches of random windows instead, as nanoGPT's estimate does:
    always the same ones for one seed. `doc_mask` keeps attention within documents. `cache` is the
    format of native/quantised.py that keys and values are rounded to. Where memory runs out, a
    batch is scored in halves. Raises EvalInterrupted when `stop` says so and no other process waits
    for this one, DataError where no token counts.
    """
    T = model.config.block_size
    batches: Iterable[tuple[Tensor, Tensor]]
    if sampled:
        stream = dataset.splits[split]
        batches = random_batches(
            stream, block_size=T, batch_size=batch_size, count=sampled, seed=seed
        )
    else:
        batches = padded_batches(dataset.windows(split, T), T, batch_size)
    token_bytes = torch.from_numpy(dataset.tokenizer.token_bytes())  # (V,)
    end_of_text = dataset.end_of_text if doc_mask else None
    nats, tokens, size = 0.0, 0, 0
    was_training = model.training
    model.eval()
    score: torch.nn.Module
    if cache != "auto":
        score = RoundedCacheGPT(model, cache)
    elif fits(model, training=False):
        score = NativeGPT(model, machine.dtype)
    else:
        score = on_gpu(model, machine.device, batch_size)
    alone = group.world_size == 1
    micro_batcher = MicroBatcher(batch_size, can_retry=alone)
    i = -1
    try:
        for i, (idx, targets) in enumerate(batches):
            if i % group.world_size != group.rank:
                continue
            if alone and stop():
                raise EvalInterrupted
            scored = functools.partial(summed, score, machine, end_of_text, idx, targets)
            nats += micro_batcher.run(scored)
            counted = targets[targets >= 0]  # (predicted tokens,)
            tokens += len(counted)
            size += int(token_bytes[counted].sum())
        if sharding.is_sharded(model):
            if 0 < (i + 1) % group.world_size <= group.rank:  # others gather weights once more
                nothing = torch.full((1, T), -1)
                summed(score, machine, end_of_text, torch.zeros_like(nothing), nothing, 1)
            sharding.release(model)
    finally:
        native.scratch.release()  # a large vocabulary's is large
        model.train(was_training)
    nats, total, total_bytes = group.sum([nats, tokens, size], machine.device)
    if not total:
        raise DataError(f"nothing that was scored of {split} counts", "Raise eval_iters")
    bits_per_byte = nats / math.log(2) / total_bytes
    return Score(loss=nats / total, tokens=int(total), bits_per_byte=bits_per_byte)


@torch.no_grad()
def summed(
    score: torch.nn.Module, machine: Machine, end_of_text: int | None, idx: Tensor,
    targets: Tensor, size: int,
) -> float:  # fmt: skip
    """The losses of all tokens of a batch together, computed `size` windows at a time."""
    total = 0.0
    for x, y in zip(idx.split(size), targets.split(size), strict=True):
        with machine.autocast():
            x, y = x.to(machine.device), y.to(machine.device)
            _, loss = score(x, y, first=first_seen(x, end_of_text))
        total += loss.item() * int((y >= 0).sum())
    return total


def padded_batches(
    windows: Iterator[np.ndarray], block_size: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (B, T) idx and targets; a short last window is filled up with target -1."""
    while rows := list(islice(windows, batch_size)):
        idx = torch.zeros(len(rows), block_size, dtype=torch.int64)  # (B, T)
        targets = torch.full((len(rows), block_size), -1, dtype=torch.int64)  # (B, T)
        for row, window in enumerate(rows):
            idx[row, : window.shape[1]] = torch.from_numpy(window[0])
            targets[row, : window.shape[1]] = torch.from_numpy(window[1])
        yield idx, targets
