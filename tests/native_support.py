"""Models and builds that the tests of the compiled core share."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from support import ROOT

from bardlet import native
from bardlet.model import GPT, GPTConfig

FOLDER = Path(native.__file__).parent / "src"
LLAMA = GPTConfig(
    family="llama", block_size=64, vocab_size=65, n_layer=2, n_head=2, n_embd=64, qk_norm=True
)
SHAPES = {
    "llama": LLAMA,
    "llama, grouped heads": dataclasses.replace(
        LLAMA, n_head=4, n_kv_head=2, head_dim=32, n_embd=96, qk_norm=False, block_size=96
    ),
    "llama, biases of queries, keys and values": dataclasses.replace(
        LLAMA, qk_norm=False, qkv_bias=True
    ),
    "llama, tied": dataclasses.replace(LLAMA, tie_embeddings=True, mlp_dim=96, vocab_size=130),
    "gpt2": GPTConfig(block_size=32, vocab_size=65, n_layer=2, n_head=2, n_embd=64),
    "gpt2, biases": GPTConfig(
        block_size=64, vocab_size=33, n_layer=3, n_head=3, n_embd=96, bias=True
    ),
}


def usable() -> list[str]:
    """The builds that were compiled and that this CPU can run."""
    has = torch.cpu.get_capabilities()
    return [
        build for build, needs in native.BUILDS.items()
        if (path := FOLDER / f"core-{build}.so").exists()
        and all(has.get(need) for need in needs)
        and native.load(path).bardlet_permitted()
    ]  # fmt: skip


def hatch_build() -> Any:
    """hatch_build.py, without hatchling, which installing brings for itself alone."""
    plugin = ModuleType("interface")
    plugin.BuildHookInterface = object  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"hatchling.builders.hooks.plugin.interface": plugin}):
        spec.loader.exec_module(module)
    return module


def formats(build: str) -> list[tuple[torch.dtype, float]]:
    """Number formats of a build's products, with the relative error that each may make."""
    return [(torch.float32, 1e-5)] + [(torch.bfloat16, 3e-2)] * (build not in ("avx2", "neon"))


def random_model(config: GPTConfig) -> GPT:
    """A model none of whose parameters is zero or one."""
    torch.manual_seed(1)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p) if p.dim() < 2 else 0.03 * torch.randn_like(p))
    return model


def batch(config: GPTConfig, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    idx = torch.randint(config.vocab_size, (size, config.block_size))
    targets = torch.randint(config.vocab_size, (size, config.block_size))
    targets[0, 3:9] = -1
    return idx, targets
