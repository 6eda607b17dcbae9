"""What a suite comes to: its tasks, and the scores over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bardlet.suites.encoding import UnscorableError
from bardlet.suites.likelihood import Likelihood, Scorer, Span
from bardlet.suites.statistics import mean_stderr

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The accuracy of one task of a suite; None where no example could be scored."""

    task: str
    accuracy: float | None
    stderr: float | None
    examples: int
    cut: int = 0  # examples whose context was longer than the model sees
    left_out: dict[str, int] = field(default_factory=dict)  # examples, by reason
    group: str = ""
    kind: str = ""
    baseline: float | None = None  # the accuracy of guessing, where the suite centres
    shots: int | None = None

    @property
    def centred(self) -> float | None:
        """0 for guessing, 1 for all."""
        if self.accuracy is None or self.baseline is None:
            return None
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    def to_json(self) -> dict[str, Any]:
        """The fields that are known."""
        values = {**vars(self), "centred": self.centred}
        return {key: value for key, value in values.items() if value not in (None, "")}


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """The scores of a suite."""

    suite: str
    definition: str
    tasks: tuple[TaskScore, ...]
    scores: dict[str, float | None]
    notes: tuple[str, ...] = ()  # why a score may not be what its name says

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "suite": self.suite, "definition": self.definition, "scores": self.scores,
            "notes": list(self.notes), "tasks": [task.to_json() for task in self.tasks],
        }  # fmt: skip


def task_score(
    name: str, scorer: Scorer,
    prepared: Sequence[tuple[T, list[tuple[Span, bool]]] | UnscorableError],
    value: Callable[[T, Sequence[Likelihood]], float],
    done: Callable[[int], None],
) -> TaskScore:  # fmt: skip
    """The mean of `value` of each example and its spans' likelihoods."""
    reasons = Counter(str(one) for one in prepared if isinstance(one, UnscorableError))
    usable = [one for one in prepared if not isinstance(one, UnscorableError)]
    likelihoods = iter(scorer.score([span for _, spans in usable for span, _ in spans], done))
    values = [value(example, [next(likelihoods) for _ in spans]) for example, spans in usable]
    accuracy, stderr = mean_stderr(values) if values else (None, None)
    return TaskScore(
        task=name, accuracy=accuracy, stderr=stderr, examples=len(values),
        cut=sum(any(cut for _, cut in spans) for _, spans in usable), left_out=dict(reasons),
    )  # fmt: skip
