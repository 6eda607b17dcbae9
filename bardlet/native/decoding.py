"""Tokens out of the compiled core, which keeps the weights packed and the KV cache filled."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from bardlet import native
from bardlet.model import GPT


class Decoder:
    """Token steps of `streams` texts at once; matrices are read in `dtype`, float32 or bfloat16.

    They are copied when this is made; the model must not change or move while it decodes.
    """

    def __init__(self, model: GPT, streams: int, dtype: torch.dtype) -> None:
        self.model, self.streams = model, streams
        self.threads = native.threads()
        self.shape = native.Shape.of(model.config)
        self.params = native.table(dict(model.named_parameters()), model.config)
        self.bf16 = int(dtype == torch.bfloat16 and native.core().bardlet_bf16())
        self.packed, self.memory = native.Memory(), native.Memory()
        self.past = 0  # positions whose keys and values are cached
        sizes = (ctypes.c_long * 2)()
        self.call(None, None, sizes)
        self.blocks = self.packed.of(sizes[0]), self.memory.of(sizes[1])
        self.call(*self.blocks, None)

    def call(self, packed: object, memory: object, sizes: object, *what: object) -> None:
        native.core().bardlet_decode(
            ctypes.byref(self.shape), self.params, native.rotary(self.model), self.streams,
            self.threads, self.bf16, packed, memory, sizes,
            *(what or (None, 0, 0, 0, 0, ctypes.c_float(), 0, None)),
        )  # fmt: skip

    def forget(self) -> None:
        """Empty the cache: the next step's context begins anew."""
        self.past = 0

    def step(
        self, tokens: Tensor, known: int, uniform: Tensor, temperature: float, top_k: int
    ) -> None:
        """Choose as many tokens of each stream as `uniform` (N, streams) has rows.

        tokens (streams, S) int64 with stride (any, 1): `known` of each row are given, the next N
        are written; the context begins at column 0 and S must fit block_size + 1.
        """
        steps = len(uniform)
        assert tokens.stride(1) == 1 and tokens.shape == (self.streams, known + steps)
        assert known > 0 and known + steps - 1 <= self.model.config.block_size
        given = tokens[:, self.past : known]
        if given.min() < 0 or given.max() >= self.model.config.vocab_size:
            raise IndexError(f"token ids must be in [0, {self.model.config.vocab_size})")
        self.call(
            *self.blocks, None, ctypes.c_void_p(tokens.data_ptr()),
            ctypes.c_long(tokens.stride(0)), self.past, known, steps, ctypes.c_float(temperature),
            min(top_k, self.model.config.vocab_size), native.pointer(uniform),
        )  # fmt: skip
        self.past = known + steps - 1
