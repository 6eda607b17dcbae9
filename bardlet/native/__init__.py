"""The compiled core: losses, gradients, Muon's iterations and token steps in C++, on CPUs.

It computes what model.py, optim.py and sample.py compute; they stay the definition, and the tests
hold the core to them. Installing compiles it where there is a C++ compiler and an x86-64 or Arm CPU
(hatch_build.py); everything runs through torch without it.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from ctypes import c_char_p, c_float, c_int, c_long, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bardlet.model import GPT, GPTConfig
from bardlet.native.addresses import pointer
from bardlet.system import native_library
from bardlet.system.sharding import is_sharded

# the builds, best first, and what each must find in the CPU
AVX512BF16 = (
    "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16", "avx512_vnni",
)  # fmt: skip
BUILDS = {
    "amx": (*AVX512BF16, "amx_tile", "amx_bf16"),
    "avx512bf16": AVX512BF16,
    "avx2": ("avx2", "fma3"),
    "neonbf16": ("neon", "bf16"),
    "neon": ("neon",),
}
UNIT = 32  # sizes are multiples of it: two of the widest registers
MAX_THREADS = 64  # of one call: native/src/threads.h

# the core's tables of parameters, in the order of native/src/model.h
OUTER = (
    "transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight",
    "transformer.ln_f.bias", "lm_head.weight",
)  # fmt: skip
INNER = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.bias", "attn.q_norm.weight", "attn.k_norm.weight", "ln_2.weight", "ln_2.bias",
    "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip


class Shape(ctypes.Structure):
    """The struct of that name in native/src/model.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in (
            "llama", "layers", "heads", "kv_heads", "head", "width", "hidden", "vocab", "context",
            "qk_norm",
        )),
        ("eps", c_float),
    )  # fmt: skip

    @classmethod
    def of(cls, config: GPTConfig) -> Shape:
        return cls(
            config.llama, config.n_layer, config.n_head, config.kv_heads, config.head_size,
            config.n_embd, config.mlp_size, config.vocab_size, config.block_size,
            config.llama and config.qk_norm, config.norm_eps,
        )  # fmt: skip


class Soft(ctypes.Structure):
    """The struct of that name in native/src/train.h."""

    _fields_ = (
        ("targets", c_void_p), ("written", c_void_p), ("stride", c_long), ("weight", c_float),
        ("temperature", c_float),
    )  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """The best build that is there and that this CPU can run, or None.

    BARDLET_CORE=0 in the environment goes without, to compare or to look for a fault.
    """
    if native_library.switched_off():
        return None
    has = torch.cpu.get_capabilities()
    for build, needs in BUILDS.items():
        path = Path(__file__).parent / "src" / f"core-{build}.so"
        if path.exists() and all(has.get(feature) for feature in needs):
            try:
                core = load(path)
                if core.bardlet_permitted():
                    return core
            except OSError as error:  # compiled elsewhere, or from an earlier version
                warnings.warn(f"going on without the compiled core: {error}", stacklevel=2)
    return None


# what each entry of native/src/core.cpp takes; pointers are addresses, arrays or None
ENTRIES: dict[str, tuple[Any, ...]] = {
    "bardlet_peak": (c_int, c_int, c_void_p),
    "bardlet_train": (
        *[c_void_p] * 10, c_int, c_int, c_float, c_uint32, c_int, c_int, c_long, *[c_void_p] * 3,
    ),
    "bardlet_muon": (c_void_p, c_int, c_void_p, c_int, c_int, c_void_p, c_void_p),
    "bardlet_adamw": (c_void_p, c_int, c_void_p, c_int),
    "bardlet_norm": (c_void_p, c_int, c_int, c_void_p),
    "bardlet_decode": (
        *[c_void_p] * 3, *[c_int] * 5, *[c_void_p] * 4, c_int, c_void_p,
    ),
}  # fmt: skip
# what a call raises by its status, as in core.cpp
ERRORS = {1: MemoryError, 2: RuntimeError, 3: IndexError}


def load(path: Path) -> ctypes.CDLL:
    """Open one build. OSError where it cannot be loaded or comes from other sources than these.

    Its entries raise one of ERRORS for what goes wrong in them.
    """
    core = native_library.load(path)
    core.bardlet_error.restype = c_char_p

    def check(status: int, function: object, arguments: tuple[object, ...]) -> None:
        if status:
            raise ERRORS[status](core.bardlet_error().decode(errors="replace"))

    for name, arguments in ENTRIES.items():
        entry = getattr(core, name)
        entry.argtypes, entry.errcheck = arguments, check
    return core


def runs(model: GPT) -> bool:
    """Whether the core can compute this model: float32 on a CPU, in multiples of UNIT."""
    config, weight = model.config, model.lm_head.weight
    sizes = (config.n_embd, config.mlp_size, config.head_size)
    return (
        weight.device.type == "cpu"
        and library() is not None
        and weight.dtype == torch.float32
        and all(size % UNIT == 0 for size in sizes)
        and config.head_size <= 1024
        and config.n_head % config.kv_heads == 0
        and (config.llama or config.gelu_approximate == "none")
        and not config.lora_rank
        and not is_sharded(model)
    )


def core() -> ctypes.CDLL:
    """The library. RuntimeError where it was not compiled, or not for this CPU."""
    loaded = library()
    if loaded is None:
        raise RuntimeError("the core was not compiled, or not for this CPU")
    return loaded


def threads() -> int:
    """How many threads the core may use: torch's number, up to what its tables hold."""
    return min(torch.get_num_threads(), MAX_THREADS)


def rotary(model: GPT) -> int | None:
    return pointer(model.rotary) if model.config.llama else None


def slots(config: GPTConfig) -> Iterator[str]:
    yield from OUTER
    for layer in range(config.n_layer):
        yield from (f"transformer.h.{layer}.{name}" for name in INNER)


def table(tensors: Mapping[str, Tensor], config: GPTConfig) -> ctypes.Array[c_void_p]:
    """The addresses of a model's tensors, float32; null where it has no such tensor."""
    named = dict(tensors)
    if config.tied:
        named["lm_head.weight"] = named["transformer.wte.weight"]
    addresses = [pointer(named[name]) if name in named else None for name in slots(config)]
    return (c_void_p * len(addresses))(*addresses)


class Memory:
    """A block that the core works in, grown as needed and aligned to a cache line."""

    def __init__(self) -> None:
        self.release()

    def release(self) -> None:
        self.block = torch.empty(0, dtype=torch.uint8, device="cpu")

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return max(0, len(self.block) - 64)

    def of(self, size: int) -> int:
        """The address of `size` bytes, valid until the next call with more."""
        if len(self.block) < size + 64:
            self.block = torch.empty(size + 64, dtype=torch.uint8, device="cpu")
        start = self.block.data_ptr()
        return start + -start % 64


class Scratch(Memory, threading.local):
    """Memory of calls that keep nothing, a block for each thread of Python."""


scratch = Scratch()


def in_scratch(entry: Callable[..., object], *arguments: object) -> None:
    """Call an entry whose last arguments are memory to work in and its size, in `scratch`.

    Where that is too small, the entry does nothing but say what it needs, and is called again.
    """
    size = c_long(scratch.size)
    entry(*arguments, scratch.of(size.value), ctypes.byref(size))
    if size.value > scratch.size:
        entry(*arguments, scratch.of(size.value), ctypes.byref(size))
