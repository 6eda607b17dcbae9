"""What the doctor sees in a run on pairs."""

from __future__ import annotations

import pytest

from bardlet.analysis.doctor import diagnose
from bardlet.analysis.history import History


def run_of(accuracies: list[float], bits: list[float]) -> History:
    """A run that was evaluated every 10 iterations."""
    evals = [
        {"iter": 10 * i, "train_loss": 0.69 - i / 100, "val_loss": 0.69 - i / 100,
         "bits_per_byte": size, "reward_margin": accuracy - 0.5, "accuracy": accuracy}
        for i, (accuracy, size) in enumerate(zip(accuracies, bits, strict=True))
    ]  # fmt: skip
    iters = [
        {"iter": i, "loss": 0.69 - i / 1000, "grad_norm": 0.5, "lr": 1e-4}
        for i in range(10 * len(evals) - 9)
    ]
    return History(iters=iters, evals=evals, events=[], start={"vocab_size": 300})


@pytest.mark.parametrize(
    ("accuracies", "bits", "illnesses"),
    [
        ([0.0, 0.7, 0.9], [1.0, 1.1, 1.2], []),
        ([0.0, 0.5, 0.52], [1.0, 1.0, 1.0], ["preferences not learnt"]),
        ([0.0, 0.9, 0.9], [1.0, 1.6, 2.0], ["chosen answers unlearnt"]),
        ([0.0, 0.5], [1.0, 1.0], []),  # ten iterations are too few to judge
    ],
)
def test_illnesses_of_pairs(
    accuracies: list[float], bits: list[float], illnesses: list[str]
) -> None:
    findings = diagnose(run_of(accuracies, bits))
    assert [finding.illness for finding in findings] == illnesses
    if illnesses == ["chosen answers unlearnt"]:
        assert findings[0].iter == 10
