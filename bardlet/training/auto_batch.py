"""The fastest size of micro-batch on this machine, by trials of the run."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bardlet.config import Auto, TrainConfig
from bardlet.errors import TrainingError
from bardlet.io import schema
from bardlet.io.safe_read import read_text
from bardlet.io.terminal import say
from bardlet.run import run_folder
from bardlet.system.distributed import Group
from bardlet.training.trial_process import TrialProcess

SECONDS = 0.5  # of a trial of one micro-batch
LONGEST = 10.0  # seconds; what takes as long has nothing left to gain from being larger
MARGIN = 0.9  # of the memory that is free: a run's grows by some after its first iterations
EQUAL = 1.03  # times: trials of the same differ by as much
SLOWER = 1.5  # times the fastest so far: such a size is tried again
MAX_SLOWER = 3  # consecutive sizes, which end the search
MAX_STEPS = 8  # micro-batches of the trial that measures the time of one more
MIN_MORE = 0.1  # part of an iteration of one micro-batch that a further one takes, at least


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
    sequences = config.sequences_per_iter
    size = group.agree(choose_batch_size(config, group, start, vocab_size) if group.main else 0)
    return dataclasses.replace(
        config, batch_size=size, gradient_accumulation_steps=sequences // size
    )


def choose_batch_size(config: TrainConfig, group: Group, start: int, vocab_size: int) -> int:
    """The size that the run had where it goes on with as many sequences, else one by trials."""
    sequences = config.sequences_per_iter
    run = Path(config.out_dir)
    before = run_folder.saved_options(run) if start >= 0 else options_of_killed(config)
    if before is not None:
        size = before.get("batch_size", 0)
        asked = before.get("tokens_per_step", 0) or size * before.get(
            "gradient_accumulation_steps", 0
        ) * before.get("block_size", 0)
        if asked == sequences * config.block_size:
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


def options_of_killed(config: TrainConfig) -> Mapping[str, Any] | None:
    """The options of a run that was killed before its first checkpoint, which config.toml has.

    None where there is no such run, or where one of its options was another.
    """
    if config.fresh:
        return None
    try:
        text = read_text(Path(config.out_dir) / "config.toml", max_bytes=schema.LONGEST << 4)
        options = tomllib.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    sizes = ("batch_size", "gradient_accumulation_steps")
    now = {k: v for k, v in dataclasses.asdict(config).items() if k not in (*sizes, "init_from")}
    same = now == {k: v for k, v in options.items() if k in now}
    return options if same and all(type(options.get(k)) is int for k in sizes) else None


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
    """Try sizes in this order, until one does not fit, takes too long, or several one after another
    are slower by far.

    On a busy machine any trial may be: one that is slower is made again.
    """
    best, slower = math.inf, 0
    for size in sizes:
        tries = [measure(trials, size, share)]
        if tries[0] is not None and tries[0].iteration_s(share) > SLOWER * best:
            tries.append(measure(trials, size, share))
        known = [measurement for measurement in tries if measurement is not None]
        if len(known) < len(tries):
            return
        fastest = min(known, key=lambda measurement: measurement.iteration_s(share))
        yield fastest
        slower = slower + 1 if fastest.iteration_s(share) > SLOWER * best else 0
        if slower == MAX_SLOWER or fastest.first_s > LONGEST:
            return
        best = min(best, fastest.iteration_s(share))


def measure(trials: TrialProcess, size: int, share: int) -> Measurement | None:
    """The times of micro-batches of a size, of which an iteration has `share` sequences; None where
    one does not fit.
    """
    # not compiled: that takes longer than it could tell
    once = trials.iterations(size, 1, SECONDS, compile=False)
    if "failed" in once or once["peak_bytes"] > MARGIN * once["available_bytes"]:
        return None
    more = once["iter_s"]
    # several where that takes little time: chance in the difference is divided by their number
    steps = min(math.ceil(share / size), max(2, min(MAX_STEPS, int(SECONDS / more))))
    if steps > 1:
        several = trials.iterations(size, steps, SECONDS, compile=False)
        if "failed" in several:
            return None
        more = max(0.0, several["iter_s"] - once["iter_s"]) / (steps - 1)
        # where the first trial was slow by chance, a further micro-batch would seem to be free
        more = max(more, MIN_MORE * once["iter_s"])
    return Measurement(
        size=size, first_s=once["iter_s"], more_s=more, peak_bytes=once["peak_bytes"]
    )


def fastest(tried: Sequence[Measurement], share: int) -> int:
    """The size of the fastest; of those as fast, the largest."""
    best = min(t.iteration_s(share) for t in tried)
    return max(t.size for t in tried if t.iteration_s(share) <= EQUAL * best)
