"""The engine of an exported page against `bardlet sample`: texts, scores, random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_page import described, engine_page
from support import ALPHABET, tiny_model, trained

from bardlet.analysis import attention
from bardlet.sample import generate, uniform_numbers
from bardlet.sampling.filters import Sampling
from bardlet.serve.completion import prompt_logprobs

MAKE = """([data, weights, options]) => {
  globalThis.engine = new lab.Engine(data, lab.bytes(weights), null, options);
}"""
WRITE = """([ids, options]) => [...engine.generate(ids, options)]"""
FILTERS = [{"temperature": 0.0}, {"temperature": 1.0, "top_k": 0}, {"temperature": 0.7, "top_k": 5},
           {"temperature": 1.3, "top_k": 0, "top_p": 0.8},
           {"temperature": 1.0, "top_k": 0, "min_p": 0.05}]  # fmt: skip


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    with engine_page(browser) as one:
        yield one


def made(tab: Any, family: str, **options: Any) -> Any:
    """An engine of a random model in the tab; returns the model."""
    model = tiny_model(family, vocab_size=len(ALPHABET)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 3  # texts of a model that is sure of something
    tab.evaluate(MAKE, [*described(trained(model)), options])
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_texts_are_those_of_sample(tab: Any, family: str, options: dict[str, Any]) -> None:
    """Beyond the context too, which slides; with the same seed, the same draws."""
    model = made(tab, family)
    prompt = [1, 5, 2]
    count = 3 * model.config.block_size
    ours = generate(
        model, torch.tensor(prompt), max_new_tokens=count, sampling=Sampling(**options), seed=7,
        use_cache=False,
    )  # fmt: skip
    told = tab.evaluate(WRITE, [prompt, {"max_new_tokens": count, "seed": 7, **options}])
    assert [one["id"] for one in told] == [int(token) for token in ours]


def test_a_prompt_beyond_the_context_is_gone_on_with(tab: Any) -> None:
    model = made(tab, "llama")
    prompt = [i % len(ALPHABET) for i in range(3 * model.config.block_size + 1)]
    greedy = {"temperature": 0.0, "max_new_tokens": 9}
    ours = generate(
        model, torch.tensor(prompt), max_new_tokens=9, sampling=Sampling(temperature=0),
        use_cache=False,
    )  # fmt: skip
    told = tab.evaluate(WRITE, [prompt, greedy])
    assert [one["id"] for one in told] == [int(token) for token in ours]


def test_scores_are_those_of_the_server(tab: Any) -> None:
    model = made(tab, "gpt2")
    ids = [int(i) for i in np.random.default_rng(0).integers(0, len(ALPHABET), 40)]
    ours = prompt_logprobs(model, ids, 20)
    told = tab.evaluate("(ids) => engine.score(ids)", ids)
    assert told[0] == {"logprob": None, "top": []}
    for one, other in zip(ours, told[1:], strict=True):
        assert other["logprob"] == pytest.approx(one.logprob, abs=1e-4)
        assert [i for i, _ in other["top"]] == [i for i, _ in one.top]
        assert [p for _, p in other["top"]] == pytest.approx([p for _, p in one.top], abs=1e-4)
    # what is known from the last text is not computed again
    changed = [*ids[:20], 3, *ids[21:]]
    other = tab.evaluate("(ids) => engine.score(ids)", changed)
    fresh = prompt_logprobs(model, changed)
    assert [one["logprob"] for one in other[1:]] == pytest.approx(
        [one.logprob for one in fresh], abs=1e-4
    )
    assert other[:20] == told[:20]
    written = tab.evaluate(WRITE, [ids[:4], {"max_new_tokens": 3, "seed": 1}])
    again = tab.evaluate("(ids) => engine.score(ids)", [*ids[:4], *(one["id"] for one in written)])
    for one, other in zip(written, again[4:], strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-5)


def test_attention_weights_are_torchs(tab: Any) -> None:
    model = made(tab, "llama")
    ids = [1, 2, 3, 1, 2, 9, 4]
    ask = (
        "(ids) => { const a = engine.attention(ids); return [a.n_layer, a.n_head, [...a.weights]] }"
    )
    told = tab.evaluate(ask, ids)
    ours = attention.trace(model, ids).attention.numpy()
    assert told[:2] == list(ours.shape[:2])
    assert np.array(told[2]).reshape(ours.shape) == pytest.approx(ours, abs=1e-5)


def test_questions_between_do_not_change_a_text(tab: Any) -> None:
    made(tab, "llama")
    plain = tab.evaluate(WRITE, [[1, 2], {"max_new_tokens": 12}])
    between = """(ids) => {
      const all = [];
      for (const token of engine.generate(ids, { max_new_tokens: 12 })) {
        all.push(token);
        engine.logits([3, 4, 5, all.length]);
        engine.attention([1, 2]);
      }
      return all;
    }"""
    assert tab.evaluate(between, [1, 2]) == plain


def test_a_text_ends_before_the_token_that_ends_texts(tab: Any) -> None:
    model = tiny_model("gpt2", vocab_size=len(ALPHABET) + 1).eval()
    with torch.no_grad():
        model.lm_head.weight[-1] = model.lm_head.weight[0] * 5
    tab.evaluate(MAKE, [*described(trained(model, ends=True)), {}])
    told = tab.evaluate(WRITE, [[1], {"max_new_tokens": 200, "temperature": 1, "top_k": 0}])
    assert len(told) < 200
    assert len(ALPHABET) not in [one["id"] for one in told]


@pytest.mark.parametrize(
    ("ids", "why"), [([], "no text"), ([99], "from 0 to"), ([0.5], "a number")]
)
def test_ids_that_cannot_be_are_refused(tab: Any, ids: list[float], why: str) -> None:
    made(tab, "gpt2")
    with pytest.raises(Exception, match=why):
        tab.evaluate("(ids) => engine.logits(ids)", ids)


def test_random_numbers_are_torchs(tab: Any) -> None:
    draw = """([seed, number, count]) => {
      const random = new lab.Random(seed, number);
      return Array.from({ length: count }, () => random.next());
    }"""
    for seed, number in ((0, 0), (1337, 3), (2**32 - 1, 17)):
        ours = uniform_numbers(2000, seed, number).double().tolist()
        assert tab.evaluate(draw, [seed, number, 2000]) == ours
