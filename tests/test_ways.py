"""Every way there is to compute a run learns the same: the core and torch, in each number format.

Whole runs, since what a single step cannot show adds up: an error of a rounding in Muon's
iterations once ended runs of torch in bfloat16 that the core trained well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from support import CORPUS, losses, some_text, tiny_config

from bardlet import native
from bardlet.commands import settings
from bardlet.config import TrainConfig, resolve
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import sources
from bardlet.train import train

LENGTH = 60_000  # characters: a hundred short iterations read no more
SAME = 0.05  # nats between any two ways: presets differ by 0.001, options in one format by 0.016
FORMATS = 0.1  # between formats, in the middle of a steep fall at a high rate: 0.067 by both ways
OTHER_MASKS = 0.15  # nats, where dropout's masks are others: what a seed is worth
# smaller than the presets are, for time: 100 iterations of 4 ways in seconds
PRESETS = {
    "demo": {"batch_size": 1, "n_layer": 2}, "shakespeare-char-quick": {"batch_size": 4},
}  # fmt: skip
CORE = {"n_layer": 2, "n_embd": 64, "block_size": 32}
LLAMA = {**CORE, "n_head": 4, "n_kv_head": 2, "head_dim": 32, "mlp_dim": 96, "qk_norm": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2 with biases": {**CORE, "family": "gpt2", "n_head": 2, "bias": True},
    "gpt2, Muon": {**CORE, "family": "gpt2", "n_head": 2, "bias": True, "optimizer": "muon"},
    # at 1e-2 one rounding moves bfloat16 by up to 0.13 either way, at 3e-3 by 0.01
    "llama, tied, grouped": {
        **LLAMA, "tie_embeddings": True, "optimizer": "adamw", "learning_rate": 3e-3,
    },
    "llama, accumulated": {**LLAMA, "batch_size": 2, "gradient_accumulation_steps": 2},
    "documents": {**LLAMA, "doc_mask": True},
    "dropout": {**LLAMA, "dropout": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset: the canonical text's beginning where it lies beside the checkout, in
    documents of 300 characters.
    """
    found = CORPUS.read_text(encoding="utf-8") if CORPUS.is_file() else some_text(LENGTH)
    folder = tmp_path_factory.mktemp("ways")
    documents = [{"text": found[i : i + 300]} for i in range(0, LENGTH, 300)]
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in documents), encoding="utf-8")
    prepare(sources.find([str(file)]), folder / "text", tokenizer="char", say=lambda line: None)
    return folder / "text"


@pytest.fixture
def without_core(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(native, "library", lambda: None)


def learnt(config: TrainConfig) -> float:
    """The mean training loss of a run's last twenty iterations."""
    train(config)
    return fmean(losses(config)[-20:])


def assert_same(found: dict[str, float], tolerance: float) -> None:
    assert max(found.values()) - min(found.values()) < tolerance, found


def of_preset(preset: str, text: Path, out: Path, **changes: object) -> TrainConfig:
    """A hundred iterations of a preset, made smaller."""
    short = {
        "dataset": str(text), "out_dir": str(out), "max_iters": 100, "eval_interval": 100,
        "eval_iters": 1, "eval_full": False, "log_interval": 1, **PRESETS[preset], **changes,
    }  # fmt: skip
    return resolve([*settings.load_layers(preset, lambda: "cpu"), ("test", short)])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_learn_the_same(
    preset: str, text: Path, tmp_path: Path, without_core: Callable[[], None]
) -> None:
    found = {}
    for way in ("core", "torch"):
        if way == "torch":
            without_core()
        elif native.library() is None:
            continue
        for dtype in ("bfloat16", "float32"):
            out = tmp_path / f"{way}-{dtype}"
            config = of_preset(preset, text, out, device="cpu", dtype=dtype)
            found[f"{way} {dtype}"] = learnt(config)
    assert_same(found, SAME)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_a_compiled_model_learns_the_same(
    text: Path, tmp_path: Path, without_core: Callable[[], None]
) -> None:
    without_core()
    found = {}
    for compiled in (True, False):
        for dtype in ("bfloat16", "float32"):
            out = tmp_path / f"{compiled}-{dtype}"
            config = of_preset(
                "shakespeare-char-quick", text, out, device="cpu", dtype=dtype, compile=compiled
            )
            found[f"compile={compiled} {dtype}"] = learnt(config)
    assert_same(found, SAME)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_gpu_learns_the_same(preset: str, text: Path, tmp_path: Path) -> None:
    found = {}
    for device, dtype in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        out = tmp_path / f"{device}-{dtype}"
        config = of_preset(preset, text, out, device=device, dtype=dtype)
        found[f"{device} {dtype}"] = learnt(config)
    assert_same(found, SAME)


@pytest.mark.skipif(native.library() is None, reason="the core was not compiled")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_learn_the_same(
    options: dict[str, Any], text: Path, tmp_path: Path, without_core: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = {}
    for way in ("core", "torch"):
        if way == "torch":
            without_core()
        for dtype in ("bfloat16", "float32"):
            out = tmp_path / f"{way}-{dtype}"
            config = tiny_config(
                text, out, **{"qk_norm": False, "n_kv_head": 0, "dtype": dtype, "max_iters": 60,
                "eval_interval": 60, "eval_full": False, "eval_iters": 1, **options},
            )  # fmt: skip
            found[f"{way} {dtype}"] = learnt(config)
            assert (", compiled core" in capfd.readouterr().out) == (way == "core")
    if options.get("dropout"):
        assert_same(found, OTHER_MASKS)
        return
    for dtype in ("bfloat16", "float32"):
        assert_same({way: loss for way, loss in found.items() if dtype in way}, SAME)
    assert_same(found, FORMATS)
