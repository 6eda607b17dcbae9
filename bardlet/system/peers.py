"""Signs of life that the processes of a group give each other, and the last words of one that ends.

A collective operation does not say who is missing: the others see a closed connection at best, and
wait for ever at worst. So each process counts up beside its work, in a thread, how often it has
looked around and how often it has begun to wait for the others. The main process looks at all of
them, and they at it. What they tell each other may be out of reach itself, and then a look waits
for ever too: a second thread guards the first.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from bardlet.io.terminal import say
from bardlet.system.meeting import Store

BEAT_S = 0.5  # between looks
SILENT = 60  # looks without a sign of life, after which a process is gone
BROKEN = 5  # looks where a connection has broken already, and only its name is missing
GRACE = 6  # looks, for the main thread to end by itself
NEXT = "Started again, all go on from the last checkpoint"
KILLED = "has ended without a word: it was killed, by the system perhaps when memory ran out"
SILENCE = (
    "gives no sign of life: it was killed or stopped, or its machine cannot be reached any more"
)


class Peers:
    """Watches over a group as one of its processes, and says why it cannot go on."""

    def __init__(
        self, connect: Callable[[], Store], rank: int, world_size: int, limit_s: float,
        waits: Callable[[], int], leave: Callable[[int], object] = os._exit, *,
        speaker: bool = False, keeper: str = "", on_cut: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        """`connect` gives a connection that no other thread uses, `waits` how often this process
        has begun to wait for the others, for at most `limit_s`. `keeper` names who keeps what they
        tell each other, where process 0 does not; `speaker` is one process a machine. `on_cut` is
        called by it where who keeps that cannot be reached any more.
        """
        self.words, self.store = connect(), connect()  # of the main thread, and of the other
        self.rank, self.world_size, self.limit_s = rank, world_size, limit_s
        self.waits, self.leave, self.speaker = waits, leave, speaker
        self.keeper, self.on_cut = keeper, on_cut
        self.closed, self.known = threading.Event(), threading.Event()
        self.looks = 0  # that have come to their end
        self.broken = False  # whether the connection to the keeper has been closed
        self.lost = False  # whether the keeper is the one who is gone
        self.cause = ""  # why the group cannot go on, where it is known
        self.words.set(f"host/{rank}", socket.gethostname())
        watched = [r for r in range(world_size) if r != rank] if rank == 0 else [0]
        self.beats = dict.fromkeys(watched, "")
        self.silent = dict.fromkeys(watched, 0)  # looks since a sign of life
        self.behind = dict.fromkeys(watched, 0)  # looks since this process waits for it
        self.asked = threading.Event()  # a connection has broken: name the one who is gone
        self.threads = [
            threading.Thread(target=work, name="peers", daemon=True)
            for work in (self.watch, self.guard)
        ]

    def __enter__(self) -> Peers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        self.known.set()
        for thread in self.threads:
            thread.join(GRACE * BEAT_S)

    def last_words(self, message: str) -> bool:
        """Say why this process ends; whether another has said the same before."""
        message = f"has ended: {message}"
        mine = {"rank": self.rank, "message": message}
        try:
            first = json.loads(self.words.compare_set("cause", "", json.dumps(mine)))
        except (RuntimeError, ValueError):  # nobody is there to read them
            return False
        return first["rank"] != self.rank and first["message"] == message

    def why(self) -> str:
        """Why another process is gone, whose connection has broken; empty where unknown."""
        self.asked.set()
        self.known.wait((BROKEN + GRACE) * BEAT_S)
        return self.cause

    @property
    def speaks(self) -> bool:
        """Whether this process is one that says why the group ends: the first that is left, or
        one a machine where they cannot tell each other.
        """
        if self.lost:
            return self.speaker or self.rank == (0 if self.keeper else 1)
        return self.rank == (1 if self.cause.startswith("process 0 ") else 0)

    def watch(self) -> None:
        """Give signs of life and look for those of others, until one of them is gone."""
        beats = 0
        while not self.closed.wait(BEAT_S):
            beats += 1
            try:
                self.store.set(f"beat/{self.rank}", f"{beats} {self.waits()}")
                cause = self.told() or self.look()
            except RuntimeError:  # who keeps the store is gone
                self.broken = True
                continue
            self.looks += 1
            if cause:
                self.end(cause)
                return

    def guard(self) -> None:
        """Leave where the group cannot go on and the main thread waits for it."""
        before, still = (-1, -1), 0
        while not self.known.wait(BEAT_S):
            now = self.looks, self.waits()
            before, still = now, still + 1 if now == before else 0
            if still >= self.patience():
                self.lost = True
                how = "has ended" if self.broken else "cannot be reached any more"
                self.end(f"{self.keeper or f'process 0 of {self.world_size}'} {how}")
                if self.speaker and not self.broken:
                    self.on_cut()
        # the main thread ends by itself where it is not waiting inside a collective operation
        if self.cause and not self.closed.wait(GRACE * BEAT_S):
            if self.speaks:
                say(f"bardlet: {self.cause}. {NEXT}")
            sys.stderr.flush()
            self.leave(1)

    def patience(self) -> float:
        """Looks without an answer from the keeper and without progress, until it is gone.

        A launcher that has ended has had its processes asked to stop, and they may be saving.
        """
        if self.asked.is_set() or (self.broken and not self.keeper):
            return BROKEN
        return self.limit_s / BEAT_S if self.broken else SILENT

    def end(self, cause: str) -> None:
        """Note why the group cannot go on."""
        self.cause = self.cause or cause
        self.known.set()

    def told(self) -> str:
        """What a process said that has ended with words, if one has."""
        if not self.store.check(["cause"]):
            return ""
        words: dict[str, Any] = json.loads(self.store.get("cause"))
        return "" if words["rank"] == self.rank else self.name(words["rank"], words["message"])

    def look(self) -> str:
        """Who has given no sign of life, or is waited for too long, if someone has or is."""
        for rank in self.beats:
            key = f"beat/{rank}"
            beat = self.store.get(key).decode() if self.store.check([key]) else ""
            waits = int(beat.split()[1]) if beat else 0
            self.silent[rank] = 0 if beat != self.beats[rank] else self.silent[rank] + 1
            late = waits < self.waits() and beat.split()[1:] == self.beats[rank].split()[1:]
            self.behind[rank] = self.behind[rank] + 1 if late else 0
            self.beats[rank] = beat
        rank = max(self.silent, key=lambda rank: self.silent[rank])
        # one that has not been seen yet is still starting
        patience = SILENT if self.beats[rank] else self.limit_s / BEAT_S
        if self.silent[rank] >= (BROKEN if self.asked.is_set() else patience):
            return self.ended(rank, KILLED if self.asked.is_set() else SILENCE)
        rank = max(self.behind, key=lambda rank: self.behind[rank])
        if self.behind[rank] * BEAT_S >= self.limit_s:
            waited = f"the others have waited for it for {self.limit_s:g} s (--ddp_timeout)"
            return self.ended(rank, f"hangs and {waited}")
        return ""

    def ended(self, rank: int, message: str) -> str:
        """Tell the others of a process that cannot do so itself; what they are told."""
        # "cause" is what the process itself has said, if it has; the others read it in its name
        self.store.compare_set("cause", "", json.dumps({"rank": rank, "message": message}))
        return self.name(rank, message)

    def name(self, rank: int, message: str) -> str:
        """A sentence about one of the processes."""
        host = ""
        if self.store.check([f"host/{rank}"]):
            host = f" on {self.store.get(f'host/{rank}').decode()}"
        return f"process {rank} of {self.world_size}{host} {message}"
