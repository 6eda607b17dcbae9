"""A model's loss and gradients from the compiled core, as a module and an autograd function."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bardlet import native
from bardlet.model import GPT

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
        self.sizes = [p.numel() for p in self.named.values()]
        # where the gradient of each of the core's parameters begins in a block of all of them
        begins = dict(zip(self.named, accumulate(self.sizes, initial=0), strict=False))
        if model.config.tied:
            begins["lm_head.weight"] = begins["transformer.wte.weight"]
        self.begins = [begins.get(name) for name in native.slots(model.config)]

    def forward(
        self, idx: Tensor, targets: Tensor, first: Tensor | None = None, soft: Soft | None = None
    ) -> tuple[None, Tensor]:
        """(None, the mean loss of idx (B, T) and targets (B, T), -1 where one does not count).

        All int64, T a multiple of 32 and at most block_size; first (B, T) may name the earliest
        position that each attends to. With soft targets the loss is (1 - weight) of it, and weight
        temperature^2 of the cross-entropy with them. IndexError where a token lies outside the
        vocabulary or a position outside the past, ValueError for other shapes.
        """
        self.check(idx, targets)
        first = checked_first(first, idx)
        idx, targets = idx.contiguous(), targets.contiguous()
        if soft and soft.targets.shape != (*idx.shape, rows(self.model.config.vocab_size)):
            raise ValueError(f"soft targets {tuple(soft.targets.shape)} do not fit the model")
        if torch.is_grad_enabled():
            params = self.named.values()
            return None, Loss.apply(self, idx, targets, first, soft, *params)  # pyright: ignore
        return None, self.compute(idx, targets, first, self.named, [], self.struct(soft))

    @torch.no_grad()
    def distributions(self, idx: Tensor, first: Tensor | None, temperature: float) -> Tensor:
        """softmax(logits / temperature) at each position of idx (B, T): (B, T, rows(V)) float32."""
        self.check(idx, idx)
        first = checked_first(first, idx)
        size = rows(self.model.config.vocab_size)
        written = torch.zeros(*idx.shape, size)
        soft = native.Soft(None, native.pointer(written), size, 0.0, temperature)
        self.compute(idx.contiguous(), idx.contiguous(), first, self.named, [], soft)
        return written

    def check(self, idx: Tensor, targets: Tensor) -> None:
        """Raise IndexError or ValueError where the core would read what is not there."""
        T = idx.size(-1)
        if idx.shape != targets.shape or idx.dim() != 2 or T % native.UNIT:
            raise ValueError(
                f"idx {tuple(idx.shape)} and targets {tuple(targets.shape)} do not fit"
            )
        if self.model.config.block_size < T or {idx.dtype, targets.dtype} != {torch.int64}:
            raise ValueError(f"{T} positions of {idx.dtype} do not fit the model")
        V = self.model.config.vocab_size
        if idx.min() < 0 or max(idx.max(), targets.max()) >= V or targets.min() < -1:
            raise IndexError(f"token ids must be in [0, {V})")

    def struct(self, soft: Soft | None) -> native.Soft:
        """The soft targets as the core reads them."""
        if soft is None:
            return native.Soft(None, None, 0, 0.0, 1.0)
        at, size = native.pointer(soft.targets), soft.targets.size(-1)
        return native.Soft(at, None, size, soft.weight, soft.temperature)

    def addresses(self, block: int) -> ctypes.Array[ctypes.c_void_p]:
        """The core's table of gradients in a block that begins at this address."""
        each = (None if begin is None else block + 4 * begin for begin in self.begins)
        return (ctypes.c_void_p * len(self.begins))(*each)

    def peak_flops(self) -> float:
        """FLOP/s that the core's innermost loop reaches here, measured in some hundredths of a
        second.
        """
        flops = ctypes.c_double()
        native.core().bardlet_peak(native.threads(), self.bf16, ctypes.byref(flops))
        return flops.value

    def compute(
        self,
        idx: Tensor,
        targets: Tensor,
        first: Tensor | None,
        params: Mapping[str, Tensor],
        grads: list[Tensor],
        soft: native.Soft,
    ) -> Tensor:
        """The mean loss; its gradients are left in grads[0], the others are the threads' own. Each
        has all parameters', one after the other.
        """
        config = self.model.config
        B, T = idx.shape
        dropout = config.dropout if self.model.training else 0.0
        # masks follow torch's generator, which the training loop seeds for every iteration
        seed = int(torch.randint(1 << 31, ())) if dropout else 0
        counted = max(1, int((targets >= 0).sum()))
        tables = [self.addresses(native.pointer(each)) for each in grads]
        arguments = (
            ctypes.byref(native.Shape.of(config)),
            native.table(params, config),
            (ctypes.c_void_p * len(tables))(*map(ctypes.addressof, tables)) if tables else None,
            native.rotary(self.model),
            native.pointer(idx, torch.int64), native.pointer(targets, torch.int64),
            native.pointer(first, torch.int64) if first is not None else None, ctypes.byref(soft),
            B, T, counted, dropout, seed, len(tables) or min(native.threads(), B), self.bf16,
            sum(self.sizes),
        )  # fmt: skip
        train, result = native.core().bardlet_train, ctypes.c_double()
        train(*arguments, None, ctypes.byref(result))
        train(*arguments, native.scratch.of(int(result.value)), ctypes.byref(result))
        return torch.tensor(result.value / counted, dtype=torch.float32)


def checked_first(first: Tensor | None, idx: Tensor) -> Tensor | None:
    """The earliest positions as the core reads them; ValueError or IndexError for others."""
    if first is None:
        return None
    if first.shape != idx.shape or first.dtype != torch.int64:
        raise ValueError(f"first {tuple(first.shape)} does not fit idx {tuple(idx.shape)}")
    if first.min() < 0 or (first > torch.arange(idx.size(1))).any():
        raise IndexError("a position attends to itself and to what is before it")
    return first.contiguous()


class Loss(torch.autograd.Function):
    """The core's loss; its gradients come with it, in one call."""

    @staticmethod
    def forward(
        ctx: Any, model: NativeGPT, idx: Tensor, targets: Tensor, first: Tensor | None,
        soft: Soft | None, *params: Tensor,
    ) -> Tensor:  # fmt: skip
        named = dict(zip(model.named, params, strict=True))
        each = range(min(native.threads(), len(idx)))
        grads = [torch.empty(sum(model.sizes)) for _ in each]
        loss = model.compute(idx, targets, first, named, grads, model.struct(soft))
        pieces = grads[0].split(model.sizes)
        ctx.grads = [piece.view(p.shape) for piece, p in zip(pieces, params, strict=True)]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        grads, ctx.grads = ctx.grads, None  # handed over: the caller's, to change
        if grads is None:
            raise RuntimeError("the compiled core's loss goes backward only once")
        if scale != 1:
            torch._foreach_mul_(grads, scale.item())
        return None, None, None, None, None, *grads
