"""The beginning of a run on a stream: what it waits for, and what does not go with one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bardlet.config import TRUTH, Auto, TrainConfig
from bardlet.data.dataset import mixture, streamed
from bardlet.data.dataset.folder import Dataset, find, is_dataset
from bardlet.errors import DataError, UsageError
from bardlet.io.terminal import say
from bardlet.system.distributed import Group


@contextlib.contextmanager
def held(config: TrainConfig, group: Group) -> Iterator[None]:
    """A context in which this run is the one that uses the stream that it is to train on, if it is
    to train on one. Raises as `begun` and `check` do, DataError where another run uses it.
    """
    if not config.stream:
        with contextlib.suppress(DataError):  # opening it says what is wrong with it
            if streamed.info_of(named := find(config.dataset)):
                raise unasked(named)
        yield
        return
    folder = begun(config.dataset, config.ddp_timeout, tells=group.main)
    check(config, folder)
    with streamed.training(folder) if group.main else contextlib.nullcontext():
        yield


def begun(name: str, timeout_s: float, *, tells: bool = True) -> Path:
    """The folder of a stream, when it has its first text; `tells` says that it is waited for.

    DataError where nothing writes it for `timeout_s`.
    """
    if "," in name:
        raise UsageError(f"dataset={name}: a stream is trained on alone", "Name one dataset")
    folder = find(name)
    # of its validation text, with which the folder appears, and of its training text
    locks = streamed.staging_lock(folder), folder / streamed.PREPARING
    since, said = time.monotonic(), not tells
    while not is_begun(folder):
        if any(map(streamed.alive, locks)):
            since = time.monotonic()
        if time.monotonic() - since > timeout_s:
            raise DataError(
                f"nothing has begun the stream {folder} for {timeout_s:g} s",
                f"Start `bardlet prepare TEXT --stream --out {folder}`",
            )
        if not said:
            say(f"waiting for the first text of {folder}, which bardlet prepare --stream writes")
            said = True
        time.sleep(streamed.POLL_S)
    return folder


def is_begun(folder: Path) -> bool:
    """Whether a dataset lies there, and there is something to wait for no more."""
    if not is_dataset(folder):
        return False
    info = streamed.info_of(folder)
    return info is None or info.finished or bool(streamed.present(folder))


def opened(flags: Mapping[str, object]) -> Dataset:
    """The dataset that options name, when it has its first text where it is to be a stream.

    Raises as `begun` does, UsageError for one that was not asked for.
    """
    stream = TRUTH.get(str(flags.get("stream", "")).lower(), False)
    if stream:
        begun(str(flags["dataset"]), TrainConfig.ddp_timeout)
    dataset = mixture.opened(str(flags["dataset"]))
    if dataset.stream and not stream:
        raise unasked(dataset.folder)
    return dataset


def train_tokens(dataset: Dataset) -> int:
    """The tokens of training text; of a stream those that there will be, about."""
    return max(1, dataset.stream.tokens) if dataset.stream else len(dataset.splits["train"])


def unasked(folder: Path) -> UsageError:
    """Why a stream that was not asked for as one is not trained on."""
    return UsageError(
        f"{folder} is a stream, whose text is removed when it was trained on", "Add --stream"
    )


def check(config: TrainConfig, folder: Path) -> None:
    """Raise where the dataset is no stream, or the options do not go with one."""
    info = streamed.info_of(folder)
    if info is None:
        raise UsageError(
            f"{folder} is not a stream: all of its text is there",
            "Leave --stream out, or prepare it with --stream",
        )
    for name, usual in (("stages", 1), ("objective", "lm")):
        if (value := getattr(config, name)) != usual:
            raise UsageError(f"{name}={value} does not go with stream, which is one pass of text")
    if config.eval_only:
        raise UsageError("eval_only does not go with stream", "`bardlet eval RUN` scores a run")
    if isinstance(config.batch_size, Auto):
        raise UsageError("batch_size=auto tries text that a stream has once", "Give it a number")
    tokens = (info.shard_tokens - 1) // config.block_size * config.block_size
    if not tokens:
        raise UsageError(
            f"shards of {info.shard_tokens:,} tokens have no window of {config.block_size}",
            "Lower block_size, or prepare with a larger --shard_tokens",
        )
    spans = -(-config.sequences_per_iter * config.block_size // tokens) + 1
    if spans > info.shards:
        raise UsageError(
            f"an iteration of {config.sequences_per_iter * config.block_size:,} tokens takes up to "
            f"{spans} shards, and {info.shards} of {info.shard_tokens:,} are on disk at a time",
            f"Prepare with --stream_shards={spans} or more, or a larger --shard_tokens",
        )
