"""Sampling: generation against the slow way, and texts side by side against each alone."""

from __future__ import annotations

import pytest
import torch
from support import tiny_model

from bardlet import native
from bardlet.errors import UsageError
from bardlet.sample import Text, Writer, generate, uniform_numbers
from bardlet.sampling.filters import Sampling


def written(model: torch.nn.Module, prompt: list[int], **options: object) -> torch.Tensor:
    """All new tokens, (num_samples, max_new_tokens)."""
    choice = {name: options.pop(name) for name in list(options) if hasattr(Sampling, name)}
    options = {"max_new_tokens": 12, "sampling": Sampling(**choice), **options}
    return torch.stack(list(generate(model, torch.tensor(prompt), **options)), dim=1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 10, 16, 40])
def test_cached_text_equals_uncached(family: str, temperature: float, length: int) -> None:
    model = tiny_model(family)  # a context of 16, so that all of these slide
    prompt = [(7 * i) % 50 for i in range(length)]
    options = {"num_samples": 3, "max_new_tokens": 30, "temperature": temperature, "top_k": 20}
    fast, slow = (written(model, prompt, use_cache=c, **options) for c in (True, False))
    assert fast.shape == (3, 30)
    assert torch.equal(fast, slow)


def test_a_batch_equals_one_by_one(family: str) -> None:
    model = tiny_model(family)
    batch = written(model, [1, 2], num_samples=4, temperature=1.0, seed=5)
    assert len({tuple(row.tolist()) for row in batch}) == 4
    for n in (1, 2, 3):
        assert torch.equal(
            written(model, [1, 2], num_samples=n, temperature=1.0, seed=5), batch[:n]
        )


def test_the_seed_decides(family: str) -> None:
    model = tiny_model(family)
    first = written(model, [3], temperature=1.0, seed=1)
    assert torch.equal(first, written(model, [3], temperature=1.0, seed=1))
    assert not torch.equal(first, written(model, [3], temperature=1.0, seed=2))


def test_random_numbers_of_a_sample_do_not_depend_on_the_others() -> None:
    first, second = uniform_numbers(7, seed=3), uniform_numbers(7, seed=3, number=1)
    assert first.shape == (7,) and not torch.equal(first, second)
    assert torch.equal(uniform_numbers(7, seed=3, number=1), second)
    assert first.min() >= 0 and first.max() < 1


def test_greedy_text_follows_the_model(family: str) -> None:
    model = tiny_model(family).eval()
    tokens = [4, 8]
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens]))[0].argmax()))
    assert written(model, [4, 8], temperature=0.0).tolist() == [tokens[2:]]


def test_no_new_tokens_is_no_text() -> None:
    assert list(generate(tiny_model("llama"), torch.tensor([1]), max_new_tokens=0)) == []


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"max_new_tokens": -1}, {"seed": -1}])
def test_what_cannot_be_sampled_with(wrong: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}="):
        list(generate(tiny_model("llama"), torch.tensor([1]), **wrong))


CHOICES = [
    Sampling(temperature=1.0),
    Sampling(temperature=1.0, top_p=0.9),
    Sampling(temperature=0.0, repetition_penalty=1.3),
    Sampling(temperature=0.7, min_p=0.1, logit_bias=((3, -100.0),)),
    Sampling(temperature=1.2, top_k=9, presence_penalty=0.5, frequency_penalty=0.2),
]


def text(i: int, writer: Writer) -> Text:
    """The i-th of different texts: of its own prompt, length and choice."""
    prompt = torch.arange(1, 2 + 5 * i % 23) % 50
    return writer.add(prompt, CHOICES[i % len(CHOICES)], 5 + 7 * i % 20, seed=i)


@pytest.mark.parametrize("core", [True, False])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_text_does_not_depend_on_those_that_come_and_go(
    family: str, core: bool, use_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve on four streams: as one ends another begins, beyond the context too."""
    model = tiny_model(family, n_embd=64, n_head=2)
    if not core:
        monkeypatch.setattr(native, "library", lambda: None)
    alone = []
    for i in range(12):
        writer = Writer(model, 1, use_cache=use_cache)
        one = text(i, writer)
        while one.left:
            writer.step([one])
        alone.append(one.tokens.tolist())
    writer = Writer(model, 4, use_cache=use_cache)
    waiting, here, together = list(range(12)), {}, {}
    for turn in range(1000):
        while waiting and writer.free:
            i = waiting.pop(0)
            here[i] = text(i, writer)
        now = [i for i in here if turn % 3 or i % 2 or len(here) == 1]  # not all at every turn
        if now:
            writer.step([here[i] for i in now])
        for i in [i for i in here if not here[i].left]:
            together[i] = here[i].tokens.tolist()
            writer.remove(here.pop(i))
        if not waiting and not here:
            break
    assert [together[i] for i in range(12)] == alone


def test_logits_are_the_models_before_any_filter(family: str) -> None:
    model = tiny_model(family, n_embd=64, n_head=2).eval()
    writer = Writer(model, 2)
    texts = [
        writer.add(torch.arange(n), Sampling(temperature=0, logit_bias=((7, 100.0),)), 4, seed=1)
        for n in (3, 9)
    ]
    for _ in range(4):
        before = [text.tokens[: text.length].clone() for text in texts]
        tokens, logits = writer.step(texts, logits=texts)
        assert tokens.tolist() == [[7, 7]]
        expected = torch.cat([model(tokens[None])[0][:, -1] for tokens in before])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
