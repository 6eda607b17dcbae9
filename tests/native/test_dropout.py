"""The compiled core's dropout: the reference under the same masks, their statistics, training."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest
import torch
from native_support import LLAMA, SHAPES, batch, formats, random_model
from torch import Tensor
from torch.nn import functional as F

import bardlet.model
from bardlet.model import GPT, GPTConfig
from bardlet.native.training import NativeGPT, fits

RATE = 0.3
CONFIGS = {
    "llama": LLAMA,
    "gpt2": dataclasses.replace(SHAPES["gpt2"], block_size=64),
    "gpt2, biases": SHAPES["gpt2, biases"],
}
each_config = pytest.mark.parametrize(
    "config", [dataclasses.replace(c, dropout=RATE) for c in CONFIGS.values()], ids=CONFIGS
)


def mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return x ^ x >> np.uint32(16)


def masks(seed: int, site: int, rows: int, columns: int, rate: float = RATE) -> Tensor:
    """What native/src/dropout.h multiplies with at a site: (rows, columns), 0 or 1 / (1 - rate)."""
    row = np.arange(rows, dtype=np.uint32)[:, None]
    column = np.arange(columns, dtype=np.uint32)
    key = mix(np.uint32(seed) + mix(np.uint32(site) + mix(row)))
    kept = mix(key + column * np.uint32(0x9E3779B9)) >= np.uint32(np.float32(rate) * 2**32)
    return torch.from_numpy(kept).float() / (1 - rate)


def seed_after(seed: int) -> int:
    """What the core draws from torch's generator after manual_seed(seed)."""
    torch.manual_seed(seed)
    drawn = int(torch.randint(1 << 31, ()))
    torch.manual_seed(seed)
    return drawn


def use_masks(monkeypatch: pytest.MonkeyPatch, config: GPTConfig, seed: int) -> None:
    """Let the readable model take the core's masks, in the order in which it drops."""
    sites = iter(range(1 + 2 * config.n_layer))
    layers = iter(range(config.n_layer))

    def dropout(x: Tensor, p: float, training: bool) -> Tensor:
        assert training and p == RATE
        return x * masks(seed, next(sites), x[..., 0].numel(), x.size(-1)).view_as(x)

    def attend(q: Tensor, k: Tensor, v: Tensor, p: float, mask: Tensor | None) -> Tensor:
        assert mask is None and p == RATE
        B, H, T, D = q.shape
        first = 1 + 2 * config.n_layer + next(layers) * H
        kept = torch.stack([masks(seed, first + h, B * T, T).view(B, T, T) for h in range(H)], 1)
        future = torch.full((T, T), -math.inf).triu(1)
        return ((q @ k.mT / math.sqrt(D) + future).softmax(-1) * kept) @ v

    monkeypatch.setattr(F, "dropout", dropout)
    if not config.llama:
        monkeypatch.setattr(bardlet.model, "attend", attend)


@each_config
def test_loss_and_gradients_are_the_models_under_the_same_masks(
    build: str, config: GPTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    idx, targets = batch(config)
    results = {}
    for dtype, _ in formats(build):
        model = random_model(config)
        assert fits(model, training=True)
        torch.manual_seed(5)
        _, loss = NativeGPT(model, dtype)(idx, targets)
        loss.backward()
        results[dtype] = loss.item(), [p.grad for p in model.parameters()]
    expected = random_model(config)
    use_masks(monkeypatch, config, seed_after(5))
    _, loss = expected(idx, targets)
    loss.backward()
    for dtype, tolerance in formats(build):
        got, grads = results[dtype]
        assert got == pytest.approx(loss.item(), rel=tolerance / 5)
        for grad, (name, p) in zip(grads, expected.named_parameters(), strict=True):
            assert (grad - p.grad).norm() <= 1.5 * tolerance * p.grad.norm(), name


@each_config
def test_gradients_are_the_slope_of_the_loss(build: str, config: GPTConfig) -> None:
    """Along a random direction, against the difference of two losses under the same masks."""
    idx, targets = batch(config)
    model = random_model(config)
    core = NativeGPT(model, torch.float32)

    def loss(seed: int = 5) -> Tensor:
        torch.manual_seed(seed)
        return core(idx, targets)[1]

    loss().backward()
    params = list(model.parameters())
    directions = [torch.randn_like(p) * p.std().clamp_min(0.1) for p in params]
    slope = sum((p.grad * d).sum().item() for p, d in zip(params, directions, strict=True))
    ends = []
    with torch.no_grad():
        for step in (2e-3, -2e-3):
            torch._foreach_add_(params, directions, alpha=step)
            ends.append(loss().item())
            torch._foreach_add_(params, directions, alpha=-step)
        assert slope == pytest.approx((ends[0] - ends[1]) / 4e-3, rel=0.02, abs=0.02)
        assert loss().item() != loss(6).item()
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        assert loss().item() == pytest.approx(loss().item(), rel=1e-6)
        torch.set_num_threads(before)
        model.eval()
        assert loss().item() == loss(6).item()


def test_masks_keep_their_share_independently() -> None:
    """As torch's: Bernoulli of 1 - rate, whatever stands beside, above or at another site."""
    drawn = torch.stack([masks(7, site, 256, 256) for site in (0, 1, 2, 40)])  # (4, 256, 256)
    n = drawn.numel()
    sd = math.sqrt(RATE / (1 - RATE))  # of one number whose mean is 1
    assert drawn.mean().item() == pytest.approx(1, abs=4 * sd / math.sqrt(n))
    assert drawn.var().item() == pytest.approx(sd**2, rel=0.02)
    for line in (drawn.mean(2), drawn.mean(1)):  # of each row and of each column
        assert line.std().item() == pytest.approx(sd / 16, rel=0.1)
    near = drawn - 1
    for other in (near.roll(1, 2), near.roll(1, 1), near.roll(1, 0), near.mT):
        assert (near * other).mean().item() / sd**2 == pytest.approx(0, abs=4.5 / math.sqrt(n))


def test_the_loss_has_the_same_mean_and_spread_over_masks_as_torchs() -> None:
    """Of a single layer whose attention decides: its values are large, its softmax is not flat."""
    config = dataclasses.replace(CONFIGS["gpt2"], block_size=32, dropout=RATE, n_layer=1)
    idx, targets = batch(config, size=1)
    model = random_model(config)
    with torch.no_grad():
        for p in model.transformer["h"][0].attn.parameters():
            p.mul_(8)
    core = NativeGPT(model, torch.float32)

    @torch.no_grad()
    def score(forward: torch.nn.Module, seed: int) -> float:
        torch.manual_seed(seed)
        return forward(idx, targets)[1].item()

    n = 300
    by_core, by_torch = ([score(forward, seed) for seed in range(n)] for forward in (core, model))
    sd, its_sd = statistics.stdev(by_core), statistics.stdev(by_torch)
    error = math.hypot(sd, its_sd) / math.sqrt(n)  # of the difference between their means
    assert abs(statistics.mean(by_core) - statistics.mean(by_torch)) < 4 * error
    assert sd == pytest.approx(its_sd, rel=4 / math.sqrt(n))  # the ratio's error is 1 / sqrt(n)
    model.eval()
    assert abs(statistics.mean(by_torch) - score(model, 0)) > 4 * error, "it would show nothing"


def train(forward: torch.nn.Module, model: GPT, seed: int) -> float:
    """The mean loss of the last iterations of a tiny run on a repeating text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    text = torch.arange(4000).pow(2) % 61  # (4000,)
    torch.manual_seed(seed)
    last = []
    for it in range(30):
        torch.manual_seed(seed * 1000 + it)
        starts = torch.randint(len(text) - 33, (4, 1)) + torch.arange(33)
        windows = text[starts]
        loss = forward(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if it >= 20:
            last.append(loss.item())
    return statistics.mean(last)


def test_a_run_ends_where_torchs_does() -> None:
    """Other masks, same course: means over seeds differ by no more than seeds among themselves."""
    config = dataclasses.replace(CONFIGS["gpt2"], block_size=32, n_layer=1, dropout=0.2)
    ends: dict[bool, list[float]] = {True: [], False: []}
    for by_core, finals in ends.items():
        for seed in range(3):
            torch.manual_seed(seed)
            model = GPT(config)
            finals.append(train(NativeGPT(model, torch.float32) if by_core else model, model, seed))
    core, torchs = ends[True], ends[False]
    assert statistics.mean(core) < 3.5 < math.log(65)
    error = math.hypot(statistics.stdev(core), statistics.stdev(torchs)) / math.sqrt(3)
    assert abs(statistics.mean(core) - statistics.mean(torchs)) < max(4 * error, 0.02)
