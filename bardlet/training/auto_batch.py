"""The fastest size of micro-batch on this machine, by trials of the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bardlet.config import Auto, TrainConfig
from bardlet.errors import TrainingError
from bardlet.io.terminal import say
from bardlet.run import run_folder
from bardlet.system.distributed import Group
from bardlet.training.trial_process import TrialProcess

SECONDS = 0.5  # of a trial of one micro-batch
LONGEST = 10.0  # seconds; what takes as long has nothing left to gain from being larger
MARGIN = 0.9  # of the memory that is free: a run's grows by some after its first iterations
EQUAL = 1.03  # times: trials of the same differ by as much


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
