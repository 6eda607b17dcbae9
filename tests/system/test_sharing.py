"""Muon's matrices shared out: one owner each, the same bits as one process, some without any."""

from __future__ import annotations

import os

import pytest
import torch
from support import as_ranks, tiny_model

from bardlet import native, optim
from bardlet.config import resolve
from bardlet.system import sharing
from bardlet.system.distributed import Group, here, joined


def test_the_dearest_go_first_and_to_the_idlest() -> None:
    assert sharing.owners((1.0, 4.0, 2.0, 3.0), 2) == (0, 0, 1, 1)
    assert sharing.owners((1.0,), 3) == (0,)
    assert sharing.owners((), 3) == ()
    costs = tuple(float(1 + i % 5) for i in range(72))
    ranks = sharing.owners(costs, 8)
    loads = [sum(c for c, r in zip(costs, ranks, strict=True) if r == rank) for rank in range(8)]
    assert max(loads) - min(loads) <= 1


def test_what_is_sent_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "ROUND", 20)
    rounds = list(sharing.rounds([6, 6, 4, 30, 1], [0, 0, 0, 1, 1], 2))
    assert rounds == [[[0], [3]], [[1, 2], [4]]]
    assert list(sharing.rounds([], [], 2)) == []


def steps(group: Group) -> list[torch.Tensor]:
    """The weights and momenta of a model after three steps of Muon on gradients of its own."""
    model = tiny_model("llama", n_layer=1, n_kv_head=4)  # of sizes that the core takes
    options = {"learning_rate": 0.1, "optimizer": "muon", "weight_decay": 0.1}
    config = resolve([("test", options)])
    _, muon = optim.build_optimizers(model, config, "cpu", torch.float32, group)
    params = muon.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        muon.step()
    return [t for p in params for t in (p.detach(), muon.state[p]["momentum"])]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_step_each_matrix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven matrices on eight processes, one of which has none, by the core and by torch."""
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
            assert all(map(torch.equal, by_core, steps(group)))
            counted.clear()
            monkeypatch.setattr(optim.muon, "fits", lambda *_: False)
            assert all(map(torch.equal, by_torch, steps(group)))
            assert group.sum([sum(counted), sum(counted) > 0], cpu) == [3 * 7, 7]

    as_ranks(8, rank)
