"""Weights in 8 and 4 bits: their rounding, and logits of the core against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from native_support import SHAPES, formats, random_model

from bardlet import native, sample
from bardlet.errors import UsageError
from bardlet.interop.gguf import quant
from bardlet.model import GPT, GPTConfig
from bardlet.native import quantised
from bardlet.native.decoding import Decoder
from bardlet.sampling.filters import Sampling

each_format = pytest.mark.parametrize("weights", ["int8", "int4"])
each_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
GGUF = {"int8": "Q8_0", "int4": "Q4_0"}
# relative errors of logits: of rounding activations to 16 bits, and of bfloat16 where they are kept
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 2e-2}


def numbers(count: int = 4096) -> torch.Tensor:
    """Weights of many sizes, with zeros, equal ones and outliers among them."""
    torch.manual_seed(5)
    groups = torch.randn(count, 32) * torch.logspace(-3, 3, count)[:, None]
    groups[0], groups[1], groups[2] = 0.0, 1.0, -0.5
    groups[3, 7] = 500.0
    return groups


@each_format
def test_weights_are_rounded_to_the_nearest_of_their_group(weights: str) -> None:
    """In numpy and float64: within half a step, and within the rounding of the scale."""
    w = numbers()
    error = np.abs(quantised.rounded(w, weights).double().numpy() - w.double().numpy())
    largest = np.abs(w.double().numpy()).max(axis=1, keepdims=True)
    if weights == "int8":
        bound = largest / 127 / 2
    else:  # a weight as large as the largest, of the other sign, is cut to 7 of 8
        bound = largest / 8
        inner = np.abs(w.numpy()) < largest * 7 / 8
        assert (error[inner] <= (np.broadcast_to(largest / 8 / 2, w.shape) * 1.02)[inner]).all()
    # a float16 has 11 bits, and fewer below 2**-14
    assert (error <= bound + np.maximum(largest * 2.0**-11, 127 * 2.0**-25)).all()


@each_format
def test_the_numbers_are_those_of_gguf(weights: str) -> None:
    w = numbers()
    name = GGUF[weights]
    theirs = torch.from_numpy(quant.decode(quant.encode(w.numpy(), name), name)).view(w.shape)
    ours = quantised.rounded(w, weights)
    # of 4 bits, halves may go the other way, and the sign that a tie of the largest decides
    assert (ours != theirs).float().mean() <= (0 if weights == "int8" else 1e-3)


@each_format
def test_rounding_again_changes_nothing(weights: str) -> None:
    once = quantised.rounded(numbers(), weights)
    assert torch.equal(quantised.rounded(once, weights), once)


def decoded(
    model: GPT, contexts: list[torch.Tensor], known: list[int], dtype: torch.dtype, weights: str
) -> torch.Tensor:
    """Logits of the token after known[i] of each context, (n, V)."""
    n = len(contexts)
    decoder = Decoder(model, n, dtype, weights)
    return decoder.step(contexts, known, range(n), torch.rand(1, n), [None] * n, [0] * n)


@each_shape
@each_format
def test_logits_are_those_of_the_rounded_model(build: str, config: GPTConfig, weights: str) -> None:
    """Against torch in float64; and the core rounds a model as round_weights does."""
    model = random_model(config).eval()
    torch.manual_seed(3)
    contexts = [torch.randint(config.vocab_size, (config.block_size + 1,)) for _ in range(9)]
    known = [1, 2, 5, 9, 17, 20, 25, 30, 31]
    rounded = random_model(config).eval()
    quantised.round_weights(rounded, weights)
    exact = random_model(config).double().eval()
    exact.load_state_dict({k: v.double() for k, v in rounded.state_dict().items()})
    with torch.no_grad():
        expected = torch.stack(
            [exact(c[None, :k])[0][0, -1] for c, k in zip(contexts, known, strict=True)]
        )
    for dtype, _ in formats(build):
        logits = decoded(rounded, contexts, known, dtype, weights)
        error = (logits - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.max() <= TOLERANCE[dtype], dtype
        for i in (0, 3, 8):  # a text beside others is as it is alone
            alone = decoded(rounded, contexts[i : i + 1], known[i : i + 1], dtype, weights)
            assert torch.equal(alone[0], logits[i])
        if not config.tied:  # whose embedding is not rounded by the core
            model.get_parameter("transformer.wte.weight").data.copy_(
                rounded.get_parameter("transformer.wte.weight")
            )
            assert torch.equal(decoded(model, contexts, known, dtype, weights), logits)


@each_format
def test_the_loss_of_the_rounded_model_is_what_decoding_has(build: str, weights: str) -> None:
    """As `eval --weights` measures it, to 1e-5 nats."""
    model = random_model(SHAPES["gpt2, biases"]).eval()
    quantised.round_weights(model, weights)
    idx = torch.arange(65).remainder(33).square().remainder(33)
    with torch.no_grad():
        loss = model(idx[None, :-1], idx[None, 1:])[1].item()
    decoder, nats = Decoder(model, 1, torch.float32, weights), []
    for known in range(1, 65):
        logits = decoder.step([idx], [known], [0], torch.zeros(1, 1), [None], [0])
        nats.append(-logits[0].log_softmax(-1)[idx[known]].item())
    assert sum(nats) / 64 == pytest.approx(loss, abs=1e-5)


@each_format
def test_texts_beside_others_are_as_alone(build: str, weights: str) -> None:
    model = random_model(SHAPES["llama, grouped heads"])
    torch.manual_seed(4)
    prompts = [torch.randint(65, (int(n),)) for n in torch.randint(1, 90, (11,))]

    def written(chosen: list[int], streams: int) -> list[list[int]]:
        writer = sample.Writer(model, streams, weights=weights)
        texts = [writer.add(prompts[i], Sampling(), 40, 7, i) for i in chosen]
        while left := [text for text in texts if text.left]:
            writer.step(left)
        return [text.tokens.tolist() for text in texts]

    beside = written(list(range(11)), 16)
    assert [written([i], 1)[0] for i in (0, 4, 10)] == [beside[i] for i in (0, 4, 10)]


def test_what_is_not_a_number_shows_in_the_logits(build: str) -> None:
    config = SHAPES["llama"]
    for poison in (float("nan"), float("inf")):
        for weights in ("int8", "int4"):
            model = random_model(config)
            model.get_parameter("transformer.h.0.mlp.c_proj.weight").data[3, 3] = poison
            logits = decoded(model, [torch.arange(9)], [8], torch.float32, weights)
            assert not logits.isfinite().any()


def test_formats_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(SHAPES["llama"])
    with pytest.raises(UsageError, match="weights=int3 is not known"):
        quantised.round_weights(model, "int3")
    narrow = GPT(GPTConfig(block_size=8, vocab_size=65, n_layer=1, n_head=2, n_embd=48))
    with pytest.raises(UsageError, match="rows of 48"):
        quantised.round_weights(narrow, "int8")
    with pytest.raises(UsageError, match="needs the compiled core"):
        quantised.check_decoded(narrow, "int8")
    monkeypatch.setattr(native, "library", lambda: None)
    quantised.check_decoded(model, "auto")
    with pytest.raises(UsageError, match="needs the compiled core"):
        quantised.check_decoded(model, "int8")
