"""Memory that runs out in one process of a sharded model: all go on together, with half at once."""

from __future__ import annotations

import dataclasses
import importlib
import os
import warnings
from pathlib import Path

import pytest
import torch
from support import as_ranks, events, losses, metrics, tensors, tiny_config
from torch import Tensor

from bardlet.model import MLP
from bardlet.system.distributed import here
from bardlet.train import train


def refuse(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def scarce(monkeypatch: pytest.MonkeyPatch, place: str, passes: int) -> None:
    """Let process 1 have room for one sequence: in evaluation, and from so many passes on in
    training, in the second block's forward or in the first one's backward pass.
    """
    whole, blocks, begun = MLP.forward, [], 0

    def limited(self: MLP, x: Tensor) -> Tensor:
        nonlocal begun
        blocks.extend([] if self in blocks else [self])
        begun += self.training and self is blocks[0]
        out = whole(self, x)
        if here().rank == 1 and len(x) > 1 and (begun >= passes or not self.training):
            if self is not blocks[0] and (place == "forward" or not self.training):
                refuse()
            if self is blocks[0] and place == "backward" and self.training:
                out.register_hook(refuse)
        return out

    monkeypatch.setattr(MLP, "forward", limited)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(
    ("how", "processes", "place", "passes"),
    [
        # the first block's, behind the last block's shared gradients; on two nodes of two
        ("node", 4, "backward", 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("full", 2, "forward", 2), ("full", 2, "backward", 1), ("full", 2, "backward", 2),
            ("node", 4, "forward", 1),
        )),
    ],
)  # fmt: skip
def test_all_halve_what_one_has_no_room_for(
    how: str, processes: int, place: str, passes: int, dataset_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = {"max_iters": 2, "eval_interval": 1, "learning_rate": 2e-3, "muon_lr": 2e-3}
    one = tiny_config(dataset_folder, tmp_path / "one", "llama", batch_size=1,
                      gradient_accumulation_steps=8, **options)  # fmt: skip
    train(one)
    many = dataclasses.replace(
        one, out_dir=str(tmp_path / "many"), batch_size=2, gradient_accumulation_steps=4, shard=how
    )
    importlib.import_module("torch.distributed.fsdp")  # a second, which forks need not take
    scarce(monkeypatch, place, passes)

    def work() -> None:
        os.environ["LOCAL_WORLD_SIZE"] = "2"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="out of memory")  # it is said
            train(many)

    as_ranks(processes, work)
    for kind in ("iter", "eval"):
        assert losses(many, kind) == pytest.approx(losses(one, kind), rel=1e-6)
    norms = [[line["grad_norm"] for line in metrics(run)] for run in (one, many)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    for name, tensor in tensors(one).items():
        # float32 sums in another order, which Muon magnifies
        torch.testing.assert_close(tensors(many)[name], tensor, rtol=0, atol=2e-5)
    halvings = [(e["iter"], e["batch_size"]) for e in events(many) if e["event"] == "memory"]
    assert halvings == [(0, 1)]
