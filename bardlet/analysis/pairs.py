"""What is wrong with a run on pairs of answers, by its evaluations."""

from __future__ import annotations

from bardlet.analysis.finding import Finding
from bardlet.analysis.history import History

MIN_ITERS = 20  # of a run, before it is judged
UNDECIDED = 0.55  # accuracy on validation up to which little was learnt: chance gives 0.5
UNLEARNT = 1.5  # times the bits per byte of the chosen answers before training


def preferences_not_learnt(history: History) -> Finding | None:
    """The chosen answers of validation have no higher rewards than the rejected ones."""
    evals = [line for line in history.evals if line.get("accuracy") is not None]
    if len(evals) < 2 or evals[-1]["iter"] < MIN_ITERS or evals[-1]["accuracy"] > UNDECIDED:
        return None
    last = evals[-1]
    return Finding(
        illness="preferences not learnt", iter=None,
        evidence=f"after {last['iter']:,} iterations {last['accuracy']:.1%} of the pairs are in "
        f"order, with a reward margin of {last['reward_margin']:.3f}",
        suggestion="Raise --learning_rate threefold, or see whether the pairs agree: "
        "bardlet inspect",
    )  # fmt: skip


def answers_unlearnt(history: History) -> Finding | None:
    """The chosen answers have become far unlikelier than they were to the reference."""
    known = [line for line in history.evals if line.get("accuracy") is not None]
    evals = [line for line in known if line.get("bits_per_byte")]
    if len(evals) < 2 or evals[-1]["bits_per_byte"] <= UNLEARNT * evals[0]["bits_per_byte"]:
        return None
    first, last = evals[0]["bits_per_byte"], evals[-1]["bits_per_byte"]
    since = next(e["iter"] for e in evals if e["bits_per_byte"] > UNLEARNT * first)
    return Finding(
        illness="chosen answers unlearnt", iter=since,
        evidence=f"they took {first:.3f} bits per byte and take {last:.3f}",
        suggestion="Lower --learning_rate to a third, or raise --dpo_beta",
    )  # fmt: skip
