"""Trials of a run on this machine: what it takes, and the fastest size of micro-batch.

A trial is the real run, cut short, in a process of its own (planning/trial.py), which may run out
of memory while this one goes on.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bardlet.config import BUILTIN_INIT, TRIAL, Auto, TrainConfig
from bardlet.data.dataset import mixture
from bardlet.errors import TrainingError, UsageError
from bardlet.io.terminal import say
from bardlet.run import run_folder
from bardlet.system import memory
from bardlet.system.distributed import Group

SECONDS = 0.5  # of a trial of one micro-batch
LONGEST = 10.0  # seconds; what takes as long has nothing left to gain from being larger
ANSWER_S = 1800.0  # seconds that a trial may take beside those it is to run: compiling, slow disks
MARGIN = 0.9  # of the memory that is free: a run's grows by some after its first iterations
EQUAL = 1.03  # times: trials of the same differ by as much
OURS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # of torchrun


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a trial of one size of micro-batch measured."""

    size: int  # sequences
    first_s: float  # seconds of an iteration of one micro-batch
    more_s: float  # seconds that each further one adds
    peak_bytes: int

    def iteration_s(self, sequences: int) -> float:
        """Seconds of an iteration of so many sequences."""
        return self.first_s + (math.ceil(sequences / self.size) - 1) * self.more_s


class TrialProcess:
    """A process that makes trials of a run, one after another; a context manager."""

    def __init__(self, config: TrainConfig, vocab_size: int = 0) -> None:
        """`vocab_size` of a made-up dataset to train on; 0: the run's own dataset."""
        if config.init_from not in BUILTIN_INIT:
            raise UsageError(
                f"init_from={config.init_from}: a run that begins from a model has no trials",
                "Give --batch_size a number; plan one from scratch in its shape",
            )
        self.config, self.vocab_size = config, vocab_size

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
        that the request names.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        limit = ANSWER_S + request.get("seconds", 0.0)
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), self.process.kill()))
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                line = json.dumps({**request, "memory": memory.available()})
                self.process.stdin.write(line + "\n")
            answer = self.process.stdout.readline()
        finally:
            timer.cancel()
        if answer:
            return {"launched": self.launched, **json.loads(answer)}
        code = self.process.wait()
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

    def of(self, batch_size: int, steps: int, **changes: Any) -> dict[str, Any]:
        """The run's options, changed for a trial of `steps` micro-batches of a size."""
        config = self.config
        sequences = config.batch_size * config.gradient_accumulation_steps
        options = {
            **TRIAL, "fresh": True, "dataset": self.dataset, "out_dir": str(self.folder / "run"),
            "batch_size": batch_size, "gradient_accumulation_steps": steps, "skip_spikes": False,
            # so that all in all it computes as much, which decides on compiling
            "max_iters": max(100, config.max_iters * sequences // (batch_size * steps)),
        }  # fmt: skip
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


def resolve_auto_batch_size(
    config: TrainConfig, group: Group, start: int, vocab_size: int = 0
) -> TrainConfig:  # fmt: skip
    """The configuration with a number for `batch_size=auto`: the fastest micro-batch that fits.

    The sequences of an iteration stay as many. A run that goes on from iteration `start` keeps what
    it had; the main process decides for all. `vocab_size` is for TrialProcess.
    """
    if not isinstance(config.batch_size, Auto) or config.eval_only:
        return config
    sequences = config.batch_size * config.gradient_accumulation_steps
    size = group.agree(choose_batch_size(config, group, start, vocab_size) if group.main else 0)
    return dataclasses.replace(
        config, batch_size=size, gradient_accumulation_steps=sequences // size
    )


def choose_batch_size(config: TrainConfig, group: Group, start: int, vocab_size: int) -> int:
    """The size that the run had where it goes on with as many sequences, else one by trials."""
    sequences = config.batch_size * config.gradient_accumulation_steps
    before = run_folder.saved_options(Path(config.out_dir)) if start >= 0 else None
    if before is not None:
        size = before.get("batch_size", 0)
        if size * before.get("gradient_accumulation_steps", 0) == sequences:
            say(f"batch_size=auto: {size} at once, as the run had it")
            return size
    share = math.ceil(sequences / group.world_size)
    with TrialProcess(config, vocab_size) as trials:
        tried = list(measure_sizes(trials, sizes(sequences, share, config.batch_size), share))
    if not tried:
        raise TrainingError(
            "not even one sequence fits into memory", "Lower block_size or the model's size"
        )
    best = fastest(tried, share)
    times = ", ".join(f"{t.size}: {1000 * t.iteration_s(share):.1f} ms" for t in tried)
    say(
        f"batch_size=auto: {best} at once, {sequences // best} times ({times} an iteration; "
        f"{next(t for t in tried if t.size == best).peak_bytes / 1e6:,.0f} MB)"
    )
    return best


def sizes(sequences: int, largest: int, asked: int) -> list[int]:
    """Sizes to try, the smallest first: divisors of `sequences` up to `largest`, each at least
    twice the one before, and the one that was asked for.
    """
    chosen: list[int] = []
    for size in range(1, largest + 1):
        if sequences % size == 0 and (size == asked or not chosen or size >= 2 * chosen[-1]):
            chosen.append(size)
    return chosen


def measure_sizes(trials: TrialProcess, sizes: Sequence[int], share: int) -> Iterator[Measurement]:
    """Try sizes in this order, until one does not fit, takes too long, or is slower by far."""
    best = math.inf
    for size in sizes:
        # not compiled: that takes longer than it could tell
        once = trials.iterations(size, 1, SECONDS, compile=False)
        if "failed" in once or once["peak_bytes"] > MARGIN * once["available_bytes"]:
            return
        more = once["iter_s"]
        if size < share:
            twice = trials.iterations(size, 2, SECONDS, compile=False)
            if "failed" in twice:
                return
            more = max(0.0, twice["iter_s"] - once["iter_s"])
        measurement = Measurement(
            size=size, first_s=once["iter_s"], more_s=more, peak_bytes=once["peak_bytes"]
        )
        yield measurement
        taken = measurement.iteration_s(share)
        if taken > 1.5 * best or once["iter_s"] > LONGEST:
            return
        best = min(best, taken)


def fastest(tried: Sequence[Measurement], share: int) -> int:
    """The size of the fastest; of those as fast, the largest."""
    best = min(t.iteration_s(share) for t in tried)
    return max(t.size for t in tried if t.iteration_s(share) <= EQUAL * best)
