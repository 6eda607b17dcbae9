"""Tasks scored as lm-evaluation-harness scores them: accuracies with standard errors, perplexity.

acc        the likeliest choice is the right one; of a cloze, each token of the target is the
           likeliest in its place
acc_norm   likewise with log-probabilities divided by the characters of the choice
acc_bytes  by its bytes in UTF-8; the same as acc_norm for English
perplexity e to the mean of minus the target's log-probability, an example at a time
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bardlet.suites.encoding import UnscorableError, encoder, left_out
from bardlet.suites.likelihood import Likelihood, Scorer, Span
from bardlet.suites.statistics import mean_stderr
from bardlet.suites.tasks import Cloze, Example, MultipleChoice, Task


@dataclass(frozen=True, kw_only=True)
class Result:
    """A task's scores, of all examples and of each."""

    task: str
    kind: str
    scores: dict[str, float | None]  # by name, with a _stderr beside each
    examples: tuple[dict[str, Any], ...]  # JSON values; those that were scored
    cut: int  # examples whose context was longer than the model sees
    left_out: dict[str, int] = field(default_factory=dict)  # examples, by reason

    def to_json(self) -> dict[str, Any]:
        """The scores without the single examples."""
        return {
            "task": self.task, "kind": self.kind, "examples": len(self.examples), **self.scores,
            "cut": self.cut, "left_out": self.left_out,
        }  # fmt: skip


def score_task(
    scorer: Scorer, task: Task, done: Callable[[int], None] = lambda count: None
) -> Result:
    """The scores of a task. `done` is called with the number of sequences whenever some are scored.

    DataError where not one example can be scored by this model.
    """
    encode = encoder(scorer.trained, scorer.context)
    spans: list[Span] = []
    scored: list[tuple[Example, int]] = []
    reasons: Counter[str] = Counter()
    cut = 0
    for example in task.examples:
        try:
            pairs = [encode.pair(*texts) for texts in requests(example)]
        except UnscorableError as error:
            reasons[str(error)] += 1
            continue
        scored.append((example, len(pairs)))
        spans += [span for span, _ in pairs]
        cut += any(was_cut for _, was_cut in pairs)
    left_out(reasons, len(task.examples), task.name)
    likelihoods = iter(scorer.score(spans, done))
    rows = [judged(e, [next(likelihoods) for _ in range(n)]) for e, n in scored]
    return Result(
        task=task.name, kind=task.kind, scores=averages(rows, task.kind), examples=tuple(rows),
        cut=cut, left_out=dict(reasons),
    )  # fmt: skip


def requests(example: Example) -> list[tuple[str, str]]:
    """The contexts and continuations whose likelihoods decide an example."""
    if isinstance(example, Cloze):
        return [(example.context, example.target)]
    return [(example.context, example.delimiter + choice) for choice in example.choices]


def sequences(task: Task) -> int:
    """How many sequences are to be scored."""
    return sum(len(requests(example)) for example in task.examples)


def judged(example: Example, likelihoods: Sequence[Likelihood]) -> dict[str, Any]:
    """What an example came to, as JSON values."""
    logprobs = [one.logprob for one in likelihoods]
    if isinstance(example, Cloze):
        return {
            "line": example.line, "target": example.target, "logprob": logprobs[0],
            "tokens": likelihoods[0].tokens, "acc": int(likelihoods[0].greedy),
        }  # fmt: skip
    by_characters, by_bytes = normalised(example, logprobs)
    predicted = [int(np.argmax(values)) for values in (logprobs, by_characters, by_bytes)]
    correct = [int(one == example.answer) for one in predicted]
    return {
        "line": example.line, "answer": example.answer, "predicted": predicted[0],
        "predicted_norm": predicted[1], "logprobs": logprobs,
        "tokens": [one.tokens for one in likelihoods],
        "acc": correct[0], "acc_norm": correct[1], "acc_bytes": correct[2],
    }  # fmt: skip


def normalised(
    example: MultipleChoice, logprobs: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The log-probabilities per character and per byte of the choices."""
    pairs = list(zip(logprobs, example.choices, strict=True))
    by_characters = [logprob / len(choice) for logprob, choice in pairs]
    by_bytes = [logprob / len(choice.encode("utf-8", "surrogatepass")) for logprob, choice in pairs]
    return by_characters, by_bytes


def averages(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, float | None]:
    """The scores of a task by name, with their standard errors."""
    names = ("acc", "acc_norm", "acc_bytes") if kind == "multiple_choice" else ("acc",)
    scores: dict[str, float | None] = {}
    for name in names:
        scores[name], scores[f"{name}_stderr"] = mean_stderr([row[name] for row in rows])
    if kind == "cloze":
        mean, stderr = mean_stderr([row["logprob"] for row in rows])
        perplexity = math.exp(min(-mean, 700.0))
        # of a function of a mean: its slope times the mean's own (the delta method)
        scores["perplexity"] = perplexity
        scores["perplexity_stderr"] = None if stderr is None else perplexity * stderr
    return scores
