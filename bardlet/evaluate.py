"""Validation: the loss over a whole split, each token predicted once, with no randomness at all."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bardlet import native
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import first_seen, random_batches
from bardlet.data.dataset.stream import TokenStream
from bardlet.errors import DataError
from bardlet.gpu.forward import on_gpu
from bardlet.model import GPT
from bardlet.native.quantised import RoundedCacheGPT
from bardlet.native.training import NativeGPT, fits
from bardlet.system import sharding
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.system.exchanges import micro_batcher
from bardlet.system.memory import MicroBatcher

CORE_TOKENS = 8192  # that the core scores in a call, where batch_size asks for fewer


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
    was_training = model.training
    model.eval()
    score: torch.nn.Module
    if cache != "auto":
        score = RoundedCacheGPT(model, cache)
    elif fits(model, training=False):
        score = NativeGPT(model, machine.dtype)
    else:
        score = on_gpu(model, machine.device, batch_size)
    # the core works through a batch in small parts, whatever its size, and calling it has a cost
    size = max(batch_size, CORE_TOKENS // T) if isinstance(score, NativeGPT) else batch_size
    batches: Iterable[tuple[Tensor, Tensor]]
    if sampled:
        stream = dataset.splits[split]
        batches = random_batches(
            stream, block_size=T, batch_size=batch_size, count=sampled, seed=seed
        )
    else:
        batches = padded_batches(dataset.splits[split], T, size)
    token_bytes = torch.from_numpy(dataset.tokenizer.token_bytes())  # (V,)
    end_of_text = dataset.end_of_text if doc_mask else None
    nats, tokens, text_bytes = 0.0, 0, 0
    alone = group.world_size == 1
    parts = micro_batcher(size, model, group, machine.device)
    if sharding.is_sharded(model):
        batches = even_batches(batches, batch_size, group.world_size)
    try:
        for i, (idx, targets) in enumerate(batches):
            if i % group.world_size != group.rank:
                continue
            if alone and stop():
                raise EvalInterrupted
            scored = functools.partial(summed, score, machine, end_of_text, idx, targets, parts)
            nats += parts.run(scored)
            counted = targets[targets >= 0]  # (predicted tokens,)
            tokens += len(counted)
            text_bytes += int(token_bytes[counted].sum())
        sharding.release(model)
    finally:
        native.scratch.release()  # a large vocabulary's is large
        model.train(was_training)
    nats, total, total_bytes = group.sum([nats, tokens, text_bytes], machine.device)
    if not total:
        raise DataError(f"nothing that was scored of {split} counts", "Raise eval_iters")
    bits_per_byte = nats / math.log(2) / total_bytes
    return Score(loss=nats / total, tokens=int(total), bits_per_byte=bits_per_byte)


@torch.no_grad()
def summed(
    score: torch.nn.Module, machine: Machine, end_of_text: int | None, idx: Tensor,
    targets: Tensor, parts: MicroBatcher, size: int,
) -> float:  # fmt: skip
    """The losses of all tokens of a batch together, computed `size` windows at a time."""

    def nats(idx: Tensor, targets: Tensor) -> float:
        idx, targets = idx.to(machine.device), targets.to(machine.device)
        with machine.autocast():
            _, loss = score(idx, targets, first=first_seen(idx, end_of_text))
        return loss.item() * int((targets >= 0).sum())

    pieces = zip(idx.split(size), targets.split(size), strict=True)
    return sum(parts.part(nats, *piece) for piece in pieces)


def even_batches(
    batches: Iterable[tuple[Tensor, Tensor]], batch_size: int, processes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, and of nothing that counts as much as gives all processes equally many passes.

    In each pass of a sharded model every process gathers weights.
    """
    left, T = 0, 1
    for idx, targets in batches:
        left, (rows, T) = (left or processes) - 1, idx.shape
        missing = (0, 0, 0, batch_size - rows)
        yield F.pad(idx, missing), F.pad(targets, missing, value=-1)
    for _ in range(left):
        yield torch.zeros(batch_size, T, dtype=torch.int64), torch.full((batch_size, T), -1)


def padded_batches(
    stream: TokenStream, block_size: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (B, T) idx and targets, the stream once, front to back, so that every token but
    the very first is a target once; a short last window is filled up with target -1.
    """
    for start in range(0, len(stream) - 1, batch_size * block_size):
        window = torch.from_numpy(stream.window(start, batch_size * block_size))  # (2, B * T)
        missing = 0, -window.size(1) % block_size
        yield (
            F.pad(window[0], missing).view(-1, block_size),  # (B, T)
            F.pad(window[1], missing, value=-1).view(-1, block_size),  # (B, T)
        )
