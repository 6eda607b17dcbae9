"""A model's loss and gradients from the compiled core, as a module and an autograd function."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bardlet import native
from bardlet.model import GPT, GPTConfig
from bardlet.native.addresses import Places
from bardlet.native.blocks import Block

MAX_GRADIENTS = 1 << 30  # numbers, 4 GiB: each thread sums gradients of its own


def fits(model: GPT, *, training: bool) -> bool:
    """Whether the core can compute this model's loss: it takes whole blocks of positions only, and
    trains no model whose gradients, once for each thread, exceed MAX_GRADIENTS.
    """
    whole = model.config.block_size % native.UNIT == 0
    if training and native.threads() * model.num_params() > MAX_GRADIENTS:
        return False
    return native.runs(model) and whole


@dataclass(frozen=True, kw_only=True)
class Soft:
    """What a student learns beside the targets: its teachers' distributions (arXiv:1503.02531).

    targets (B, T, rows(V)) float32, each row a distribution softened by `temperature` and zero
    behind the vocabulary; `weight` in [0, 1] is their share of the loss.
    """

    targets: Tensor
    weight: float
    temperature: float


def rows(vocab_size: int) -> int:
    """How many numbers a row of soft targets has."""
    return -(-vocab_size // native.UNIT) * native.UNIT


class NativeGPT(nn.Module):
    """A model called as it is with targets, but for the logits, which the core does not return.

    `dtype` is what matrices are multiplied in: bfloat16 where the build can, else float32. Sums,
    the residual stream and gradients of weights are float32. In bfloat16, results differ from
    torch's autocast by rounding; dropout's masks are others than torch's.
    """

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.bf16 = dtype == torch.bfloat16 and bool(native.core().bardlet_bf16())
        self.named = dict(model.named_parameters())
        self.shape = native.Shape.of(model.config)
        # where the gradient of each of the core's parameters begins in a block of all of them
        sizes = [p.numel() for p in self.named.values()]
        *starts, self.size = accumulate(sizes, initial=0)
        begins = dict(zip(self.named, starts, strict=True))
        if model.config.tied:
            begins["lm_head.weight"] = begins["transformer.wte.weight"]
        self.pieces = [  # of such a block: whose gradient each is, and as_strided's arguments
            (p, p.shape, p.stride(), start)
            for p, start in zip(self.named.values(), starts, strict=True)
        ]
        slots = [begins.get(name, -1) for name in native.slots(model.config)]
        self.begins = (ctypes.c_long * len(slots))(*slots)
        self.places = Places()
        self.gradients, self.others = Block(), Block()  # and those of the threads but the first
        self.gradient = torch.zeros(0, requires_grad=True)  # what autograd is told to go back to

    def forward(
        self, idx: Tensor, targets: Tensor, first: Tensor | None = None, soft: Soft | None = None
    ) -> tuple[None, Tensor]:
        """(None, the mean loss of idx (B, T) and targets (B, T), -1 where one does not count).

        All int64, T a multiple of 32 and at most block_size; first (B, T) may name the earliest
        position that each attends to. With soft targets the loss is (1 - weight) of it, and weight
        temperature^2 of the cross-entropy with them. IndexError where a token lies outside the
        vocabulary or a position outside the past, ValueError for other shapes.
        """
        if soft and soft.targets.shape != (*idx.shape, rows(self.model.config.vocab_size)):
            raise ValueError(f"soft targets {tuple(soft.targets.shape)} do not fit the model")
        if torch.is_grad_enabled():
            loss = Loss.apply(self, idx, targets, first, soft, self.gradient)
            return None, loss  # pyright: ignore
        return None, self.compute(idx, targets, first, struct(soft))

    @torch.no_grad()
    def distributions(self, idx: Tensor, first: Tensor | None, temperature: float) -> Tensor:
        """softmax(logits / temperature) at each position of idx (B, T): (B, T, rows(V)) float32."""
        size = rows(self.model.config.vocab_size)
        written = torch.zeros(*idx.shape, size)
        soft = native.Soft(None, native.pointer(written), size, 0.0, temperature)
        self.compute(idx, idx, first, soft)
        return written

    def peak_flops(self) -> float:
        """FLOP/s that the core's innermost loop reaches here, measured in some hundredths of a
        second.
        """
        flops = ctypes.c_double()
        native.core().bardlet_peak(native.threads(), self.bf16, ctypes.byref(flops))
        return flops.value

    def compute(
        self, idx: Tensor, targets: Tensor, first: Tensor | None, soft: native.Soft,
        gradients: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The mean loss; all parameters' gradients, one after the other, fill `gradients`."""
        config = self.model.config
        check(idx, targets, first, config)
        idx, targets = idx.contiguous(), targets.contiguous()
        first = first if first is None else first.contiguous()
        B, T = idx.shape
        dropout = config.dropout if self.model.training else 0.0
        # masks follow torch's generator, which the training loop seeds for every iteration
        seed = int(torch.randint(1 << 31, ())) if dropout else 0
        threads = min(native.threads(), B)
        others = self.others.take(0 if gradients is None else (threads - 1) * self.size)
        if self.places.moved([*self.named.values()]):
            self.weights = native.table(self.named, config)
        result = ctypes.c_double()
        native.in_scratch(
            native.core().bardlet_train, ctypes.byref(self.shape), self.weights, self.begins,
            gradients if gradients is None else native.pointer(gradients), native.pointer(others),
            native.rotary(self.model),
            native.pointer(idx, torch.int64), native.pointer(targets, torch.int64),
            first if first is None else native.pointer(first, torch.int64), ctypes.byref(soft),
            B, T, dropout, seed, threads, self.bf16, self.size, ctypes.byref(result),
        )  # fmt: skip
        return torch.scalar_tensor(result.value, dtype=torch.float32)


def struct(soft: Soft | None) -> native.Soft:
    """The soft targets as the core reads them."""
    if soft is None:
        return native.Soft(None, None, 0, 0.0, 1.0)
    at, size = native.pointer(soft.targets), soft.targets.size(-1)
    return native.Soft(at, None, size, soft.weight, soft.temperature)


def check(idx: Tensor, targets: Tensor, first: Tensor | None, config: GPTConfig) -> None:
    """Raise ValueError for tensors of other shapes than the core reads; their values it checks."""
    T = idx.size(-1)
    if idx.shape != targets.shape or idx.dim() != 2 or T % native.UNIT:
        raise ValueError(f"idx {tuple(idx.shape)} and targets {tuple(targets.shape)} do not fit")
    if config.block_size < T or idx.dtype != torch.int64 or targets.dtype != torch.int64:
        raise ValueError(f"{T} positions of {idx.dtype} do not fit the model")
    if first is not None and (first.shape != idx.shape or first.dtype != torch.int64):
        raise ValueError(f"first {tuple(first.shape)} does not fit idx {tuple(idx.shape)}")


class Loss(torch.autograd.Function):
    """The core's loss; its gradients come with it, in one call.

    Going backward adds them to the parameters' as autograd would. Autograd itself, with a node for
    each parameter, takes 8 microseconds each: of a small model a tenth of all. So no hook of a
    parameter sees them: processes exchange them afterwards, by exchanges.settle.
    """

    @staticmethod
    def forward(
        ctx: Any, model: NativeGPT, idx: Tensor, targets: Tensor, first: Tensor | None,
        soft: Soft | None, gradient: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.pieces, ctx.block = model.pieces, model.gradients.take(model.size)
        return model.compute(idx, targets, first, struct(soft), ctx.block)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[None, ...]:  # pyright: ignore
        block, ctx.block = ctx.block, None  # handed over: the caller's, to change
        if block is None:
            raise RuntimeError("the compiled core's loss goes backward only once")
        if (factor := scale.item()) != 1:
            block.mul_(factor)
        for p, *piece in ctx.pieces:
            if p.grad is not None:
                p.grad += block.as_strided(*piece)
            elif p.requires_grad:
                p.grad = block.as_strided(*piece)
        return (None,) * 6
