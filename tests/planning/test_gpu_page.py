"""The table of docs/gpu.md is what `bardlet plan --gpu` says."""

from __future__ import annotations

import pytest
from support import ROOT

from bardlet.config import resolve
from bardlet.errors import UsageError
from bardlet.planning.cluster import cluster_of, plan

GPUS = ("rtx4090", "a100-40gb", "a100", "h100", "h200", "b200")
MODELS = {
    "124M": (12, 12, 768), "350M": (24, 16, 1024), "774M": (36, 20, 1280), "1.5B": (48, 25, 1600),
}  # fmt: skip


def cell(gpu: str, n_layer: int, n_head: int, n_embd: int) -> str:
    """The largest micro-batch of a model on a GPU, and by which option it fits where without any
    none does."""
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": 1024}
    config = resolve([("test", {
        **shape, "vocab_size": 50304, "batch_size": 64, "gradient_accumulation_steps": 8,
        "dataset": "is-not-here",
    })])  # fmt: skip
    try:
        options = plan(config, cluster_of(gpu, 1, 1, 400.0, 0.0))["options"]
    except UsageError:
        return "no"
    sizes = {(o["recompute"], o["offload"]): o["batch_size"] for o in options if o["fits"]}
    ways = {
        ("none", False): "", ("block", False): " with `--recompute=block`",
        ("none", True): " with `--offload`", ("block", True): " with both",
    }  # fmt: skip
    return next(f"{sizes[way]}{how}" for way, how in ways.items() if way in sizes)


@pytest.mark.parametrize("model", MODELS)
def test_which_gpu_takes_what(model: str) -> None:
    cells = [f"GPT-2 {model}", *(cell(gpu, *MODELS[model]) for gpu in GPUS)]
    row = f"| {' | '.join(cells)} |"
    assert row in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8"), row
