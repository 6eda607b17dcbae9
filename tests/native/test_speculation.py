"""Guesses change no token: texts with them are those without, for any guesser and every filter."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from native_support import SHAPES, formats, random_model
from torch import Tensor

from bardlet import native, sample
from bardlet.model import GPT, GPTConfig
from bardlet.native.decoding import Decoder, twins
from bardlet.native.speculation import Draft, Guesser, Lookup, Pace
from bardlet.sampling.filters import Sampling

pytestmark = pytest.mark.skipif(native.library() is None, reason="the core was not compiled")
CONFIG = SHAPES["llama, grouped heads"]
FILTERS = {
    "greedy": Sampling(temperature=0.0),
    "plain": Sampling(),
    "all": Sampling(temperature=1.3, top_k=0),
    "nucleus": Sampling(top_p=0.8, min_p=0.01),
    "penalties": Sampling(
        repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, logit_bias=((3, 2.0),)
    ),
    "greedy, penalties": Sampling(temperature=0.0, frequency_penalty=0.2),
}


def written(
    model: GPT, sampling: Sampling, guesser: Guesser | None, count: int = 110,
    dtype: torch.dtype = torch.float32, weights: str = "auto",
) -> tuple[list[int], int]:  # fmt: skip
    """A text beyond the context, and in how many steps it was written."""
    writer = sample.Writer(model, 1, dtype, weights=weights, guesser=guesser)
    writer.pace.took = lambda *_, **__: None  # a machine's speed decides nothing here
    writer.pace.rest = 0
    text = writer.add(torch.arange(9), sampling, count, 5)
    steps = 0
    while text.left:
        before = text.length
        tokens, logits = writer.step([text])
        assert tokens.T.tolist() == [text.tokens[before : text.length].tolist()]
        assert len(logits) == 0
        steps += 1
    return text.tokens.tolist(), steps


class Oracle:
    """Guesses a text that is known, but for every third token."""

    def __init__(self, text: list[int]) -> None:
        self.text = torch.tensor(text)

    def guess(self, tokens: Tensor, uniform: Tensor, temperature: float, top_k: int) -> Tensor:
        guesses = self.text[len(tokens) :][: len(uniform)].clone()
        places = torch.arange(len(tokens), len(tokens) + len(guesses))
        guesses[places % 7 == 0] = 1
        return guesses


@pytest.mark.parametrize("sampling", FILTERS.values(), ids=FILTERS)
def test_texts_are_those_without_guesses(build: str, sampling: Sampling) -> None:
    model = random_model(CONFIG)
    draft = random_model(dataclasses.replace(CONFIG, n_layer=1, block_size=32))
    expected, _ = written(model, sampling, None)
    for guesser in (Lookup(), Draft(draft, torch.float32, "int4"), Oracle(expected)):
        assert written(model, sampling, guesser)[0] == expected, type(guesser)


@pytest.mark.parametrize("weights", ["auto", "int8", "int4"])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_in_every_format_and_shape(build: str, config: GPTConfig, weights: str) -> None:
    for dtype, _ in formats(build):
        model = random_model(config)
        expected, _ = written(model, Sampling(), None, 60, dtype, weights)
        guesser = Oracle(expected)
        assert written(model, Sampling(), guesser, 60, dtype, weights)[0] == expected


def test_right_guesses_save_steps() -> None:
    model = random_model(CONFIG)
    expected, _ = written(model, Sampling(), None, 80)
    assert written(model, Sampling(), Draft(model, torch.float32, "auto"), 80)[1] < 40
    assert written(model, Sampling(), Oracle(expected), 80)[1] < 50
    repeating = random_model(dataclasses.replace(CONFIG, tie_embeddings=True, n_layer=1))
    greedy, steps = written(repeating, Sampling(temperature=0.0), Lookup(), 80)
    assert len(set(greedy[20:])) < 20, "else this test would show nothing"
    assert steps < 60


def test_lookup_takes_what_followed_last() -> None:
    uniform, lookup = torch.zeros(3), Lookup()

    def guessed(*tokens: int) -> list[int]:
        return lookup.guess(torch.tensor(tokens), uniform, 0.8, 0).tolist()

    assert guessed(1, 2, 3) == []
    assert guessed(1, 2, 3, 4, 5, 6, 1, 2, 3) == [4, 5, 6]
    assert guessed(1, 2, 3, 4, 5, 6, 1, 2, 3, 9, 1, 2, 3) == [9, 1, 2]
    assert guessed(7, 7, 7, 7) == [7]
    assert guessed(2, 3) == []


def test_guesses_rest_where_they_do_not_pay() -> None:
    pace = Pace()
    for guessed, seconds, tokens, rest in (
        (False, 4.0, 2, 2), (False, 4.0, 2, 0),  # 2 s a token without
        (True, 3.0, 3, 0), (True, 8.0, 2, 64),  # 1 and then 4: 2.5 on average
        (False, 32.0, 16, 48), (False, 64.0, 32, 16), (False, 60.0, 16, 0),  # 2, then 3.75
        (True, 2.0, 1, 0),
    ):  # fmt: skip
        pace.took(seconds, tokens, guessed)
        assert pace.rest == rest


def test_the_pace_follows_what_was_right() -> None:
    pace = Pace()
    for guesses, right, count in ((3, 3, 5), (5, 5, 7), (7, 2, 2), (2, 0, 1), (1, 1, 3)):
        pace.adjust_count(guesses, right)
        assert pace.count == count
    for _ in range(20):
        pace.adjust_count(4, 4)
    assert pace.count == 15


def test_guesses_that_do_not_fit_are_refused() -> None:
    decoder = Decoder(random_model(CONFIG), 1, torch.float32)
    context = torch.zeros(200, dtype=torch.int64)
    for known, outputs in ((3, 4), (97, 2), (40, 17), (40, 0)):
        with pytest.raises(ValueError, match="guesses"):
            decoder.verify(context, known, 0, torch.zeros(outputs), 0.8, 0)
    context[5] = 65
    with pytest.raises(IndexError, match="token ids"):
        decoder.verify(context, 9, 0, torch.zeros(2), 0.8, 0)


@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_samples_of_one_prompt_share_its_computation(build: str, weights: str) -> None:
    """And each is as it is alone, on whatever streams they are."""
    model = random_model(CONFIG)
    prompts = [torch.arange(n) % 65 for n in (70, 9, 70, 70, 9, 1)]
    contexts = [prompt.clone() for prompt in prompts]
    contexts[3][5] = 64
    lengths = [len(prompt) for prompt in prompts]
    assert twins(contexts, [0] * 6, lengths) == [-1, -1, 0, -1, 1, -1]
    assert twins(contexts, [0, 4, 69, 0, 4, 0], lengths) == [-1] * 6
    assert twins(contexts[:1], [0], lengths[:1]) == [-1]

    def texts(prompts: list[Tensor], numbers: list[int], streams: int) -> list[list[int]]:
        writer = sample.Writer(model, streams, weights=weights)
        for _ in range(streams - len(prompts)):  # the first streams are in use
            writer.add(torch.zeros(1, dtype=torch.int64), Sampling(), 1, 1)
        texts = [writer.add(p, Sampling(), 40, 3, i) for p, i in zip(prompts, numbers, strict=True)]
        while any(text.left for text in texts):
            writer.step(texts)
        return [text.tokens.tolist() for text in texts]

    together = texts(contexts, list(range(6)), 9)
    assert together == [texts([contexts[i]], [i], 1)[0] for i in range(6)]
