"""What the tests share: a small corpus and dataset, and tiny models of both families."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

# Two tests at once, or a busy machine, must not make threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from pytest import CaptureFixture, MonkeyPatch

from bardlet import cli
from bardlet.config import TrainConfig, resolve, to_toml
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus, Source
from bardlet.model import GPT, GPTConfig
from bardlet.system import device

# A shell that runs the tests in the background has them ignore Ctrl-C, and every process they start
signal.signal(signal.SIGINT, signal.default_int_handler)

# Every run measures the machine for as long as a tiny one takes: of a session, the first one does.
device.measure_flops = functools.cache(device.measure_flops)

TINY = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16}
FAMILIES = {
    "gpt2": {"family": "gpt2", "bias": True},
    "llama": {"family": "llama", "qk_norm": True, "n_kv_head": 2},
}


def some_text(length: int, seed: int = 0) -> str:
    """A text with something to learn: words over a small alphabet, drawn unevenly."""
    generator = np.random.default_rng(seed)
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler"]
    drawn = generator.choice(words, size=length, p=np.arange(1, 11) / 55)
    return " ".join(drawn)[:length]


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A prepared dataset of 6,000 characters."""
    text = some_text(6000)
    source = Source(name="words.txt", bytes=len(text), sha256="0" * 64)
    folder = tmp_path / "data" / "words"
    prepare(Corpus(name="words", text=text, sources=(source,)), folder)
    return folder


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


def tiny_model(family: str, *, vocab_size: int = 50, seed: int = 0, **changes: object) -> GPT:
    """A small model whose every weight is random, zero-initialised ones too."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=vocab_size, **{**TINY, **FAMILIES[family], **changes}))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def tiny_config(folder: Path, out: Path, family: str = "llama", **changes: object) -> TrainConfig:
    """A run of a few iterations in float32, on the CPU."""
    options = {
        **TINY, **FAMILIES[family], "dataset": str(folder), "out_dir": str(out), "device": "cpu",
        "dtype": "float32", "batch_size": 4, "gradient_accumulation_steps": 1, "max_iters": 8,
        "eval_interval": 4, "eval_iters": 2, "warmup_iters": 2, "learning_rate": 1e-2,
        "min_lr": 1e-3, "optimizer": "muon" if family == "llama" else "adamw",
    }  # fmt: skip
    return resolve([("test", {**options, **changes})])


# what the tests of bad and of hostile input damage: a dataset, and a run of two iterations
TEXT = some_text(6000)
DATA, RUN = Path("data/words"), Path("out/a")
CHECKPOINT = RUN / "checkpoints" / "iter-00000002"
RESUME = ["train", "--resume", f"--out_dir={RUN}", "--max_iters=3"]
READERS = {
    "sample": ["sample", str(RUN), "--max_new_tokens=1"], "eval": ["eval", str(RUN)],
    "inspect": ["inspect", str(RUN)], "resume": RESUME,
}  # fmt: skip
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `sent` copies; the compiled core can compute its model."""
    folder = tmp_path_factory.mktemp("original")
    with MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("words.txt").write_text(TEXT, encoding="utf-8")
        shape = {"n_embd": 64, "n_head": 2, "n_kv_head": 1, "block_size": 32, "max_iters": 2}
        Path("tiny.toml").write_text(to_toml(tiny_config(DATA, RUN, **shape)), encoding="utf-8")
        assert cli.main(["prepare", "words.txt"]) == 0
        assert cli.main(["train", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def sent(original: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """The folder that the test runs in: words.txt is prepared as DATA, tiny.toml trained as RUN."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capfd: CaptureFixture[str]) -> Refused:
    """Run a command that has to fail, with `code` if given, at once and in one line; return it."""

    def command(*args: str, code: int | None = None) -> str:
        capfd.readouterr()
        began = time.monotonic()
        given = cli.main(args)
        out, err = capfd.readouterr()
        assert (given in ((code,) if code else (1, 2)), out) == (True, ""), err
        assert "Traceback" not in err and "internal error" not in err, err
        assert time.monotonic() - began < 20
        lines = err.splitlines()
        assert [line for line in lines if line.startswith("bardlet: ")] == lines[-1:]
        return lines[-1]

    return command
