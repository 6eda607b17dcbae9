"""Who ended, hangs or said why, by what the processes of a group tell each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bardlet.system import peers
from bardlet.system.peers import NEXT, Peers


class Memory:
    """What the processes share, as torch.distributed's stores behave."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        if self.values.get(key, "") == expected:
            self.values[key] = desired
        return self.values[key].encode()


class Broken(Memory):
    """Its keeper has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.times = threading.Event(), 0

    def check(self, keys: list[str]) -> bool:
        self.times += 1
        if self.times > 1:  # what the first time led to has happened
            self.asked.set()
        raise RuntimeError("Connection reset by peer")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peers, "BEAT_S", 1e-6)
    monkeypatch.setattr(peers, "GRACE", 0)
    monkeypatch.setattr(peers.socket, "gethostname", lambda: "a")
    yield


class Cut(Memory):
    """Out of reach: who asks waits until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def check(self, keys: list[str]) -> bool:
        self.over.wait()
        raise RuntimeError("Connection timed out")


def of(store: Memory, rank: int, waits: int = 5, **more: Any) -> Peers:
    return Peers(lambda: store, rank, 3, more.pop("limit_s", 10.0), lambda: waits, **more)


def ended(watching: Peers, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a process says that watches to the end, and with which code it leaves."""
    said: list[Any] = []
    monkeypatch.setattr(peers, "say", said.append)
    watching.leave = said.append
    looks = threading.Thread(target=watching.watch)
    looks.start()
    store = watching.store
    if isinstance(store, Broken):
        store.asked.wait()
    elif not isinstance(store, Cut):
        looks.join()
    watching.guard()
    watching.closed.set()
    if isinstance(store, Cut):
        store.over.set()
    looks.join()
    return said


def test_a_process_that_is_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Memory()
    main = of(store, 0)
    of(store, 1), of(store, 2)
    alive = iter(range(10**6))
    get = store.get

    def beating(key: str) -> bytes:
        return f"{next(alive)} 5".encode() if key == "beat/1" else get(key)

    monkeypatch.setattr(store, "get", beating)
    store.set("beat/1", ""), store.set("beat/2", "7 5")
    said = ended(main, monkeypatch)
    cause = f"process 2 of 3 on a {peers.SILENCE}"
    assert said == [f"bardlet: {cause}. {NEXT}", 1]
    # the others are told, and leave the word to process 0
    other = of(store, 1)
    assert ended(other, monkeypatch) == [1]
    assert other.cause == cause


def test_one_that_is_waited_for_is_told_from_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Memory()
    monkeypatch.setattr(peers, "BEAT_S", 1.0)
    main = of(store, 0, waits=6, limit_s=30.0)
    for beat in range(31):
        assert main.look() == ""
        store.set("beat/1", f"{beat} 6"), store.set("beat/2", f"{beat} 5")
    assert main.look() == (
        "process 2 of 3 hangs and the others have waited for it for 30 s (--ddp_timeout)"
    )


def test_last_words_reach_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Memory()
    main, second, third = (of(store, rank) for rank in range(3))
    assert not second.last_words("the disk is full")
    assert third.last_words("the disk is full")  # which is said already
    assert ended(main, monkeypatch) == [
        f"bardlet: process 1 of 3 on a has ended: the disk is full. {NEXT}", 1
    ]  # fmt: skip
    assert second.told() == "" and not main.last_words("another thing")


def test_process_1_speaks_where_process_0_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(of(Broken(), 2), monkeypatch) == [1]
    assert ended(of(Broken(), 1), monkeypatch) == [
        f"bardlet: process 0 of 3 has ended. {NEXT}", 1
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_machine_that_is_cut_off_ends_its_processes(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """And its launcher, once; what they ask of the others is never answered."""
    cut: list[int] = []
    here = of(
        Cut(), rank, keeper="the launcher at a:1", speaker=rank == 1, on_cut=lambda: cut.append(1)
    )
    said = [f"bardlet: the launcher at a:1 cannot be reached any more. {NEXT}"]
    assert ended(here, monkeypatch) == [*(said if rank < 2 else []), 1]
    assert cut == [1] * (rank == 1)


def test_processes_that_go_on_outlive_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have been asked to stop, and save; `limit_s` is how long they wait for each other."""
    waits = iter(range(1, 10**6))
    here = of(Broken(), 1, keeper="the launcher at a:1", limit_s=7 * peers.BEAT_S, speaker=True)
    here.waits = lambda: min(next(waits), 500)
    assert ended(here, monkeypatch) == [f"bardlet: the launcher at a:1 has ended. {NEXT}", 1]
    assert next(waits) >= 500 + 7


def test_a_connection_that_broke_asks_for_a_name_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "GRACE", 100)
    main = of(Memory(), 0)
    main.asked.set()
    looks = next(n for n in range(100) if main.look())
    assert looks + 1 == peers.BROKEN < peers.SILENT
