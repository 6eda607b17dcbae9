"""Blocks of gradients: the same one again, but never one that something refers to still."""

from __future__ import annotations

import pytest
import torch
from support import tiny_model

from bardlet import native
from bardlet.native.blocks import Block
from bardlet.native.training import NativeGPT


def test_a_block_is_taken_again_once_nothing_refers_to_it() -> None:
    block = Block()
    taken = block.take(1000)
    place = taken.data_ptr()
    assert place % 64 == 0
    view = taken.view(10, 100)[3]
    del taken
    other = block.take(1000)  # while the view is there
    assert abs(other.data_ptr() - place) >= 4000
    view.fill_(1)
    other.fill_(2)
    assert view.tolist() == [1] * 100
    place = other.data_ptr()
    del other
    assert block.take(1000).data_ptr() == place
    assert block.take(10).shape == (10,)


@pytest.mark.skipif(native.library() is None, reason="the core was not compiled")
def test_gradients_come_to_lie_where_they_lay_and_are_added_up_as_ever() -> None:
    shape = {"block_size": 32, "n_embd": 64, "n_head": 2, "n_kv_head": 0, "mlp_dim": 64}
    model = tiny_model("llama", **shape)
    core = NativeGPT(model, torch.float32)
    idx = torch.randint(50, (3, 4, 32))
    alone = []
    for each in idx:  # as in iterations, whose gradients are let go of
        core(each, each)[1].backward()
        alone.append([p.grad.clone() for p in model.parameters()])
        places = [p.grad.data_ptr() for p in model.parameters()]
        model.zero_grad(set_to_none=True)
    core(idx[0], idx[0])[1].backward()
    assert [p.grad.data_ptr() for p in model.parameters()] == places
    for each in idx[1:]:  # as in micro-batches of one iteration
        core(each, each)[1].backward()
    for p, *parts in zip(model.parameters(), *alone, strict=True):
        torch.testing.assert_close(p.grad, sum(parts), rtol=1e-6, atol=1e-7)
