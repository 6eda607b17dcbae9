"""What tests share: small texts, models, runs, what they left behind, and ways to damage them."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import pickle
import secrets
import signal
import socket
import string
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file

from bardlet.config import TrainConfig, resolve
from bardlet.data.dataset.loader import Prefetcher
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.evaluate import Score
from bardlet.interop import nanogpt
from bardlet.interop.verify import Trained
from bardlet.model import GPT, GPTConfig
from bardlet.planning import trial
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import DatasetRef, RunState
from bardlet.suites.likelihood import Scorer
from bardlet.system.device import Machine
from bardlet.training import scoring

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"  # the real one, where it is
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
def scheduled(**options: object) -> TrainConfig:
    """Options whose rate rises to 1 in 10 iterations and falls to 0.1 in 100."""
    base = {"learning_rate": 1.0, "min_lr": 0.1, "warmup_iters": 10, "max_iters": 110}
    return resolve([("test", {**base, **options})])


TEXT = some_text(6000)
DATA, RUN = Path("data/words"), Path("out/a")
CHECKPOINT = RUN / "checkpoints" / "iter-00000002"
RESUME = ["train", "--resume", f"--out_dir={RUN}", "--max_iters=3"]
READERS = {
    "sample": ["sample", str(RUN), "--max_new_tokens=1"], "eval": ["eval", str(RUN)],
    "inspect": ["inspect", str(RUN)], "resume": RESUME,
}  # fmt: skip
Refused = Callable[..., str]


def metrics(config: TrainConfig, kind: str = "iter") -> list[dict[str, Any]]:
    lines = (Path(config.out_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for line in lines if (entry := json.loads(line))["type"] == kind]


def events(config: TrainConfig) -> list[dict[str, Any]]:
    """What happened in a run, saves aside."""
    return [entry for entry in metrics(config, "event") if entry["event"] != "saved"]


def losses(config: TrainConfig, kind: str = "iter") -> list[float]:
    name = "loss" if kind == "iter" else "val_loss"
    return [entry[name] for entry in metrics(config, kind)]


def tensors(config: TrainConfig, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run_folder.find(Path(config.out_dir), "last") / f"{name}.safetensors")


def last_weights(out: Path) -> list[torch.Tensor]:
    """The parameters of a run's last checkpoint, those of adapters too."""
    return list(checkpoint.load(run_folder.find(out, "last"))[0].parameters())


def assert_same_end(a: TrainConfig, b: TrainConfig) -> None:
    """Weights, optimizer state and every logged loss are equal bit for bit."""
    for name in ("model", "optimizer"):
        ours, theirs = tensors(a, name), tensors(b, name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for kind in ("iter", "eval"):
        assert losses(a, kind) == losses(b, kind)


def stop_after(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGINT in the batch before that many are done."""
    fetch = Prefetcher.batch

    def batch(self: Any, it: int) -> Any:
        if it == iterations - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return fetch(self, it)

    monkeypatch.setattr(Prefetcher, "batch", batch)


def judged(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validation come out as these losses, evaluation by evaluation."""
    given = iter(losses)

    def evaluated(model: Any, dataset: Any, split: str, **options: Any) -> Score:
        loss = next(given) if split == "val" else 1.0
        return Score(loss=loss, tokens=10, bits_per_byte=loss)

    monkeypatch.setattr(scoring, "evaluate", evaluated)


def damage(file: Path, how: str) -> None:
    """Harm a file as disks and people do: cut it short, empty it, remove it, flip one bit."""
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    elif how == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2 if how == "cut" else 0])


def in_child(work: Callable[[], object], kill_after_s: float = math.inf) -> int:
    """Run `work` in a forked process, killed after a while unless it is done by then.

    Its exit status, negative for the signal that ended it.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            nothing = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            with contextlib.suppress(Exception):
                sys.stderr = sys.stdout = nothing
                work()
                code = 0
        finally:
            os._exit(code)
    ends = time.monotonic() + kill_after_s
    while True:
        done, status = os.waitpid(pid, 0 if ends == math.inf else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.kill(pid, signal.SIGKILL)
            ends = math.inf
        time.sleep(0.0005)


class Forked:
    """Work in a fork of this process, as `subprocess.Popen` of text has it.

    It spares importing torch, and so serves where the process itself is not what is tested.
    """

    def __init__(self, work: Callable[[], object], env: dict[str, str], stderr: Any) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.returncode: int | None = None
        self.lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                for number, there in enumerate((theirs_in, theirs_out, stderr.fileno())):
                    os.dup2(there, number)
                os.close(ours_in)
                os.close(ours_out)
                sys.stdin, sys.stdout, sys.stderr = (
                    open(number, mode, encoding="utf-8", buffering=1)  # noqa: PTH123, SIM115
                    for number, mode in enumerate("rww")
                )
                os.environ.clear()
                os.environ.update(env)
                warnings.resetwarnings()
                work()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin = os.fdopen(ours_in, "w", encoding="utf-8", buffering=1)
        self.stdout = os.fdopen(ours_out, encoding="utf-8")

    def poll(self) -> int | None:
        with self.lock:  # the one that watches it asks as well
            if self.returncode is None:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.001)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()
        self.wait()


def trials_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that makes trials of a run be a fork of this one, where there are forks."""

    def popen(command: list[str], **options: Any) -> Any:
        if command[-1] != "bardlet.planning.trial":
            return started(command, **options)
        return Forked(trial.main, options["env"], options["stderr"])

    started = subprocess.Popen
    if hasattr(os, "fork"):
        monkeypatch.setattr(subprocess, "Popen", popen)


def free_port() -> int:
    """A port that is free, below those that the system gives to a process that asks for any.

    One of those may be another test's before the processes that are told of it listen there.
    """
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def rank_environments(processes: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each of so many processes on this machine."""
    port = free_port()
    return [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in range(processes)
    ]  # fmt: skip


def as_ranks(
    processes: int, work: Callable[[], object], *, kill_after_s: float = 240
) -> None:  # fmt: skip
    """Do `work` in forks of this process that are the ranks of a group; all must succeed."""

    def in_rank(environment: dict[str, str]) -> int:
        def begin() -> None:
            os.environ |= environment
            work()

        return in_child(begin, kill_after_s)

    with ThreadPoolExecutor(processes) as threads:
        codes = list(threads.map(in_rank, rank_environments(processes)))
    assert codes == [0] * processes


ALPHABET = "\n\t " + string.punctuation + string.ascii_letters + "é中𝄞\u200b\u2028"


def a_state(it: int = 7, **known: Any) -> RunState:
    """What a run of a dataset that is not there says of itself after `it` iterations."""
    facts = {"tokens": 0, "dataset": DatasetRef(name="d", hash="0"), "scaler": {}, **known}
    return RunState(iter=it, **facts)


def a_run(folder: Path, model: GPT, chars: str, **known: Any) -> Path:
    """A run's folder with one checkpoint of this model."""
    saved = checkpoint.save(folder, model, [], CharTokenizer(chars), a_state(**known))
    run_folder.set_pointer(folder, "last", saved)
    return folder


def trained(model: GPT, chars: str = ALPHABET, *, ends: bool = False) -> Trained:
    """The model with a tokenizer of these characters; with `ends` the last is an end of text."""
    tokenizer = CharTokenizer(chars[: len(chars) - ends], ends=ends)
    return Trained(name="a", model=model.eval(), tokenizer=tokenizer, state=a_state())


def silent(line: str) -> None:
    pass


CHARS = "".join(sorted("\n !,.:;" + string.ascii_lowercase + string.ascii_uppercase[:17]))


def logits(model: GPT, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    idx = torch.randint(50, (2, model.config.block_size), generator=generator)
    return model.eval()(idx, idx)[0]


def a_ckpt(path: Path, model: GPT, prefix: str = "_orig_mod.", **more: Any) -> Path:
    """What nanoGPT's train.py saves of this model."""
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    args = {name: getattr(model.config, name) for name in nanogpt.SHAPE}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({
        "model": state, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        "model_args": args, "iter_num": 3, "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3}, **more,
    }, path)  # fmt: skip
    return path


def a_data_folder(folder: Path, text: str = "") -> Path:
    """What nanoGPT's data/shakespeare_char/prepare.py writes, by Python's own pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.array([CHARS.index(c) for c in text or some_text(3000)], dtype=np.uint16)
    ids[:2700].tofile(folder / "train.bin")
    ids[2700:].tofile(folder / "val.bin")
    meta = {
        "vocab_size": len(CHARS), "itos": dict(enumerate(CHARS)),
        "stoi": {c: i for i, c in enumerate(CHARS)},
    }  # fmt: skip
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


any_text = st.text(st.characters(exclude_categories=["Cs"]))


# letters, accents, digits, punctuation and white space in all the combinations that patterns split
awkward = st.text(
    st.sampled_from(
        "aBz'stLl\u00e9\u0301\u0928\u092e\u0947\u4e16\u00b29\u0663"
        " \n\r\t\u00a0\u3000.,!/\U0001f600\u200d"
    )
)


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let a training batch's loss find weights so large that a norm's squares overflow."""
    forward, count = GPT.forward, -1

    def wrong(self: GPT, idx: Any, targets: Any = None, first: Any = None) -> Any:
        nonlocal count
        count += self.training
        if count == at and self.training:
            with torch.no_grad():
                for block in self.transformer["h"]:
                    block.mlp.c_proj.weight.mul_(1e25)
        return forward(self, idx, targets, first=first)

    monkeypatch.setattr(GPT, "forward", wrong)


PLAY = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n" * 40
)


CPU = Machine(device=torch.device("cpu"), dtype=torch.float32, why="")


def scorer_of(tokenizer: Tokenizer, **changes: object) -> Scorer:
    """A model of random weights that tells its tokens apart, with this tokenizer."""
    shape = {"vocab_size": tokenizer.vocab_size, "block_size": 32, **changes}
    model = tiny_model("llama", **shape)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    trained = Trained(name="a", model=model.eval(), tokenizer=tokenizer, state=a_state())
    return Scorer(trained, CPU, 2)


def counted(act: Callable[[int], None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What wraps functions: each call of any of them is preceded by act(number), from 1."""
    numbers = itertools.count(1)

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **named: Any) -> Any:
            act(next(numbers))
            return change(*args, **named)

        return watching

    return watched
