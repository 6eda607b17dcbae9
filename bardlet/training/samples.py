"""What the model writes while it is trained: samples.jsonl, a few texts every `sample_interval`.

Samples are an extra: what goes wrong with them is named once, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.io.atomic import write_text
from bardlet.io.safe_read import read_json_lines
from bardlet.model import GPT
from bardlet.system.device import Machine
from bardlet.system.optional_deps import reason
from bardlet.training.log import Log

FILE = "samples.jsonl"
# a model in training to prompts, each with the text behind it; the same for the same weights
WriteSamples = Callable[[GPT, Dataset, TrainConfig, Machine], Sequence[tuple[str, str]]]


class Samples:
    """The samples of one run, written by the main process."""

    def __init__(
        self, config: TrainConfig, log: Log, write: WriteSamples | None, *, main: bool,
        start: int = 0,
    ) -> None:  # fmt: skip
        """`start` is the iteration a resumed run goes on from: later samples are dropped, and those
        after `start` iterations where they are written again.
        """
        self.config, self.log = config, log
        self.write = write if main and config.sample_interval else None
        self.path = Path(config.out_dir) / FILE
        self.newest = -1  # iterations after which samples were written last
        self.failed = False
        if not main:
            return
        kept = lines_until(self.path, start - self.due(start)) if start else []
        if kept:
            write_text(self.path, "".join(line for line, _ in kept))
            self.newest = kept[-1][1]
        else:
            self.path.unlink(missing_ok=True)

    def due(self, it: int, *, final: bool = False) -> bool:
        """Whether samples are written after `it` iterations."""
        return self.write is not None and (it % self.config.sample_interval == 0 or final)

    def take(self, it: int, model: GPT, dataset: Dataset, machine: Machine) -> None:
        """Write samples of the model as it is after `it` iterations, which stays as it is."""
        if self.write is None or it == self.newest:
            return
        try:
            with any_algorithm():
                texts = self.write(model, dataset, self.config, machine)
            records = [{"iter": it, "prompt": prompt, "text": text} for prompt, text in texts]
            with self.path.open("ab", buffering=0) as file:  # all of them at once
                file.write("".join(f"{json.dumps(record)}\n" for record in records).encode())
            self.newest = it
            for number, (prompt, text) in enumerate(texts):
                self.log.text(f"samples/{number}", prompt + text, it)
        except Exception as error:
            if not self.failed:
                self.log.say(f"warning: no samples: {reason(error)}. Training goes on")
            self.failed = True
        finally:
            model.train()


@contextlib.contextmanager
def any_algorithm() -> Iterator[None]:
    """Let sampling sum as it does elsewhere: torch refuses a GPU's cumulative sum where a run is
    `deterministic`, whose weights do not depend on samples.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def lines_until(path: Path, it: int) -> list[tuple[str, int]]:
    """The lines of a file of samples up to `it` iterations, with their iterations; whole ones."""
    kept = []
    with contextlib.suppress(OSError):
        for line, record in read_json_lines(path):
            done = record.get("iter")
            if line.endswith("\n") and isinstance(done, int) and done <= it:
                kept.append((line, done))
    return kept
