"""Trials of a run on this machine: the real run, cut short, in a process of its own.

That process (planning/trial.py) may run out of memory while this one goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.data.dataset import mixture
from bardlet.errors import TrainingError, UsageError
from bardlet.io.terminal import say
from bardlet.system import memory
from bardlet.training import backend, log

POLL_S = 0.2
ANSWER_S = 1800.0  # seconds that a trial may take beside those it is to run: compiling, slow disks
# What a trial of a run changes: it begins anew, and is neither evaluated nor saved before its end.
TRIAL = {
    "init_from": "scratch", "eval_only": False, "eval_full": False, "eval_interval": 10**9,
    "log_interval": 1, "wandb_log": False, "tensorboard": False, "trackio": False,
    "sample_interval": 0, "save_interval": 0, "save_minutes": 0.0,
    "keep_checkpoints": 1, "patience": 0, "tokens_per_step": 0,
}  # fmt: skip
OURS = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
}  # of torchrun


class CompileLateError(TrainingError):
    """A trial compiled for too long; its process is killed."""


class TrialProcess:
    """A process that makes trials of a run, one after another; a context manager."""

    def __init__(self, config: TrainConfig, vocab_size: int = 0, *, shaped: bool = False) -> None:
        """`vocab_size` of a made-up dataset to train on; 0: the run's own dataset. `shaped` says
        that the options have the shape of the model that init_from names.
        """
        if config.init_from not in BUILTIN_INIT and not shaped:
            raise UsageError(
                f"init_from={config.init_from}: a run that begins from a model has no trials",
                "Give --batch_size a number; plan one from scratch in its shape",
            )
        self.config, self.vocab_size = config, vocab_size
        self.compile_s = math.inf  # that torch.compile may take

    def __enter__(self) -> TrialProcess:
        # on the disk of the run; a leftover's name is one that the run sweeps away
        at = existing(Path(self.config.out_dir))
        with contextlib.ExitStack() as opened:
            try:
                folder = tempfile.TemporaryDirectory(prefix=".trial-", suffix=".tmp", dir=at)
            except OSError as error:
                raise TrainingError(f"cannot write to {at}: {error.strerror}") from None
            self.folder = Path(opened.enter_context(folder)).resolve()
            self.said = opened.enter_context((self.folder / "said").open("w+b"))
            self.launched = time.time()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bardlet.planning.trial"],
                text=True, encoding="utf-8", bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said,
                env={k: v for k, v in os.environ.items() if k not in OURS},
            )  # fmt: skip
            opened.callback(self.process.communicate)
            opened.callback(self.process.kill)
            self.dataset = str(self.folder / "data")
            if self.vocab_size:
                self.ask(
                    do="dataset", folder=self.dataset, vocab_size=self.vocab_size,
                    block_size=self.config.block_size,
                )  # fmt: skip
            else:
                self.dataset = mixture.resolved(self.config.dataset)
            self.opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.opened.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request; {"failed": "memory"} as well where the process was killed.

        TrainingError where it ends otherwise, or does not answer within ANSWER_S seconds and those
        that the request names, CompileLateError where it compiles for more than `compile_s`.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        limit = ANSWER_S + request.get("seconds", 0.0)
        done, late = threading.Event(), threading.Event()
        watcher = threading.Thread(target=self.watch, args=[limit, done, late], daemon=True)
        watcher.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                line = json.dumps({**request, "memory": memory.available()})
                self.process.stdin.write(line + "\n")
            answer = self.process.stdout.readline()
        finally:
            done.set()
            watcher.join()
        if answer:
            return {"launched": self.launched, **json.loads(answer)}
        code = self.process.wait()
        if late.is_set() and self.compiles():
            raise CompileLateError(f"compiling took longer than {self.compile_s:g} s")
        if late.is_set():
            raise TrainingError(
                f"a trial of the run did not answer within {limit:g} s",
                "Give --batch_size a number, or try a smaller model",
            )
        if code in (-9, -6):  # killed, or aborted itself, when memory was gone
            return {"failed": "memory", "hint": ""}
        self.said.seek(0)
        text = self.said.read().decode(errors="replace")
        last = (text.strip().splitlines() or ["it said nothing"])[-1]
        raise TrainingError(f"a trial of the run ended with {code}: {last}")

    def watch(self, limit: float, done: threading.Event, late: threading.Event) -> None:
        """End the process where it does not answer within `limit` seconds, or compiles too long."""
        began, compiles_since = time.monotonic(), math.inf
        while not done.wait(POLL_S):
            now = time.monotonic()
            if not self.compiles():
                compiles_since = math.inf
            elif compiles_since == math.inf:
                compiles_since = now
                if self.compile_s < math.inf:
                    say(f"compiling the model, for at most {self.compile_s:g} s")
            if now - began > limit or now - compiles_since > self.compile_s:
                late.set()
                self.process.kill()
                return

    def compiles(self) -> bool:
        """Whether the process compiles, by what it has said."""
        # through a handle of its own: the process writes where the shared one stands
        text = (self.folder / "said").read_text(encoding="utf-8", errors="replace")
        return text.rfind(backend.COMPILING) > text.rfind(log.PARAMETERS)

    def of(self, batch_size: int, steps: int, **changes: Any) -> dict[str, Any]:
        """The run's options, changed for a trial of `steps` micro-batches of a size."""
        config = self.config
        sequences = config.sequences_per_iter
        options = {
            **TRIAL, "fresh": True, "dataset": self.dataset, "out_dir": str(self.folder / "run"),
            "batch_size": batch_size, "gradient_accumulation_steps": steps, "skip_spikes": False,
            # so that all in all it computes as much, which decides on compiling
            "max_iters": max(100, config.max_iters * sequences // (batch_size * steps)),
        }  # fmt: skip
        if config.lora_rank:  # beside weights that are there, which is looked at first
            options |= {"init_from": config.init_from, "eval_iters": 1}
        return dataclasses.asdict(dataclasses.replace(config, **{**options, **changes}))

    def iterations(self, batch_size: int, steps: int, seconds: float, **changes: Any) -> Any:
        """The times and the peak of memory of an iteration, or "failed" where memory ran out.

        TrainingError where it fails for another reason.
        """
        answer = self.ask(
            do="iterations", config=self.of(batch_size, steps, **changes), seconds=seconds
        )
        if answer.get("failed", "memory") != "memory":
            raise TrainingError(answer["failed"], answer["hint"])
        return answer

    def rest_of_run(self) -> dict[str, Any]:
        """The times that evaluating and saving take."""
        return self.ask(do="rest", config=self.of(self.config.batch_size, 1))


def existing(path: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
