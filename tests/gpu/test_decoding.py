"""Token steps over a cache that does not change its shape: the same logits, and the same texts."""

from __future__ import annotations

import pytest
import torch
from support import tiny_model

from bardlet import native
from bardlet.gpu import decoding
from bardlet.gpu.decoding import DecodeStep
from bardlet.model import KVCache
from bardlet.sample import Writer, generate
from bardlet.sampling.filters import Sampling
from bardlet.sampling.torch_decoder import TorchDecoder

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


# of logits of up to 2: float32 has another order of sums, bfloat16 is rounded to 8 bits on the way
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


@pytest.mark.parametrize("where", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.inference_mode()
def test_a_static_step_is_the_plain_one(
    dtype: torch.dtype, where: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through two spans, and what lies behind the filled part of the cache does not count."""
    monkeypatch.setattr(decoding, "MIN_SPAN", 8)
    model = tiny_model(family).eval().to(where, dtype)
    idx = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(0)).to(where)
    cache = KVCache(model.config, 3, idx.device, dtype)
    model(idx[:, :5], cache=cache)
    for rest in (cache.k, cache.v):
        rest[:, :, :, 5:] = 1e4
    step = DecodeStep(model, cache)
    assert step.span == 8 and (step.replay is not None) == (where == "cuda")
    for at in range(5, 16):
        if at == step.span:
            cache.length = at
            step = DecodeStep(model, cache)
            assert step.span == 16
        expected, _ = model(idx[:, : at + 1])
        logits = step(idx[:, at : at + 1], at)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE[dtype])


def texts(model: torch.nn.Module, **options: object) -> list[list[int]]:
    prompt = torch.tensor([3, 1, 4])
    tokens = generate(model, prompt, num_samples=3, max_new_tokens=40, **options)  # pyright: ignore
    return torch.stack(list(tokens), dim=1).tolist()


@pytest.mark.parametrize("where", ["cpu", CUDA])
def test_texts_are_the_same(where: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the context, drawn and likeliest; one text ends before those beside it."""
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(decoding, "MIN_SPAN", 8)
    model = tiny_model(family).eval().to(where)
    steps = 0
    init = DecodeStep.__init__

    def counted(self: DecodeStep, *args: object) -> None:
        nonlocal steps
        steps += 1
        init(self, *args)  # pyright: ignore

    monkeypatch.setattr(DecodeStep, "__init__", counted)
    for sampling in (Sampling(), Sampling(temperature=0)):
        expected = texts(model, sampling=sampling, use_cache=False)
        with monkeypatch.context() as capturing:
            always = property(lambda self: True, lambda self, value: None)
            capturing.setattr(TorchDecoder, "captures", always, raising=False)
            assert texts(model, sampling=sampling) == expected
    assert steps >= 4
    writer = Writer(model, 2)
    assert isinstance(writer.decoder, TorchDecoder)
    writer.decoder.captures = True
    two = [writer.add(torch.tensor([3, 1, 4]), Sampling(), n, 1337, i) for i, n in ((0, 3), (1, 9))]
    while two[0].left:
        writer.step(two)
    writer.remove(two[0])
    while two[1].left:
        writer.step(two[1:])
    together = texts(model)
    assert [t.tokens[3:].tolist() for t in two] == [together[0][:3], together[1][:9]]
    assert len(writer.decoder.steps) == 1, "a cache that is gone takes its step with it"
