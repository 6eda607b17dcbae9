"""Muon's matrices shared out: one owner each, the same bits as one process, some without any."""

from __future__ import annotations

import os

import pytest
import torch
from support import as_ranks, tiny_model

from bardlet import native, optim
from bardlet.config import resolve
from bardlet.system import fastest, sharing
from bardlet.system.distributed import Group, here, joined
from bardlet.system.fastest import Fastest

WAYS = (sharing.ROUNDS, sharing.ONCE, sharing.EVERYWHERE)


def test_the_dearest_go_first_and_to_the_idlest() -> None:
    assert sharing.owners((1.0, 4.0, 2.0, 3.0), 2) == (0, 0, 1, 1)
    assert sharing.owners((1.0,), 3) == (0,)
    assert sharing.owners((), 3) == ()
    costs = tuple(float(1 + i % 5) for i in range(72))
    ranks = sharing.owners(costs, 8)
    loads = [sum(c for c, r in zip(costs, ranks, strict=True) if r == rank) for rank in range(8)]
    assert max(loads) - min(loads) <= 1


def test_what_is_sent_at_once_is_bounded() -> None:
    sizes, ranks = [6, 6, 4, 30, 1], [0, 0, 0, 1, 1]
    assert list(sharing.rounds(sizes, ranks, 2, 10)) == [[[0], [3]], [[1, 2], [4]]]
    assert list(sharing.rounds(sizes, ranks, 2, 47)) == [[[0, 1, 2], [3, 4]]]
    assert list(sharing.rounds([], [], 2, 10)) == []


def steps(group: Group, way: str = sharing.EVERYWHERE) -> list[torch.Tensor]:
    """The weights and momenta of a model after three steps of Muon on gradients of its own."""
    model = tiny_model("llama", n_layer=1, n_kv_head=4)  # of sizes that the core takes
    options = {"learning_rate": 0.1, "optimizer": "muon", "weight_decay": 0.1}
    config = resolve([("test", options)])
    _, muon = optim.build_optimizers(model, config, "cpu", torch.float32, group)
    muon.fastest.way = way
    params = muon.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        muon.step()
    return [t for p in params for t in (p.detach(), muon.state[p]["momentum"])]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_step_each_matrix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven matrices on eight processes, one of which has none, by the core and by torch; and in
    one exchange, or everywhere, with the same bits.
    """
    orthogonalise = optim.newton_schulz
    counted: list[int] = []

    def counting(x: torch.Tensor, *rest: torch.dtype) -> torch.Tensor:
        counted.append(len(x))
        return orthogonalise(x, *rest)

    monkeypatch.setattr(optim, "newton_schulz", counting)
    by_core = steps(Group())
    monkeypatch.setattr(optim.muon, "fits", lambda *_: False)
    by_torch = steps(Group())
    assert sum(counted) == 3 * 7 * (1 if native.library() else 2)
    monkeypatch.undo()
    monkeypatch.setattr(sharing, "ROUND", 8 * 2048)  # several rounds
    monkeypatch.setattr(optim, "newton_schulz", counting)
    cpu = torch.device("cpu")

    def rank() -> None:
        group = here()
        with joined(group, "gloo", cpu):
            for way in WAYS:
                assert all(map(torch.equal, by_core, steps(group, way)))
            monkeypatch.setattr(optim.muon, "fits", lambda *_: False)
            for way in WAYS:
                counted.clear()
                assert all(map(torch.equal, by_torch, steps(group, way)))
                everywhere = way == sharing.EVERYWHERE
                expected = [3 * 7 * 8, 8] if everywhere else [3 * 7, 7]
                assert group.sum([sum(counted), sum(counted) > 0], cpu) == expected

    as_ranks(8, rank)


class Two(Group):
    """The main one of two processes, of which the other has and takes as much."""

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        return [2 * value for value in values]

    def smallest(self, value: int, device: torch.device) -> int:
        return value


@pytest.mark.parametrize(
    ("takes", "chosen"),
    [((3.0, 1.0, 2.0), sharing.ONCE), ((1.0, 2.0, 3.0), sharing.ROUNDS),
     ((2.0, 3.0, 1.0), sharing.EVERYWHERE)],
)  # fmt: skip
def test_the_fastest_way_is_chosen_and_said(
    takes: tuple[float, ...], chosen: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """After a first step of each, which takes longer, and two that are timed."""
    clock = [0.0]
    monkeypatch.setattr(fastest.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(fastest, "ROUND", 10)
    taken: list[str] = []

    def step(way: str) -> None:
        clock[0] += takes[WAYS.index(way)] + 9.0 * (way not in taken)
        taken.append(way)

    ways, matrices = Fastest(Two(world_size=2)), [torch.zeros(4, 4)]
    for _ in range(11):
        ways.run(step, matrices)
    assert taken == [*WAYS, *WAYS, *WAYS, chosen, chosen]
    said = capsys.readouterr().err
    assert said.startswith(f"muon: matrices are {chosen}: 1,000.0 ms a step; ")
    assert said.count("\n") == 1


def test_ways_need_memory_and_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matrices fit one round, or bits could depend on the way, there is one way less."""
    cpu, matrices = torch.device("cpu"), [torch.zeros(4, 4)]
    ways = Fastest(Two(world_size=2))
    assert set(ways.trials(matrices, cpu)) == {sharing.ROUNDS, sharing.EVERYWHERE}
    monkeypatch.setattr(fastest, "ROUND", 10)
    assert set(ways.trials(matrices, cpu)) == set(WAYS)
    monkeypatch.setattr(fastest.memory, "free", lambda device: 4 * fastest.COPIES * 15)
    assert set(ways.trials(matrices, cpu)) == {sharing.ROUNDS, sharing.EVERYWHERE}
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert ways.trials(matrices, cpu) == [sharing.ROUNDS]
    assert Fastest(Group()).way == sharing.EVERYWHERE
