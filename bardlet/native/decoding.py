"""Tokens out of the compiled core, which keeps the weights packed and the KV cache filled."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import c_float, c_int, c_int32, c_void_p

import torch
from torch import Tensor

from bardlet import native
from bardlet.model import GPT
from bardlet.native.quantised import BITS

MAX_GUESSES = 15  # as in native/src/decode.h


class Texts(ctypes.Structure):
    """The struct of that name in native/src/decode.h."""

    _fields_ = (
        ("n", c_int),
        *((name, c_void_p) for name in (
            "stream", "past", "known", "tokens", "temperature", "top_k", "logits", "twin",
        )),
        ("guesses", c_int),
        ("chosen", c_void_p),
    )  # fmt: skip


class Decoder:
    """Token steps of up to `streams` texts at once, each at its own place in its own context.

    Activations, keys and values are in `dtype`, float32 or bfloat16, and so are matrices, unless
    `weights` and `cache` name others of quantised.FORMATS and CACHES. Matrices are copied when this
    is made; the model must not change or move while it decodes. A text's logits do not depend on
    the others beside it. Calls from several threads take turns.
    """

    def __init__(
        self, model: GPT, streams: int, dtype: torch.dtype, weights: str = "auto",
        cache: str = "auto",
    ) -> None:  # fmt: skip
        self.model, self.streams = model, streams
        self.threads = native.threads()
        self.shape = native.Shape.of(model.config)
        self.params = native.table(dict(model.named_parameters()), model.config)
        self.bits, self.cache_bits = BITS.get(weights, 0), BITS.get(cache, 0)
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(weights, dtype)
        self.bf16 = dtype == torch.bfloat16 and bool(native.core().bardlet_bf16())
        self.packed, self.memory = native.Memory(), native.Memory()
        self.past = [0] * streams  # positions whose keys and values are cached
        self.lock = threading.Lock()
        sizes = (ctypes.c_long * 2)()
        self.call(None, None, sizes)  # tells them
        self.blocks = self.packed.of(sizes[0]), self.memory.of(sizes[1])
        self.call(*self.blocks, None)

    def call(self, packed: int | None, memory: int | None, sizes: object, *step: object) -> None:
        native.core().bardlet_decode(
            ctypes.byref(self.shape), self.params, native.rotary(self.model), self.streams,
            self.threads, self.bf16, self.bits, self.cache_bits, packed, memory, sizes,
            *(step or (None, 0, None)),
        )  # fmt: skip

    def forget(self, stream: int | None = None) -> None:
        """Empty the cache of one stream, or of all: the next step's context begins anew."""
        with self.lock:
            self.past = [0 if stream in (None, i) else past for i, past in enumerate(self.past)]

    def step(
        self, contexts: Sequence[Tensor], known: Sequence[int], streams: Sequence[int],
        uniform: Tensor, temperature: Sequence[float | None], top_k: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """Choose as many tokens of n different streams as `uniform` (N, n) has rows.

        contexts: of each a contiguous (S,) int64; its first known[i] tokens are read, those behind
        the cached ones at least, and the next N are written; known[i] + N fits block_size + 1.
        Where temperature[i] is None, a single step's logits are handed out in place of a choice:
        the result, (m, V) float32 of the m such.
        """
        n, size, vocab = len(streams), self.model.config.block_size, self.model.config.vocab_size
        steps, numbers = len(uniform), native.pointer(uniform)
        handed = [i for i, degree in enumerate(temperature) if degree is None]
        lengths = {n, len(contexts), len(known), len(temperature), len(top_k), *uniform.shape[1:]}
        if uniform.ndim != 2 or lengths != {n} or not n or not steps or (handed and steps != 1):
            raise ValueError(f"uniform {tuple(uniform.shape)} and {lengths} for {n} streams")
        if len(set(streams)) != n or not all(0 <= stream < self.streams for stream in streams):
            raise ValueError(f"{list(streams)} are not different streams of {self.streams}")
        addresses = [native.pointer(context, torch.int64) for context in contexts]
        logits = torch.empty(len(handed), vocab)
        into: list[int | None] = [None] * n
        for row, i in enumerate(handed):
            into[i] = logits[row].data_ptr()
        with self.lock:
            past = [self.past[stream] for stream in streams]
            for i, (context, begin, end) in enumerate(zip(contexts, past, known, strict=True)):
                last = end + (0 if into[i] else steps)
                if not 0 <= begin < end <= size + 1 - steps or last > len(context):
                    raise ValueError(
                        f"{end} tokens and {steps} new ones do not fit a context of {size} with "
                        f"{begin} cached, or {len(context)} places"
                    )
            new = [context[past[i] : known[i]] for i, context in enumerate(contexts)]
            lowest, highest = torch.cat(new).aminmax()
            if lowest < 0 or highest >= vocab:
                raise IndexError(f"token ids must be in [0, {vocab})")
            arrays = (
                *((c_int32 * n)(*values) for values in (streams, past, known)),
                (c_void_p * n)(*addresses),
                (c_float * n)(*(degree or 0.0 for degree in temperature)),
                (c_int32 * n)(*(min(k, vocab) for k in top_k)),
                (c_void_p * n)(*into),
                (c_int32 * n)(*twins(contexts, past, known)),
            )
            texts = Texts(n, *map(ctypes.addressof, arrays))
            self.call(*self.blocks, None, ctypes.byref(texts), steps, numbers)
            for stream, end in zip(streams, known, strict=True):
                self.past[stream] = end + steps - 1
        return logits

    def verify(
        self, context: Tensor, known: int, stream: int, uniform: Tensor,
        temperature: float | None, top_k: int,
    ) -> Tensor:  # fmt: skip
        """What stands in place of each guess at a text's end, and after the last: (G + 1,) int64.

        The last G of the first `known` tokens of context (S,) int64 are guesses; uniform (G + 1,).
        Each choice takes those before it as right: the bits are those of `step`. Where temperature
        is None, the logits of each are handed out, (G + 1, V). All count as cached: see `rewind`.
        """
        outputs, vocab = len(uniform), self.model.config.vocab_size
        with self.lock:
            past = self.past[stream]
            fits = past <= known - outputs and known <= min(
                self.model.config.block_size, len(context)
            )
            if not (1 <= outputs <= 1 + MAX_GUESSES and fits):
                raise ValueError(f"{outputs - 1} guesses of {known} tokens, {past} cached")
            if context[past:known].min() < 0 or context[past:known].max() >= vocab:
                raise IndexError(f"token ids must be in [0, {vocab})")
            logits = torch.empty(outputs if temperature is None else 0, vocab)
            into = [logits[i].data_ptr() for i in range(len(logits))] or [None] * outputs
            chosen = torch.empty(outputs, dtype=torch.int64)
            arrays = (
                *((c_int32 * 1)(value) for value in (stream, past, known)),
                (c_void_p * 1)(native.pointer(context, torch.int64)),
                (c_float * 1)(temperature or 0.0),
                (c_int32 * 1)(min(top_k, vocab)),
                (c_void_p * outputs)(*into),
                (c_int32 * 1)(-1),
            )
            texts = Texts(
                1, *map(ctypes.addressof, arrays), outputs - 1, native.pointer(chosen, torch.int64)
            )
            uniform = uniform.contiguous()
            self.call(*self.blocks, None, ctypes.byref(texts), 1, native.pointer(uniform))
            self.past[stream] = known
        return chosen if temperature is not None else logits

    def rewind(self, stream: int, length: int) -> None:
        """Forget what is cached of a stream behind its first `length` tokens."""
        with self.lock:
            self.past[stream] = min(self.past[stream], length)


def twins(contexts: Sequence[Tensor], past: Sequence[int], known: Sequence[int]) -> list[int]:
    """For each text that begins with the whole context of one before it, that one; else -1.

    Its context is computed once, as for several samples of a prompt.
    """
    first: dict[bytes, int] = {}
    result = []
    for i, (context, begin, end) in enumerate(zip(contexts, past, known, strict=True)):
        fresh = len(known) > 1 and begin == 0
        twin = first.setdefault(context[:end].numpy().tobytes(), i) if fresh else i
        result.append(twin if twin != i else -1)
    return result
