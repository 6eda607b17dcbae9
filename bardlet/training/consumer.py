"""A run's use of a stream: text that `prepare --stream` writes meanwhile, and that goes when used.

A shard is used up when a checkpoint is on disk that does not need it. So a run saves where it has
come to the end of one, and a kill of either side at any moment loses nothing: the iterations after
the checkpoint find their text, and what is written again is the same.
"""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable

from bardlet.config import TrainConfig
from bardlet.data.dataset import streamed
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.stream import TokenStream, map_shard
from bardlet.data.dataset.streamed import StreamedText
from bardlet.data.dataset.streamed_batches import StreamedBatches
from bardlet.errors import DataError, TrainingError
from bardlet.io.terminal import say
from bardlet.system.distributed import Group, exchange_device

QUIET_S = 5.0  # of waiting, before it is said


class Arrival(enum.Enum):
    """What a run finds of the text of an iteration."""

    HERE = enum.auto()
    STOPPED = enum.auto()  # a process was asked to stop while it waited
    ENDED = enum.auto()  # there is no more


class Consumer:
    """Brings the shards of a stream to a run's batches, and removes those that are used up."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        batches: StreamedBatches,
        group: Group,
        start: int,
    ) -> None:
        """Of a run that begins with iteration `start`; waits for the first text that it needs.

        DataError where that is gone.
        """
        assert dataset.stream
        self.config, self.group, self.batches = config, group, batches
        self.folder, self.info, self.vocab_size = dataset.folder, dataset.stream, dataset.vocab_size
        text = dataset.splits["train"]
        assert isinstance(text, StreamedText)
        self.text = text
        used, first = streamed.read_used(self.folder), batches.used_up(start)
        if used.shards > first:
            raise DataError(
                f"iteration {start} needs shard {first} of {self.folder}, and those before "
                f"{used.shards} are gone: {used.out_dir or 'a run'} has used them",
                "Go on with that run, or begin the stream again: the same `bardlet prepare`, with "
                "--fresh",
            )
        # the checkpoint that it begins with, if any, is on disk: what that does not need may go
        self.used = dataclasses.replace(used, shards=first, ended=False, out_dir=config.out_dir)
        if group.main:
            streamed.mark_used(self.folder, self.used)
        batches.arrived = first
        if self.wait_for(first + 1, lambda: False) is Arrival.ENDED:
            raise DataError(f"{self.folder} has no text for iteration {start}", "Prepare more text")
        self.show(start)

    def arrive(self, it: int, stop: Callable[[], bool]) -> Arrival:
        """Wait until the text of iteration `it` is there; all processes return the same.

        DataError where nothing writes it for `ddp_timeout`.
        """
        arrival = self.wait_for(self.batches.needs(it), stop)
        if arrival is Arrival.STOPPED:
            return arrival
        if not self.batches.enough(it):
            return Arrival.ENDED
        self.show(it + 1)
        return Arrival.HERE

    def wait_for(self, count: int, stop: Callable[[], bool]) -> Arrival:
        """Take the first `count` shards in use, as they come."""
        since, silent_since = time.monotonic(), time.monotonic()
        said = ""
        while self.batches.arrived < count and self.batches.total is None:
            index = self.batches.arrived
            whole = self.finished()  # looked at first: what is missing then does not come any more
            here = streamed.shard_path(self.folder, index).exists()
            ended = whole and not here
            # of all processes: those of one disk may see a file at different moments
            sums = self.group.sum([here, stop(), ended], exchange_device())
            if sums[0] == self.group.world_size:
                self.batches.add(self.shard(index))
                silent_since = time.monotonic()
                continue
            if sums[1]:
                return Arrival.STOPPED
            if sums[2]:
                self.batches.end()
                break
            now = time.monotonic()
            # where no checkpoint could be saved, nothing makes room for this shard
            full = index >= self.used.shards + self.info.shards
            lives = streamed.alive(self.folder / streamed.PREPARING) and not full
            silent_since = now if lives else silent_since
            if self.group.agree(now - silent_since > self.config.ddp_timeout):
                raise TrainingError(
                    f"nothing has written {self.folder} for {self.config.ddp_timeout:g} s, and "
                    f"shard {index} is not there",
                    "Start its `bardlet prepare ... --stream` again, then "
                    f"`bardlet train --resume --out_dir={self.config.out_dir}`: both go on",
                )
            line = self.waiting(index, lives)
            if self.group.main and now - since > QUIET_S and line != said:
                say(line)
                said = line
            time.sleep(streamed.POLL_S)
        return Arrival.HERE if self.batches.arrived >= count else Arrival.ENDED

    def finished(self) -> bool:
        """Whether all of the text has become shards."""
        info = streamed.info_of(self.folder)
        if info is None or info.key != self.info.key:
            raise DataError(f"{self.folder} was prepared again while a run trained on it")
        return info.finished

    def waiting(self, index: int, lives: bool) -> str:
        """What to say of a wait for a shard."""
        if lives:
            return f"waiting for shard {index} of {self.folder}, which is being prepared"
        return (
            f"waiting up to {self.config.ddp_timeout:g} s for shard {index} of {self.folder}: "
            "nothing writes it; start the same bardlet prepare --stream again"
        )

    def shard(self, index: int) -> TokenStream:
        """A shard that is there; DataError where it is damaged."""
        path = streamed.shard_path(self.folder, index)
        ids = map_shard(path)
        if len(ids) > self.info.shard_tokens:
            raise DataError(f"{path} has {len(ids):,} tokens, not {self.info.shard_tokens:,}")
        return TokenStream([ids], self.vocab_size)

    def show(self, it: int) -> None:
        """Let evaluations after `it` iterations see the shard that was used last, and let go of
        those before.
        """
        self.text.show(self.batches.shards[self.batches.used_up(it)])
        self.batches.forget(it - 1)

    def ends_shard(self, it: int) -> bool:
        """Whether the run has used up a shard with the last of `it` iterations."""
        return self.batches.used_up(it) > self.batches.used_up(it - 1)

    def release(self, it: int) -> None:
        """Remove what a checkpoint of `it` iterations, which is on disk, does not need."""
        shards = self.batches.used_up(it)
        if shards > self.used.shards:
            self.used = dataclasses.replace(self.used, shards=shards)
            streamed.mark_used(self.folder, self.used)

    def end(self) -> None:
        """Note that the run has come to its end, for the process that writes the stream."""
        if self.group.main:
            self.used = dataclasses.replace(self.used, ended=True)
            streamed.mark_used(self.folder, self.used)
