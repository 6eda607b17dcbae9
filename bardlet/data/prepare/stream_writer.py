"""Writes the training text of a stream, shard by shard as there is room for them.

A shard gets its name when it is whole, and the next one is begun when one more may be on disk.
Shards that a run has used are gone, so what goes on after a kill writes from the last entry of the
journal on, and drops what had its name before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bardlet.data.dataset import streamed
from bardlet.data.dataset.streamed import StreamInfo
from bardlet.data.prepare.shards import SplitWriter
from bardlet.errors import DataError
from bardlet.io.atomic import flush


class TrainingEnded(Exception):  # noqa: N818
    """The run that uses the stream has come to its end, and needs no more text."""


class StreamWriter(SplitWriter):
    """The growing shards of training text, which are moved to `out` one by one."""

    def __init__(
        self, folder: Path, out: Path, info: StreamInfo, width: int, *, timeout_s: float,
        say: Callable[[str], None], state: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """They grow in `folder`; `state` and `width` are as in SplitWriter. Where nothing trains
        for `timeout_s` while there is no room, DataError.
        """
        self.out, self.info, self.timeout_s, self.say = out, info, timeout_s, say
        # shards that have had their names
        self.published = max([0, *(index + 1 for index in streamed.present(out))])
        self.lives: bool | None = None  # whether something trains, as was said last
        self.settled = 0  # shards that were published or dropped by this writer
        super().__init__(
            folder, "train", width, info.shard_tokens, docs=False, masked=False, state=state
        )

    def describe(self, index: int) -> dict[str, Any]:
        """Nothing: a shard that comes and goes is not in the manifest."""
        return {}

    def open(self, *, fresh: bool = True) -> None:
        """Publish what is whole, and begin the next shard when there is room for it."""
        self.publish()
        index = len(self.done)
        for left in self.folder.glob("train-*.bin"):  # by a kill, of a shard that is written again
            if left != self.path(index, ".bin"):
                left.unlink()
        begun = self.tokens and index >= self.published
        if begun and not self.path(index, ".bin").exists():
            raise DataError(
                f"{self.path(index, '.bin')} is gone, which was being written",
                "Begin the stream again with --fresh",
            )
        if not begun:
            self.wait_for_room()
        super().open(fresh=fresh)

    def publish(self) -> None:
        """Give the shards that are whole their names; those that had them already are dropped, and
        those that a run has used of a stream that was begun again.
        """
        self.published = max(self.published, streamed.read_used(self.out).shards)
        for index in range(self.settled, len(self.done)):
            self.settled = index + 1
            path = self.path(index, ".bin")
            if index < self.published:
                path.unlink(missing_ok=True)
                continue
            path.rename(streamed.shard_path(self.out, index))
            flush(self.out)
            self.published = index + 1
            count = len(streamed.present(self.out))
            self.say(
                f"shard {index}: {self.done[index]['tokens']:,} tokens; {count} of at most "
                f"{self.info.shards} on disk"
            )

    def wait_for_room(self) -> None:
        """Return when one more shard may be on disk; TrainingEnded where none is needed."""
        since = time.monotonic()
        while True:
            if streamed.read_used(self.out).ended:
                raise TrainingEnded
            if len(streamed.present(self.out)) < self.info.shards:
                return
            lives = streamed.alive(self.out / streamed.TRAINING)
            now = time.monotonic()
            if lives:
                since = now
            elif now - since > self.timeout_s:
                raise DataError(
                    f"nothing has trained on {self.out} for {self.timeout_s:g} s, and its "
                    f"{self.info.shards} shards are full",
                    f"Start `bardlet train --stream --dataset={self.out}`, then the same command "
                    "again, which goes on where this one is",
                )
            if lives is not self.lives:
                self.say(self.waiting(lives))
                self.lives = lives
            time.sleep(streamed.POLL_S)

    def waiting(self, lives: bool) -> str:
        """What to say of a wait for room."""
        if lives:
            return f"{self.info.shards} shards are on disk: the next ones come as training uses up"
        return (
            f"{self.info.shards} shards of {self.out} are ready, and nothing trains on them: "
            f"waiting up to {self.timeout_s:g} s for bardlet train --stream --dataset={self.out}"
        )

    def finish(self) -> dict[str, Any]:
        """The sums of the whole split, when its last shard has its name."""
        self.close_shard(last=True)
        self.hasher.shutdown()
        if not self.done[-1]["tokens"]:
            self.path(len(self.done) - 1, ".bin").unlink(missing_ok=True)
            self.done.pop()
        self.publish()
        return {**self.sums, "shards": []}
