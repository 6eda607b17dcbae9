"""Sampling: filters on hand-made numbers, and generation against the slow way."""

from __future__ import annotations

import math

import pytest
import torch
from support import tiny_model

from bardlet.errors import UsageError
from bardlet.sample import choose, generate, keep_top_k, pick, uniform_numbers

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


def written(model: torch.nn.Module, prompt: list[int], **options: object) -> torch.Tensor:
    """All new tokens, (num_samples, max_new_tokens)."""
    options = {"max_new_tokens": 12, **options}
    return torch.stack(list(generate(model, torch.tensor(prompt), **options)), dim=1)


@pytest.mark.parametrize(
    ("u", "token"),
    [(0.0, 0), (0.09, 0), (0.11, 1), (0.49, 1), (0.51, 2), (0.71, 3), (0.9999999, 3)],
)
def test_pick_inverts_the_cumulative_distribution(u: float, token: int) -> None:
    assert pick(LOGITS, torch.tensor([u])).tolist() == [token]


def test_pick_never_draws_what_has_no_probability() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    drawn = {int(pick(logits, torch.tensor([u]))) for u in torch.linspace(0, 0.99999994, 101)}
    assert drawn == {1, 3}


def test_pick_follows_the_distribution() -> None:
    u = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(pick(LOGITS.expand(20000, -1), u), minlength=4) / 20000
    # three standard deviations of a share near one half
    torch.testing.assert_close(drawn, torch.tensor([0.1, 0.4, 0.2, 0.3]), rtol=0, atol=0.011)


def test_top_k_keeps_the_largest_and_ties() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0], [0.0, 1.0, 1.0, 1.0]])
    kept = keep_top_k(logits, 2)
    assert torch.isfinite(kept).tolist() == [[False, True, False, True], [False, True, True, True]]
    assert torch.equal(keep_top_k(logits, 0), logits)
    assert torch.equal(keep_top_k(logits, 4), logits) and torch.equal(keep_top_k(logits, 9), logits)


def test_temperature_zero_takes_the_likeliest() -> None:
    assert choose(LOGITS, torch.tensor([0.99]), 0.0, 0).tolist() == [1]


def test_temperature_divides_the_logits() -> None:
    # p^2 / sum(p^2) = [1, 16, 4, 9] / 30 at temperature one half
    for u, token in [(0.03, 0), (0.04, 1), (0.56, 1), (0.57, 2), (0.69, 2), (0.71, 3)]:
        assert choose(LOGITS, torch.tensor([u]), 0.5, 0).tolist() == [token]


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
    wide, narrow = uniform_numbers(5, 7, seed=3), uniform_numbers(2, 7, seed=3)
    assert wide.shape == (7, 5)
    assert torch.equal(wide[:, :2], narrow)
    assert wide.min() >= 0 and wide.max() < 1


def test_greedy_text_follows_the_model(family: str) -> None:
    model = tiny_model(family).eval()
    tokens = [4, 8]
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens]))[0].argmax()))
    assert written(model, [4, 8], temperature=0.0).tolist() == [tokens[2:]]


def test_no_new_tokens_is_no_text() -> None:
    assert list(generate(tiny_model("llama"), torch.tensor([1]), max_new_tokens=0)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"num_samples": 0}, {"max_new_tokens": -1}, {"temperature": -0.1}, {"top_k": -1}, {"seed": -1},
     {"temperature": math.nan}, {"temperature": math.inf}],
)  # fmt: skip
def test_what_cannot_be_sampled_with(wrong: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}="):
        list(generate(tiny_model("llama"), torch.tensor([1]), **wrong))
