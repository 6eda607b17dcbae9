"""A few iterations of a real run, measured, in a process of its own.

It is started as `python -m bardlet.planning.trial`.

A request and its answer are a line of JSON each, on standard input and output. The process is one
that may run out of memory, or be killed for it, while the one that asks goes on
(training/trial_process.py).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bardlet.config import TrainConfig
from bardlet.data.dataset import mixture
from bardlet.data.dataset.pairs import Pairs
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus
from bardlet.errors import BardletError, is_out_of_memory
from bardlet.evaluate import evaluate
from bardlet.model import GPT
from bardlet.planning.from_model import begun
from bardlet.run import checkpoint, run_folder
from bardlet.system import device
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.train import train
from bardlet.training.log import Log
from bardlet.training.pair_scores import evaluate_pairs
from bardlet.training.preferences import Preferences, Reference

MIN_ITERS = 3  # iterations of a trial, the first of which warms up and does not count
SLOW = 4  # times the seconds of a trial, after which fewer iterations have to do
EVAL_BATCHES = 2  # batches that evaluation is timed on


class TrialLog(Log):
    """The log of a trial, which notes the time of each event."""

    def __init__(self, seen: dict[str, Any], config: TrainConfig, **how: Any):
        """Times and facts go into `seen`."""
        super().__init__(config, **how)
        self.seen = seen

    def start_progress(self, start: int) -> None:
        began = time.perf_counter()
        self.seen.update(began=began, last=began, times=[], waits=[])

    def expected(self, measure: Callable[[], float], device: str) -> None:
        """Nothing: what it takes is what the trial measures."""

    def iteration(self, it: int, *, seconds: float, waiting: float, **rest: Any) -> None:
        super().iteration(it, seconds=seconds, waiting=waiting, **rest)
        self.seen["last"] = time.perf_counter()
        self.seen["times"].append(seconds)
        self.seen["waits"].append(waiting)

    def record(self, **entry: Any) -> None:
        super().record(**entry)
        if entry["type"] == "start":
            self.seen["start"] = entry


def iterations(config: TrainConfig, seconds: float) -> dict[str, Any]:
    """Train for some seconds: how long an iteration takes, and what led up to the first.

    MemoryError where the batch does not fit: then nothing is halved, as a run would do.
    """
    forget_peak()
    seen: dict[str, Any] = {}
    called = time.perf_counter()

    def time_is_up() -> bool:
        taken = seen["last"] - seen["began"]
        return taken > seconds * (1 if len(seen["times"]) >= MIN_ITERS else SLOW)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="out of memory")
        train(config, begun, make_log=functools.partial(TrialLog, seen), should_stop=time_is_up)
    first, *rest = seen["times"]
    usual = median(rest or [first])
    return {
        "iter_s": usual, "wait_s": median(seen["waits"]), "iters": len(seen["times"]),
        "start_s": seen["began"] - called + max(0.0, first - usual), "peak_bytes": peak_bytes(),
        **{key: seen["start"][key] for key in ("device", "dtype", "threads", "core", "compiled")},
    }  # fmt: skip


def rest_of_run(config: TrainConfig) -> dict[str, Any]:
    """What a run does beside its iterations: evaluating a batch, saving, and the files of it."""
    seen: dict[str, Any] = {}
    short = dataclasses.replace(
        config, max_iters=1, eval_iters=EVAL_BATCHES, eval_full=False, compile=False
    )
    train(short, begun, make_log=functools.partial(TrialLog, seen))
    after = time.perf_counter() - seen["last"]
    peak = peak_bytes()
    folder = run_folder.newest(Path(config.out_dir))
    model, _, _ = checkpoint.load(folder)
    machine = device.choose(config.device, config.dtype, tf32=config.tf32)
    model.to(machine.device)
    measure, batches = evaluation(config, model, machine)
    measure()
    began = time.perf_counter()
    measure()
    per_batch = (time.perf_counter() - began) / batches
    return {
        "eval_batch_s": per_batch, "save_s": max(0.0, after - 2 * batches * per_batch),
        "peak_bytes": peak, "files": {f.name: f.stat().st_size for f in folder.iterdir()},
    }  # fmt: skip


def evaluation(
    config: TrainConfig, model: GPT, machine: Machine
) -> tuple[Callable[[], object], int]:
    """What evaluates a model on some batches of train, and how many these are."""
    dataset = mixture.opened(config.dataset)
    how: dict[str, Any] = {"batch_size": config.batch_size, "machine": machine, "group": Group()}
    if not dataset.preferences:
        return functools.partial(
            evaluate, model, dataset, "train", sampled=EVAL_BATCHES, **how
        ), EVAL_BATCHES  # fmt: skip
    pairs = Pairs(dataset, "train", config.block_size)
    numbers = range(min(len(pairs), EVAL_BATCHES * config.batch_size))
    reference = Reference(model=None if config.lora_rank else copy.deepcopy(model))
    judge = Preferences(model, model, reference, config, machine)
    measure = functools.partial(
        evaluate_pairs, model, judge.rewards, pairs, numbers, dataset, **how
    )
    return measure, math.ceil(len(numbers) / config.batch_size)


def made_up(folder: Path, vocab_size: int, block_size: int) -> Path:
    """A dataset of so many different tokens, for where the real one is not there."""
    signs = [chr(i) for i in range(0x21, 0x21 + vocab_size + 2048) if not 0xD7FF < i < 0xE000]
    count = max(4 * vocab_size, 32 * (block_size + 2))
    text = "".join(signs[i % vocab_size] for i in range(count))
    prepare(Corpus(name="made-up", text=text, sources=()), folder)
    return folder


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for, or why not: "failed" is "memory" or a message for the user."""
    kind = request["do"]
    if kind == "dataset":
        folder = made_up(Path(request["folder"]), request["vocab_size"], request["block_size"])
        return {"folder": str(folder)}
    config = TrainConfig(**request["config"])
    if not torch.cuda.is_available():  # whose driver reserves far more than it uses
        limit_memory(request["memory"])
    try:
        if kind == "iterations":
            result = iterations(config, request["seconds"])
            return {**result, "available_bytes": available(result["device"], request["memory"])}
        return rest_of_run(config)
    except BardletError as error:
        failed = "memory" if is_out_of_memory(error) else error.message
        return {"failed": failed, "hint": error.hint}
    except (RuntimeError, MemoryError, Warning) as error:
        if not is_out_of_memory(error):
            raise
        return {"failed": "memory", "hint": ""}


def limit_memory(size: float) -> None:
    """Let an allocation fail that goes beyond `size` bytes, before the system kills something."""
    if math.isfinite(size) and sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)  # which only root can raise
        soft = int(size) if hard == resource.RLIM_INFINITY else min(int(size), hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available(device_type: str, main_memory: float) -> float:
    """How much memory of the device there was before the trial."""
    if device_type != "cuda":
        return main_memory
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """The most memory held: the GPU's where one was used, else this process's; 0 if unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


def main() -> None:
    """Answer requests until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed must not come between
    base = {"base_bytes": peak_bytes(), "ready": time.time()}
    for line in sys.stdin:
        print(json.dumps({**base, **answer(json.loads(line))}), file=answers, flush=True)


if __name__ == "__main__":
    main()
