"""The model in the browser against torch's: every option of both families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_page import binary, engine_page
from support import tiny_model

from bardlet.interop.html.weights import packed

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2 without biases": ("gpt2", {"bias": False}),
    "gpt2 of tanh": ("gpt2", {"gelu_approximate": "tanh", "mlp_dim": 52, "norm_eps": 1e-3}),
    "gpt2, odd": ("gpt2", {"n_embd": 27, "n_head": 3, "block_size": 13}),
    "llama, grouped queries": ("llama", {"qk_norm": False}),
    "llama, tied": ("llama", {"qk_norm": False, "tie_embeddings": True, "n_kv_head": 4}),
    "qwen2": ("llama", {"qk_norm": False, "qkv_bias": True}),
    "llama, odd": ("llama", {"n_embd": 30, "n_head": 3, "n_kv_head": 1, "head_dim": 6}),
    "qwen3": ("llama", {"rope_theta": 500.0, "norm_eps": 1e-6}),
    "qwen3, tied": ("llama", {"tie_embeddings": True, "head_dim": 16, "mlp_dim": 50}),
    "one token, one place": ("llama", {"vocab_size": 1, "block_size": 1}),
}
LOGITS = """([config, table, raw, ids, simd]) => {
  const tensors = lab.readTensors(table, lab.bytes(raw));
  const gpt = new lab.GPT(config, tensors, { simd, caches: 2 });
  const rows = ids.map((id, at) => {
    gpt.step(id, at, 1);
    return [...gpt.logits()];
  });
  ids.forEach((id, at) => gpt.step(id, at, 0)); // the other context begins anew
  return [rows, [...gpt.logits()], gpt.arena.simd !== null];
}"""
TOLERANCE = {"float32": 2e-5, "float16": 2e-5, "int8": 4e-3}  # in standard deviations of logits


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    with engine_page(browser) as one:
        yield one


def difference(tab: Any, model: Any, dtype: str, *, simd: bool = True) -> float:
    """The largest difference of logits over a full context, in their standard deviations."""
    config = model.config
    derived = {name: getattr(config, name) for name in ("head_size", "kv_heads", "mlp_size")}
    table, raw, stored = packed(model, dtype)
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(config.vocab_size, (1, config.block_size), generator=generator)
    rows, again, fast = tab.evaluate(
        LOGITS, [{**vars(config), **derived}, table, binary(raw), idx[0].tolist(), simd]
    )
    assert fast == simd
    assert rows[-1] == again
    with torch.no_grad():
        ours = stored(idx, idx)[0][0].numpy()
    return float(np.abs(ours - np.array(rows)).max() / max(ours.std(), np.abs(ours).max() / 20))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_torchs(tab: Any, shape: str) -> None:
    family, options = SHAPES[shape]
    model = tiny_model(family, **{"block_size": 33, "vocab_size": 51, **options}).eval()
    for dtype, tolerance in TOLERANCE.items():
        assert difference(tab, model, dtype) <= tolerance, dtype


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_without_simd_are_torchs(tab: Any, family: str) -> None:
    model = tiny_model(family, vocab_size=51).eval()
    for dtype in TOLERANCE:
        assert difference(tab, model, dtype, simd=False) <= TOLERANCE["float32"]
