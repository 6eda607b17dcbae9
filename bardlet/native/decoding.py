"""Tokens out of the compiled core, which keeps the weights packed and the KV cache filled."""

from __future__ import annotations

import ctypes
import threading

import torch
from torch import Tensor

from bardlet import native
from bardlet.model import GPT


class Decoder:
    """Token steps of `streams` texts at once; matrices are read in `dtype`, float32 or bfloat16.

    They are copied when this is made; the model must not change or move while it decodes. Calls
    from several threads take turns; texts at once need a decoder each.
    """

    def __init__(self, model: GPT, streams: int, dtype: torch.dtype) -> None:
        self.model, self.streams = model, streams
        self.threads = native.threads()
        self.shape = native.Shape.of(model.config)
        self.params = native.table(dict(model.named_parameters()), model.config)
        self.bf16 = dtype == torch.bfloat16 and bool(native.core().bardlet_bf16())
        self.packed, self.memory = native.Memory(), native.Memory()
        self.past = 0  # positions whose keys and values are cached
        self.lock = threading.Lock()
        sizes = (ctypes.c_long * 2)()
        self.call(None, None, sizes)  # tells them
        self.blocks = self.packed.of(sizes[0]), self.memory.of(sizes[1])
        self.call(*self.blocks, None)

    def call(self, packed: int | None, memory: int | None, sizes: object, *step: object) -> None:
        native.core().bardlet_decode(
            ctypes.byref(self.shape), self.params, native.rotary(self.model), self.streams,
            self.threads, self.bf16, packed, memory, sizes,
            *(step or (None, 0, 0, 0, 0, 0.0, 0, None)),
        )  # fmt: skip

    def forget(self) -> None:
        """Empty the cache: the next step's context begins anew."""
        with self.lock:
            self.past = 0

    def step(
        self, tokens: Tensor, known: int, uniform: Tensor, temperature: float, top_k: int
    ) -> None:
        """Choose as many tokens of each stream as `uniform` (N, streams) has rows.

        tokens (streams, S) int64 with stride (any, 1): the first `known` of each row are read,
        the next N are written; the context begins at column 0 and S must fit block_size + 1.
        """
        steps, size, V = len(uniform), self.model.config.block_size, self.model.config.vocab_size
        if tokens.dtype != torch.int64 or tokens.device.type != "cpu" or tokens.stride(1) != 1:
            raise ValueError(f"{tokens.dtype} on {tokens.device} are not rows of int64 on a CPU")
        if tokens.shape != (self.streams, known + steps) or uniform.shape[1:] != tokens.shape[:1]:
            raise ValueError(
                f"tokens {tuple(tokens.shape)} and uniform {tuple(uniform.shape)} do not fit "
                f"{self.streams} streams of {known} tokens"
            )
        with self.lock:
            if not 0 <= self.past < known or not 0 < steps <= size + 1 - known:
                raise ValueError(
                    f"{known} tokens and {steps} new ones do not fit a context of {size} that has "
                    f"{self.past} cached"
                )
            new = tokens[:, self.past : known]
            if new.min() < 0 or new.max() >= V:
                raise IndexError(f"token ids must be in [0, {V})")
            self.call(
                *self.blocks, None, tokens.data_ptr(), tokens.stride(0), self.past, known, steps,
                temperature, min(top_k, V), native.pointer(uniform),
            )  # fmt: skip
            self.past = known + steps - 1
