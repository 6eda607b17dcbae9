"""An optimizer's state that rests elsewhere: the same bits, and in one place a part at once.

On a CPU main memory is both; `tests/gpu/test_gpu.py` has the real thing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from support import a_state, tiny_model

from bardlet import optim
from bardlet.config import resolve
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.model import GPT
from bardlet.run import checkpoint
from bardlet.system import offload

CHARS = "".join(map(chr, range(97, 97 + 50)))


def built(monkeypatch: pytest.MonkeyPatch, name: str, *, wanted: bool) -> tuple[GPT, list]:
    """A model and its optimizers, whose state rests elsewhere if that is wanted."""
    monkeypatch.setattr(optim, "offloads", lambda device_type, wanted: wanted)
    monkeypatch.setattr(optim.muon, "fits", lambda *_: False)  # the core keeps all where it is
    model = tiny_model("llama", n_layer=1)
    options = {"optimizer": name, "weight_decay": 0.1, "offload": wanted}
    return model, optim.build_optimizers(
        model, resolve([("test", options)]), "cpu", torch.float32
    )  # fmt: skip


def stepped(model: GPT, optimizers: Iterable[torch.optim.Optimizer], steps: range) -> None:
    """Take these steps, with gradients that are their own."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def everything(model: GPT, optimizers: list) -> dict[str, torch.Tensor]:
    state = checkpoint.optimizer_tensors(model, optimizers)
    return {**dict(model.named_parameters()), **state}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_steps_and_checkpoints_are_the_same_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On and off, and gone on with in the other way than it was saved in."""
    monkeypatch.setattr(offload, "PART", 9000)  # several parts, and one parameter that is larger
    plain = built(monkeypatch, name, wanted=False)
    stepped(*plain, range(5))
    for first, then in ((True, False), (False, True), (True, True)):
        model, optimizers = built(monkeypatch, name, wanted=first)
        stepped(model, optimizers, range(3))
        run = tmp_path / f"{first}-{then}"
        saved = checkpoint.save(run, model, optimizers, CharTokenizer(CHARS), a_state(3))
        again, others = built(monkeypatch, name, wanted=then)
        with torch.no_grad():
            for p, q in zip(again.parameters(), model.parameters(), strict=True):
                p.copy_(q)
        checkpoint.load_optimizers(saved, again, others)
        stepped(again, others, range(3, 5))
        assert_equal(everything(again, others), everything(*plain))
    assert any(o.offload for o in others) and not any(o.offload for o in plain[1])


def test_a_part_at_once_is_where_it_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "PART", 9000)
    model, optimizers = built(monkeypatch, "adamw", wanted=True)
    (adamw,) = optimizers
    away: list[int] = []
    move = adamw.move

    def watched() -> None:
        move()
        resting = {t.untyped_storage().data_ptr() for t in adamw.offload.resting.values()}
        moments = [v for s in adamw.state.values() for v in s.values() if v.dim()]
        here = [v for v in moments if v.untyped_storage().data_ptr() not in resting]
        away.append(sum(v.nbytes for v in here))

    monkeypatch.setattr(adamw, "move", watched)
    stepped(model, optimizers, range(2))
    largest = max(p.nbytes for p in model.parameters())
    assert max(away) <= 2 * max(largest, 9000) < 2 * sum(p.nbytes for p in model.parameters())
    assert len(away) > 6 and min(away) > 0
    assert {p for g in adamw.param_groups for p in g["params"]} == set(model.parameters())


def test_what_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert offload.offloads("cuda", wanted=True) and not offload.offloads("cpu", wanted=True)
    assert not offload.offloads("cuda", wanted=False)
    model, plain = built(monkeypatch, "muon", wanted=False)
    assert offload.said(False, cuda, plain) == []
    assert offload.said(True, cpu, plain) == [
        "offload: no effect, device=cpu has no other memory"
    ]  # fmt: skip
    _, optimizers = built(monkeypatch, "muon", wanted=True)
    blocks = sum(p.numel() for n, p in model.named_parameters() if ".h." in n and p.dim() == 2)
    rest = sum(p.numel() for p in model.parameters()) - blocks
    monkeypatch.setattr(offload, "MEGABYTE", 1)
    size = 4 * blocks + 8 * rest
    assert offload.said(True, cuda, optimizers) == [
        f"offload: {size:,} MB of the optimizer's state are in main memory, and {2 * size:,} MB "
        "cross the bus in each step"
    ]
