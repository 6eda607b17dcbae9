"""When a run is saved, and that training neither waits for the disk nor loses what is there."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bardlet.config import TrainConfig
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import CheckpointError, TrainingError
from bardlet.model import GPT
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import RunState, Scores
from bardlet.system import sharding
from bardlet.system.distributed import Group
from bardlet.training.consumer import Consumer
from bardlet.training.log import Log


class Saver:
    """Saves a run's checkpoints, one at a time: written in the loop, fsynced in a thread.

    Once a checkpoint has its name, `last` is moved to it and what is not kept is removed. Where
    the disk does not take one, the run goes on with those it has, or stops (`save_failure`).
    """

    def __init__(
        self, config: TrainConfig, log: Log, model: GPT,
        optimizers: Sequence[torch.optim.Optimizer], tokenizer: Tokenizer, group: Group,
        stream: Consumer | None = None,
    ) -> None:  # fmt: skip
        """The main process saves; the others write their parts of a sharded model, or nothing.

        The text of a `stream` that is not needed any more is removed.
        """
        self.stream = stream
        self.config, self.log, self.group = config, log, group
        self.main = group.main and not config.eval_only
        self.together = sharding.is_sharded(model) and not config.eval_only
        self.model, self.optimizers, self.tokenizer = model, optimizers, tokenizer
        self.run = Path(config.out_dir)
        self.size = checkpoint.size_bytes(model, optimizers)
        self.newest = -1  # iterations of the newest checkpoint, or of the one being saved
        self.began = time.monotonic()  # of the time since a checkpoint
        self.thread: threading.Thread | None = None
        self.failure: CheckpointError | None = None

    def resume_at(self, it: int) -> None:
        """Begin where the checkpoint after `it` iterations is, as if it had just been saved."""
        self.newest = it
        if self.main:
            run_folder.set_pointer(
                self.run, "last", self.run / "checkpoints" / run_folder.name_of(it)
            )
            self.prune(self.config.keep_checkpoints)

    def due(self, it: int) -> bool:
        """Whether to save after `it` iterations for the time that has passed, or their number."""
        every, minutes = self.config.save_interval, self.config.save_minutes
        late = bool(minutes) and time.monotonic() - self.began > minutes * 60
        if minutes and self.together:  # clocks differ
            late = bool(self.group.agree(late))
        frees = self.stream is not None and self.stream.ends_shard(it)
        return it > 0 and (late or frees or bool(every and it % every == 0))

    def save(self, state: RunState, *, must: bool = False) -> None:
        """Save what the run is after `state.iter` iterations, unless it is the newest one saved.

        `must` is for the last chance: it waits for the disk, and raises where it fails.
        """
        wanted = self.main and self.is_wanted(state)
        if self.together:
            wanted = bool(self.group.agree(wanted))
        if wanted:
            self.write(state)
        if must and self.main:
            self.wait(must=True)

    def is_wanted(self, state: RunState) -> bool:
        """Whether the main process saves this state: it is new, and the disk has room for it."""
        self.wait()
        if state.iter == self.newest:
            return False
        self.log.say(f"saving checkpoint to {self.run}")
        self.newest = state.iter
        try:
            self.make_room()
        except CheckpointError as error:
            self.failure = error
        return self.failure is None

    def write(self, state: RunState) -> None:
        """Write a checkpoint, and have the main process bring it to disk in a thread."""
        folder = self.run / "checkpoints" / run_folder.name_of(state.iter)
        what = folder, self.model, self.optimizers, self.tokenizer, state
        try:
            if self.together:
                checkpoint.write_together(*what, self.group)
            else:
                checkpoint.write(*what)
        except CheckpointError as error:
            self.failure = error
            return
        except OSError as error:
            self.failure = checkpoint.not_saved(folder, error)
            return
        self.began = time.monotonic()
        if self.main:
            # a daemon, for the second signal that is not to wait for a disk
            self.thread = threading.Thread(target=self.finish, args=[folder], daemon=True)
            self.thread.start()
            self.log.record(type="event", event="saved", iter=state.iter)

    def attach_scores(self, state: RunState, scores: Scores, *, best: bool, keep: bool) -> None:
        """Add its losses to the checkpoint of `state`, and let `best` name it if it is.

        `keep` is for the run's end: it is saved in any case, and must be.
        """
        if best or keep:
            self.save(state, must=keep)
        if not self.main:
            return
        self.wait()
        folder = self.run / "checkpoints" / run_folder.name_of(state.iter)
        if state.iter != self.newest or not folder.is_dir():  # not wanted, or not saved
            return
        try:
            if best:
                run_folder.set_pointer(self.run, "best", folder)
            self.prune(self.config.keep_checkpoints)
            # last, because its presence tells a resumed run that this evaluation is done
            run_folder.write_scores(folder, scores)
        except OSError as error:
            self.failure = checkpoint.not_saved(folder, error)
            self.wait()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Let a save that is under way be done, but for the second signal, which waits for none.

        Its failure is reported, and raised as `wait` has it unless something else is on its way.
        """
        if kind is KeyboardInterrupt:
            return
        try:
            self.wait()
        except TrainingError as error:
            if kind is None:
                raise
            self.log.say(f"warning: {error.message}. {error.hint}")

    def make_room(self) -> None:
        """Raise CheckpointError where the disk has no room for one more checkpoint."""
        if free_bytes(self.run) < self.size:
            self.prune(1)
        free = free_bytes(self.run)
        if free < self.size:
            raise CheckpointError(f"no room for a checkpoint: {megabytes(free)} are free")

    def prune(self, keep: int) -> None:
        """Remove what is not kept. What cannot be removed takes room, and ends no run."""
        try:
            run_folder.prune(self.run, keep)
        except OSError as error:
            self.log.say(f"warning: cannot remove an old checkpoint: {error}. Training goes on")

    def finish(self, folder: Path) -> None:
        """The part of saving that waits for the disk, in a thread of its own."""
        try:
            checkpoint.finish(folder)
            run_folder.set_pointer(self.run, "last", folder)
            self.prune(self.config.keep_checkpoints)
            if self.stream:
                self.stream.release(run_folder.iter_of(folder))
        except CheckpointError as error:
            self.failure = error
        except OSError as error:
            self.failure = checkpoint.not_saved(folder, error)

    def wait(self, *, must: bool = False) -> None:
        """Return when what was written is on disk; report a failure, or raise it."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.failure = self.failure, None
        if error is None:
            return
        failed, self.newest = self.newest, -1
        last = run_folder.read_pointer(self.run, "last")
        kept = f"{self.run} keeps {last.name}" if last else "nothing was saved so far"
        hint = f"{megabytes(self.size)} are needed; {kept}"
        if must or self.config.save_failure == "stop":
            raise TrainingError(error.message, hint)
        self.began = time.monotonic()  # the next try by time is as far off as ever
        self.log.say(f"warning: {error.message}. {hint}. Training goes on")
        self.log.record(type="event", event="disk", iter=failed, needed_bytes=self.size)


def check_room(config: TrainConfig, size: int) -> None:
    """Raise TrainingError where the disk cannot hold the checkpoints that a run keeps.

    `size` is that of one in bytes. What the run's folder has already is counted as room.
    """
    run = Path(config.out_dir)
    count = config.keep_checkpoints + 2  # `best`, and the one being written
    have = sum(f.stat().st_size for f in (run / "checkpoints").rglob("*") if f.is_file())
    free = free_bytes(run) + have
    if free < count * size:
        raise TrainingError(
            f"{run} needs {megabytes(count * size)} for {count} checkpoints, "
            f"and {megabytes(free)} are free on its disk",
            "Free some, lower keep_checkpoints, or name an --out_dir on another disk",
        )


def free_bytes(path: Path) -> float:
    """What the disk of `path` has free for this user; infinite where the system does not say."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return math.inf


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
