"""Keys and values in 8 bits: their rounding, and logits of the core against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from native_support import SHAPES, formats, random_model

from bardlet import native, sample
from bardlet.errors import UsageError
from bardlet.model import GPT, GPTConfig
from bardlet.native import quantised
from bardlet.native.decoding import Decoder
from bardlet.sampling.filters import Sampling

each_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
# relative errors of logits: queries and weights of values have 16 bits, and so have activations of
# integer weights, which may round a key or a value behind them to another integer of 8 bits
TOLERANCE = {
    (torch.float32, "auto"): 3e-3, (torch.float32, "int8"): 1e-2,
    (torch.bfloat16, "auto"): 5e-2, (torch.bfloat16, "int8"): 5e-2,
}  # fmt: skip


def test_keys_and_values_are_rounded_to_the_nearest() -> None:
    """In numpy and float64: within half a step of the largest; zeros and equal numbers exactly."""
    torch.manual_seed(5)
    rows = torch.randn(2000, 64) * torch.logspace(-6, 6, 2000)[:, None]
    rows[0], rows[1], rows[2] = 0.0, 1.0, -0.5
    rows[3, 7] = 500.0
    rounded = quantised.rounded_rows(rows).double().numpy()
    exact = rows.double().numpy()
    largest = np.abs(exact).max(axis=1, keepdims=True)
    assert (np.abs(rounded - exact) <= largest / 127 / 2 * (1 + 1e-4)).all()
    assert np.allclose(rounded[:3], exact[:3], rtol=1e-6)
    steps = rounded / np.maximum(largest / 127, 1e-30)
    assert np.abs(steps - steps.round()).max() < 1e-3


def decoder_of(model: GPT, streams: int, dtype: torch.dtype, weights: str = "auto") -> Decoder:
    """A decoder in whose memory nothing is a number before it is written."""
    decoder = Decoder(model, streams, dtype, weights, "int8")
    decoder.memory.block.fill_(255)
    return decoder


def exact_logits(model: GPT, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (T, V) in float64 with keys and values rounded to int8."""
    exact = GPT(model.config).double().eval()
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    cache = quantised.rounding_cache(exact, 1, "int8")
    with torch.no_grad():
        return exact(tokens[None], tokens[None], cache)[0][0]


def stepped(decoder: Decoder, contexts: list[torch.Tensor], known: list[int]) -> torch.Tensor:
    """Logits (3, n, V) behind prompts of known[i] tokens, and behind one and two tokens more."""
    n = len(contexts)
    return torch.stack([
        decoder.step(
            contexts, [length + step for length in known], range(n), torch.zeros(1, n), [None] * n,
            [0] * n,
        )
        for step in range(3)
    ])  # fmt: skip


@each_shape
def test_logits_are_those_of_rounded_keys_and_values(build: str, config: GPTConfig) -> None:
    """Of prompts and of steps behind them, beside others and alone, with integer weights too."""
    model = random_model(config).eval()
    quantised.round_weights(model, "int8")
    torch.manual_seed(3)
    contexts = [torch.randint(config.vocab_size, (config.block_size + 1,)) for _ in range(7)]
    known = [1, 2, 5, 15, 17, 25, 30]
    exact = [exact_logits(model, context[:32]) for context in contexts]
    right = torch.stack([
        torch.stack([exact[i][length + step - 1] for i, length in enumerate(known)])
        for step in range(3)
    ])  # fmt: skip
    for dtype, _ in formats(build):
        for weights in ("auto", "int8"):
            logits = stepped(decoder_of(model, 7, dtype, weights), contexts, known)
            error = (logits - right).norm(dim=-1) / right.norm(dim=-1)
            assert error.max() <= TOLERANCE[dtype, weights], (dtype, weights)
            for i in (3, 6):
                decoder = decoder_of(model, 1, dtype, weights)
                alone = stepped(decoder, contexts[i : i + 1], known[i : i + 1])
                assert torch.equal(alone[:, 0], logits[:, i])


def test_the_loss_with_rounded_keys_and_values_is_what_decoding_has(build: str) -> None:
    """As `eval --cache` measures it, to 1e-4 nats."""
    model = random_model(SHAPES["gpt2, biases"]).eval()
    idx = torch.arange(65).remainder(33).square().remainder(33)
    scored = quantised.RoundedCacheGPT(model, "int8")
    with torch.no_grad():
        loss = scored(idx[None, :-1], idx[None, 1:])[1].item()
        assert loss != model(idx[None, :-1], idx[None, 1:])[1].item()
    decoder, nats = decoder_of(model, 1, torch.float32), []
    for known in range(1, 65):
        logits = decoder.step([idx], [known], [0], torch.zeros(1, 1), [None], [0])
        nats.append(-logits[0].log_softmax(-1)[idx[known]].item())
    assert sum(nats) / 64 == pytest.approx(loss, abs=1e-4)


def test_texts_beside_others_are_as_alone(build: str) -> None:
    """Beyond the context, with prompts of several lengths and two that are alike."""
    model = random_model(SHAPES["llama, grouped heads"])
    torch.manual_seed(4)
    prompts = [torch.randint(65, (int(n),)) for n in torch.randint(1, 90, (11,))]
    prompts[9] = prompts[4]

    def written(chosen: list[int], streams: int) -> list[list[int]]:
        writer = sample.Writer(model, streams, cache="int8")
        texts = [writer.add(prompts[i], Sampling(), 40, 7, i) for i in chosen]
        while left := [text for text in texts if text.left]:
            writer.step(left)
        return [text.tokens.tolist() for text in texts]

    beside = written(list(range(11)), 16)
    for i in (0, 4, 9, 10):
        assert written([i], 1)[0] == beside[i]


def test_a_large_head_does_not_overflow(build: str) -> None:
    """The sums of a query with keys of 1,024 numbers, all of them as large as they become."""
    config = GPTConfig(family="llama", block_size=32, vocab_size=65, n_layer=1, n_head=1,
                       n_embd=32, head_dim=1024)  # fmt: skip
    model = random_model(config).eval()
    attention = model.get_parameter("transformer.h.0.attn.c_attn.weight").data
    attention[:2048] = attention[:1]  # each query, and each key, is one number again and again
    tokens = torch.arange(20)
    logits = decoder_of(model, 1, torch.float32).step(
        [tokens], [20], [0], torch.zeros(1, 1), [None], [0]
    )
    right = exact_logits(model, tokens)[-1]
    assert (logits[0] - right).norm() <= 1e-3 * right.norm()


def test_what_is_not_a_number_shows_in_the_logits(build: str) -> None:
    for poison in (float("nan"), float("inf")):
        model = random_model(SHAPES["llama"])
        model.get_parameter("transformer.h.0.attn.c_attn.weight").data[-3, 3] = poison
        logits = decoder_of(model, 1, torch.float32).step(
            [torch.arange(9)], [8], [0], torch.zeros(1, 1), [None], [0]
        )
        assert not logits.isfinite().any()


def test_caches_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cache=int4 is not known"):
        quantised.check("auto", "int4")
    monkeypatch.setattr(native, "library", lambda: None)
    quantised.check_decoded(random_model(SHAPES["llama"]), "auto", "auto")
    with pytest.raises(UsageError, match="cache=int8 needs the compiled core"):
        quantised.check_decoded(random_model(SHAPES["llama"]), "auto", "int8")
