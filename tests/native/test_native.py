"""The compiled core against the readable path: gradients, Muon's iterations, token steps."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from native_support import FOLDER, LLAMA, SHAPES, batch, formats, random_model, usable
from torch.nn import functional as F

from bardlet import native, sample
from bardlet.data.dataset.loader import first_seen
from bardlet.model import GPT, GPTConfig
from bardlet.native.decoding import Decoder
from bardlet.native.training import NativeGPT, fits
from bardlet.optim import Muon
from bardlet.sampling.filters import Sampling

each_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)


def test_the_core_was_compiled_where_it_can_be() -> None:
    has = torch.cpu.get_capabilities()
    if shutil.which("c++") and sys.platform != "win32" and (has.get("avx2") or has.get("neon")):
        assert {"avx2", "neon"} & set(usable())


def reference(model: GPT, idx: torch.Tensor, targets: torch.Tensor) -> float:
    """The readable path's loss in float32; its gradients are left in the model."""
    _, loss = model(idx, targets)
    assert loss is not None
    loss.backward()
    return loss.item()


@each_shape
def test_loss_and_gradients_are_the_models(build: str, config: GPTConfig) -> None:
    idx, targets = batch(config)
    expected = random_model(config)
    loss = reference(expected, idx, targets)
    for dtype, tolerance in formats(build):
        model = random_model(config)
        assert fits(model, training=True)
        core = NativeGPT(model, dtype)
        _, got = core(idx, targets)
        got.backward()
        assert got.item() == pytest.approx(loss, rel=tolerance / 10)
        for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert (p.grad - q.grad).norm() <= tolerance * q.grad.norm(), name
        with torch.no_grad():
            assert core(idx, targets)[1].item() == got.item()


def test_gradients_of_keys_are_summed_over_a_long_context(build: str) -> None:
    # 256 queries are packed at once, whose keys get theirs from those after, too
    config = dataclasses.replace(LLAMA, n_layer=1, n_kv_head=1, block_size=320)
    idx, targets = batch(config, 1)
    expected = random_model(config)
    reference(expected, idx, targets)
    for dtype, tolerance in formats(build):
        model = random_model(config)
        NativeGPT(model, dtype)(idx, targets)[1].backward()
        for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert (p.grad - q.grad).norm() <= tolerance * q.grad.norm(), name


@each_shape
def test_gradients_owe_nothing_to_what_was_in_memory(
    build: str, config: GPTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread's first chunk of sequences begins them, later ones add to them."""
    idx, targets = batch(config, size=1 + 1100 // config.block_size)  # three chunks
    expected, empty = random_model(config), torch.empty
    reference(expected, idx, targets)
    for threads in (1, 2):
        monkeypatch.setattr(native, "threads", lambda threads=threads: threads)
        model = random_model(config)
        with monkeypatch.context() as patch:

            def filled(*size: int, **how: Any) -> torch.Tensor:
                x = empty(*size, **how)
                return x.fill_(float("nan")) if x.is_floating_point() else x

            patch.setattr(torch, "empty", filled)
            NativeGPT(model, torch.float32)(idx, targets)[1].backward()
        for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert (p.grad - q.grad).norm() <= 1e-5 * q.grad.norm(), name


@each_shape
def test_documents_are_kept_apart_as_the_model_does(build: str, config: GPTConfig) -> None:
    """Loss and every gradient, with borders on and off the edges of the core's blocks."""
    idx, targets = batch(config)
    idx = idx % (config.vocab_size - 1) + 1  # 0 ends a text
    borders = [[], [0, 31], [1, 15, 17, 30], [16, config.block_size - 1], range(config.block_size)]
    for row, begins in enumerate(borders):
        idx[row, list(begins)] = 0
    first = first_seen(idx, 0)
    expected = random_model(config)
    _, loss = expected(idx, targets, first=first)
    loss.backward()
    for dtype, tolerance in formats(build):
        model = random_model(config)
        core = NativeGPT(model, dtype)
        _, got = core(idx, targets, first)
        got.backward()
        assert got.item() == pytest.approx(loss.item(), rel=tolerance / 10)
        for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert (p.grad - q.grad).norm() <= tolerance * q.grad.norm(), name
        with torch.no_grad():
            assert core(idx, targets, first)[1].item() == got.item()
            assert core(idx, targets)[1].item() != got.item()
            assert core(idx, targets, torch.zeros_like(idx))[1] == core(idx, targets)[1]


def test_positions_that_are_not_in_the_past_are_refused(build: str) -> None:
    core = NativeGPT(random_model(LLAMA), torch.float32)
    idx = torch.zeros(1, 64, dtype=torch.int64)
    for first in (idx - 1, torch.arange(64)[None] + 1):
        with pytest.raises(IndexError, match="attends to itself"):
            core(idx, idx, first)
    with pytest.raises(ValueError, match="does not fit"):
        core(idx, idx, idx[:, :32])


def test_threads_change_nothing_but_rounding(build: str) -> None:
    idx, targets = batch(LLAMA, size=7)
    before, results = torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 3, 8, 2):
            torch.set_num_threads(threads)
            model = random_model(LLAMA)
            _, loss = NativeGPT(model, torch.float32)(idx, targets)
            loss.backward()
            grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            if threads in results:
                assert torch.equal(results[threads], grads)
            results[threads] = grads
    finally:
        torch.set_num_threads(before)
    for grads in results.values():
        torch.testing.assert_close(grads, results[1], rtol=1e-4, atol=1e-6)


def test_micro_batches_add_up(build: str) -> None:
    idx, targets = batch(LLAMA, size=4)
    whole, parts = random_model(LLAMA), random_model(LLAMA)
    _, loss = NativeGPT(whole, torch.float32)(idx, targets.clamp_min(0))
    loss.backward()
    core = NativeGPT(parts, torch.float32)
    for half in (slice(0, 2), slice(2, 4)):
        _, loss = core(idx[half], targets[half].clamp_min(0))
        (loss * 0.5).backward()
    for p, q in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_dropout_drops_as_many_as_torchs(build: str) -> None:
    """A model that only embeds, and whose head is the identity, loses as many logits as torch's."""
    config = dataclasses.replace(LLAMA, dropout=0.25, vocab_size=64, n_layer=1)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.transformer["wte"].weight.fill_(1.0)
        model.transformer["ln_f"].weight.fill_(1.0)
        model.lm_head.weight.copy_(torch.eye(64))
        idx, targets = (t.repeat(20, 1) for t in batch(config, size=8))
        torch.manual_seed(1)
        got = NativeGPT(model, torch.float32)(idx, targets)[1].item()
        expected = model(idx, targets)[1].item()
        model.eval()
        undropped = model(idx, targets)[1].item()
    assert got == pytest.approx(expected, abs=0.01)
    assert abs(expected - undropped) > 0.1, "else this test would show nothing"


def test_no_target_is_no_loss(build: str) -> None:
    idx, targets = batch(LLAMA)
    model = random_model(LLAMA)
    _, loss = NativeGPT(model, torch.float32)(idx, torch.full_like(targets, -1))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("token", [-1, 65, 10**9])
def test_a_token_outside_the_vocabulary_is_refused(build: str, token: int) -> None:
    core = NativeGPT(random_model(LLAMA), torch.float32)
    for place in (0, 1):
        tokens = batch(LLAMA)
        tokens[place][2, 7] = token - place * (token < 0)  # a target of -1 does not count
        with pytest.raises(IndexError, match=r"\[0, 65\)"):
            core(*tokens)


def test_weights_that_have_moved_are_read_where_they_are(build: str) -> None:
    """And refused where the core cannot read them; what it read before is not."""
    idx, targets = batch(LLAMA)
    model, name = random_model(LLAMA), "transformer.h.1.mlp.c_proj.weight"
    core, p = NativeGPT(model, torch.float32), dict(model.named_parameters())[name]
    with torch.no_grad():
        before = core(idx, targets)[1].item()
        p.data = p.data * 2.0
        moved = core(idx, targets)[1].item()
        assert moved == NativeGPT(model, torch.float32)(idx, targets)[1].item() != before
        p.data = p.data.double()
        for _ in range(2):
            with pytest.raises(ValueError, match="float64"):
                core(idx, targets)
        p.data = p.data.float() / 2.0
        assert core(idx, targets)[1].item() == before


def test_frozen_parameters_get_no_gradient(build: str) -> None:
    idx, targets = batch(LLAMA)
    models = random_model(LLAMA), random_model(LLAMA)
    frozen = [name for name, _ in models[0].named_parameters() if "ln_" in name]
    for name, p in models[0].named_parameters():
        p.requires_grad_(name not in frozen)
    for model in models:
        NativeGPT(model, torch.float32)(idx, targets)[1].backward()
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert p.grad is None if name in frozen else torch.equal(p.grad, q.grad), name  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused(build: str) -> None:
    idx, targets = batch(LLAMA)
    core = NativeGPT(random_model(LLAMA), torch.float32)
    for wrong in (
        (idx[:, :40], targets[:, :40]),
        (idx.repeat(1, 2), targets.repeat(1, 2)),
        (idx, targets[:3]),
        (idx.int(), targets),
    ):
        with pytest.raises(ValueError, match="fit"):
            core(*wrong)


def test_backward_goes_once(build: str) -> None:
    idx, targets = batch(LLAMA)
    _, loss = NativeGPT(random_model(LLAMA), torch.float32)(idx, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_muon_without_gradients_does_nothing(build: str) -> None:
    weight = torch.nn.Parameter(torch.ones(64, 64))
    Muon([(weight, [64])], 0.02, 0.95, 0.2, torch.float32).step()
    assert torch.equal(weight, torch.ones(64, 64))


def test_a_core_of_other_sources_is_not_loaded(build: str, tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        if path.suffix in (".h", ".cpp", ".so"):
            shutil.copy(path, tmp_path)
    native.load(tmp_path / f"core-{build}.so")
    with (tmp_path / "train.h").open("a") as file:
        file.write("// changed\n")
    with pytest.raises(OSError, match="another version"):
        native.load(tmp_path / f"core-{build}.so")


def test_what_is_not_a_number_shows_in_the_loss(build: str) -> None:
    idx, targets = batch(LLAMA)
    for poison in (float("nan"), float("inf")):
        for name in ("transformer.h.1.attn.c_attn.weight", "transformer.h.0.mlp.c_proj.weight"):
            model = random_model(LLAMA)
            dict(model.named_parameters())[name].data[3, 3] = poison
            with torch.no_grad():
                assert not NativeGPT(model, torch.float32)(idx, targets)[1].isfinite()


def test_what_the_core_cannot_train_is_left_to_torch() -> None:
    for config in (
        dataclasses.replace(LLAMA, block_size=48),
        dataclasses.replace(LLAMA, n_embd=48, n_head=3),
    ):
        assert not fits(GPT(config), training=True)
    assert not fits(GPT(LLAMA).double(), training=True)


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (352, 96)])
def test_muon_steps_alike(
    build: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    weight, *gradients = (torch.randn(shape) for _ in range(4))

    def steps(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """What three steps add to the weight, and the momentum after them."""
        p = torch.nn.Parameter(weight.clone())
        optimizer = Muon([(p, [shape[0]])], 0.02, 0.95, 0.2, dtype)
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step()
        return p.detach() - weight, optimizer.state[p]["momentum"]

    results = {dtype: steps(dtype) for dtype, _ in formats(build)}
    without_core(monkeypatch)
    for dtype, tolerance in formats(build):
        (change, momentum), (expected, its_momentum) = results[dtype], steps(dtype)
        # the iterations magnify rounding of the smallest singular values
        assert (change - expected).norm() <= 2 * tolerance * expected.norm()
        torch.testing.assert_close(momentum, its_momentum, rtol=1e-5, atol=1e-6)


def without_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@each_shape
@pytest.mark.parametrize(
    ("streams", "options"),
    [(1, {"temperature": 0.0}), (3, {"top_k": 5}), (11, {"top_k": 0, "temperature": 1.3})],
)
def test_tokens_are_the_models(
    build: str, config: GPTConfig, streams: int, options: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Beyond the context, so that it slides, and from a prompt longer than one block of rows."""
    model = random_model(config)
    prompt = torch.arange(min(25, config.block_size)) % config.vocab_size
    settings = {"num_samples": streams, "max_new_tokens": config.block_size + 20}
    settings["sampling"] = Sampling(**options)
    got = torch.stack(list(sample.generate(model, prompt, **settings)))
    without_core(monkeypatch)
    expected = torch.stack(list(sample.generate(model, prompt, **settings)))
    assert got.shape == (config.block_size + 20, streams)
    # one rounding in thousands may fall across the edge between two tokens; then texts part
    assert (got == expected).float().mean() > 0.97


@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1e-31, 1e-29, 1e-6])
@pytest.mark.parametrize("top_k", [0, 3])
def test_the_coldest_text_is_the_likeliest(
    build: str, temperature: float, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = random_model(LLAMA), torch.arange(9)

    def text(temperature: float) -> list[list[int]]:
        settings = {"num_samples": 2, "max_new_tokens": 20}
        sampling = Sampling(temperature=temperature, top_k=top_k)
        steps = sample.generate(model, prompt, sampling=sampling, **settings)
        return torch.stack(list(steps)).tolist()

    likeliest = text(0.0)
    assert text(temperature) == likeliest
    without_core(monkeypatch)
    assert text(0.0) == likeliest
    assert text(temperature) == likeliest


@pytest.mark.parametrize("temperature", [1e4, 1e30, 1e38, 1e300])
def test_the_hottest_text_is_drawn_alike(
    build: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From all tokens alike, for logits this near each other tie at the edge of top_k."""
    model, texts = random_model(LLAMA), []
    for _ in range(2):
        settings = {"num_samples": 8, "max_new_tokens": 40}
        sampling = Sampling(temperature=temperature, top_k=3)
        steps = sample.generate(model, torch.arange(9), sampling=sampling, **settings)
        texts.append(torch.stack(list(steps)))
        without_core(monkeypatch)
    assert (texts[0] == texts[1]).float().mean() > 0.97  # by rounding, as above


def test_steps_in_the_builds_narrowest_format_stay_near(build: str) -> None:
    dtype, _ = formats(build)[-1]
    model = random_model(LLAMA)
    prompt = torch.arange(30)
    tokens = torch.zeros(1, 31, dtype=torch.int64)
    tokens[0, :30] = prompt
    with torch.no_grad():
        likely = model(prompt[None])[0].softmax(-1)[0, 0]
    counts = torch.zeros(65)
    decoder = Decoder(model, 1, dtype)
    for i in range(2000):
        decoder.forget()
        decoder.step(tokens, [30], [0], torch.tensor([[(i + 0.5) / 2000]]), [1.0], [0])
        counts[tokens[0, 30]] += 1
    assert (counts / 2000 - likely).abs().max() < 0.005


def test_the_last_token_can_be_drawn_and_excluded_ones_cannot(build: str) -> None:
    model = random_model(LLAMA)
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    with torch.no_grad():
        logits = model(tokens[:, :1])[0][0, 0]
    best = set(logits.topk(3).indices.tolist())
    drawn = set()
    decoder = Decoder(model, 1, torch.float32)
    for u in (0.0, 0.2, 0.4, 0.6, 0.8, 1 - 2**-24):
        decoder.forget()
        decoder.step(tokens, [1], [0], torch.tensor([[u]]), [1.0], [3])
        drawn.add(int(tokens[0, 1]))
    assert drawn <= best and len(drawn) >= 2


def test_core_can_be_switched_off() -> None:
    code = "from bardlet import native; print(native.library())"
    result = subprocess.run(
        [sys.executable, "-c", code], env={"BARDLET_CORE": "0"}, capture_output=True, text=True
    )
    assert result.stdout == "None\n", result.stderr


def test_logits_of_the_reference_are_causal_in_the_core_too(build: str) -> None:
    """A later token changes no earlier loss: the core's masks are in the right place."""
    idx, targets = batch(LLAMA, size=1)
    targets[:, 40:] = -1
    changed = idx.clone()
    changed[:, 41:] = 0
    core = NativeGPT(random_model(LLAMA), torch.float32)
    with torch.no_grad():
        assert core(idx, targets)[1] == core(changed, targets)[1]
        assert core(idx, targets)[1].item() == pytest.approx(
            F.cross_entropy(
                core.model(idx, targets)[0][0, :40], targets[0, :40], ignore_index=-1
            ).item(),
            rel=1e-5,
        )
