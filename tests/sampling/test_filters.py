"""The choice of a token: filters on hand-made numbers, and all together against transformers'."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import transformers

from bardlet.errors import UsageError
from bardlet.sampling import filters
from bardlet.sampling.filters import Sampling, choose, filtered, keep_top_k, pick

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


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
    assert choose(LOGITS, torch.tensor([0.99]), Sampling(temperature=0)).tolist() == [1]


def test_temperature_divides_the_logits() -> None:
    # p^2 / sum(p^2) = [1, 16, 4, 9] / 30 at temperature one half
    for u, token in [(0.03, 0), (0.04, 1), (0.56, 1), (0.57, 2), (0.69, 2), (0.71, 3)]:
        assert choose(LOGITS, torch.tensor([u]), Sampling(temperature=0.5, top_k=0)).tolist() == [
            token
        ]


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.39, [1]), (0.4, [1]), (0.41, [1, 3]), (0.7, [1, 3]), (0.71, [1, 2, 3]),
     (0.95, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3]), (1e-8, [1])],
)  # fmt: skip
def test_top_p_keeps_the_fewest_likeliest_that_reach_it(p: float, kept: list[int]) -> None:
    # probabilities 0.1 0.4 0.2 0.3, in float64 so that sums are these to 1e-15
    logits = filters.keep_top_p(LOGITS.double() + 1e-12, p - 1e-9)
    assert torch.isfinite(logits[0]).nonzero().flatten().tolist() == kept


@pytest.mark.parametrize(
    ("p", "kept"), [(0, [0, 1, 2, 3]), (0.24, [0, 1, 2, 3]), (0.26, [1, 2, 3]), (0.51, [1, 3]),
                    (0.76, [1]), (1, [1])],
)  # fmt: skip
def test_min_p_is_a_share_of_the_likeliest(p: float, kept: list[int]) -> None:
    logits = filters.keep_min_p(LOGITS, p)
    assert torch.isfinite(logits[0]).nonzero().flatten().tolist() == kept


def test_penalties_by_hand() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0, 0.5]])
    prompt, written = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 2, 1, 0]])

    def after(**options: float) -> list[float]:
        sampling = Sampling(temperature=1, top_k=0, **options)
        return filtered(logits, sampling, prompt, written)[0].tolist()

    assert after(repetition_penalty=2.0) == [0.5, -2.0, 1.0, 0.5]  # of the prompt too
    assert after(presence_penalty=0.5) == [1.0, -1.5, 1.5, 0.5]
    assert after(frequency_penalty=0.5) == [1.0, -2.0, 1.5, 0.5]
    assert after(logit_bias=((3, 2.0), (0, -100.0))) == [-99.0, -1.0, 2.0, 2.5]
    assert logits.tolist() == [[1.0, -1.0, 2.0, 0.5]]  # as they were
    likeliest = Sampling(temperature=0, presence_penalty=3.0)
    assert choose(logits, torch.tensor([0.5]), likeliest, prompt, written).tolist() == [0]


def test_all_filters_together_are_transformers() -> None:
    """Its processors in its order, on texts of random tokens; same logits to 1e-6."""
    shape = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=50, n_positions=32)
    model = transformers.GPT2LMHeadModel(shape)  # for its list of processors alone
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (8, 20), generator=generator)
    counts = torch.stack([torch.bincount(row, minlength=50) for row in ids]).float()
    for seed in range(40):
        logits = 4 * torch.randn(8, 50, generator=generator)
        options = {
            "repetition_penalty": 1 + seed % 3 / 2, "temperature": 0.3 + seed / 20,
            "top_k": 3 + seed, "top_p": 0.5 + seed / 100, "min_p": seed / 400,
        }  # fmt: skip
        config = transformers.GenerationConfig(do_sample=True, **options)
        processors = model._get_logits_processor(config, 20, device="cpu")
        expected = processors(ids, logits.clone())
        got = filtered(logits, Sampling(**options), counts, torch.zeros_like(counts))
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        assert torch.isfinite(got).sum(-1).min() >= 1


def test_which_choices_the_core_makes_itself() -> None:
    assert Sampling().plain and Sampling(temperature=0, top_k=3).plain
    for other in ({"top_p": 0.9}, {"min_p": 0.1}, {"repetition_penalty": 1.1},
                  {"presence_penalty": 0.1}, {"frequency_penalty": -0.1},
                  {"logit_bias": ((1, 1.0),)}):  # fmt: skip
        assert not Sampling(**other).plain
    assert len(dataclasses.fields(Sampling)) == 8, "a new one belongs in the list above"


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1},
     {"top_p": 0}, {"top_p": 1.1}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": 1.5},
     {"repetition_penalty": 0}, {"repetition_penalty": math.inf}, {"presence_penalty": math.nan},
     {"frequency_penalty": -math.inf}, {"logit_bias": ((1, math.nan),)}],
)  # fmt: skip
def test_what_cannot_be_sampled_with(wrong: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}[= ]"):
        Sampling(**wrong)
