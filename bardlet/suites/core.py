"""CORE, the metric of DataComp-LM (Li et al. 2024, arXiv:2406.11794) as nanochat computes it.

22 tasks with few shots. The accuracy of each is centred, so that guessing gives 0 and knowing all
gives 1: (accuracy - baseline) / (1 - baseline). CORE is their mean. Shots are drawn from the task
itself, as nanochat draws them (core_eval.py and base_eval.py there): the lines are shuffled with
seed 1337, and line i draws from all others with seed 1234 + i. Of several choices the one with the
lowest mean loss per token wins; a free continuation counts where each of its tokens is the
likeliest.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bardlet.errors import DataError
from bardlet.io import schema
from bardlet.io.safe_read import read_text, regular
from bardlet.suites import files, tasks
from bardlet.suites.encoding import Encoder, UnscorableError, encoder
from bardlet.suites.likelihood import Likelihood, Scorer, Span
from bardlet.suites.suite import SuiteResult, TaskScore, task_score
from bardlet.system.optional_deps import need

DEFINITION = "mean of centred accuracies, arXiv:2406.11794 as nanochat's core_eval.py computes it"
TASKS = 22
SHUFFLE_SEED, SHOT_SEED = 1337, 1234
MC, SCHEMA, LM = "multiple_choice", "schema", "language_modeling"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CoreTask:
    """A task of core.yaml."""

    label: str
    kind: str
    file: Path
    shots: int
    delimiter: str
    baseline: float  # the accuracy of guessing


def read_tasks(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle. DataError where files are missing or damaged."""
    yaml = need("yaml", "eval", "--suite core")
    listing, table = folder / "core.yaml", folder / "eval_meta_data.csv"
    try:
        entries = yaml.safe_load(read_text(listing))["icl_tasks"]
        baselines = {
            row["Eval Task"]: float(row["Random baseline"]) / 100
            for row in csv.DictReader(io.StringIO(read_text(table)))
        }
        result = [one_task(entry, folder / "eval_data", baselines) for entry in entries]
    except FileNotFoundError as error:
        hint = files.PUT["core"].format(cache="any folder")
        raise DataError(f"{error.filename} is missing", hint) from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{listing} or {table.name} is damaged: {first}") from None
    if not result:
        raise DataError(f"{listing} has no icl_tasks")
    return result


def one_task(entry: Any, data: Path, baselines: dict[str, float]) -> CoreTask:
    """A task as core.yaml describes it; ValueError where it is not as nanochat's are."""
    schema.check(entry, {
        "label": str, "dataset_uri": str, "icl_task_type": str, "num_fewshot": [int],
        "continuation_delimiter?": str,
    })  # fmt: skip
    if entry["icl_task_type"] not in (MC, SCHEMA, LM):
        raise ValueError(f"{entry['label']} is of an unknown type {entry['icl_task_type']!r}")
    if not 0 <= (baseline := baselines[entry["label"]]) < 1:
        raise ValueError(f"{entry['label']} has a baseline of {baseline:.0%}")
    return CoreTask(
        label=entry["label"], kind=entry["icl_task_type"],
        file=regular(data / entry["dataset_uri"], data), shots=entry["num_fewshot"][0],
        delimiter=entry.get("continuation_delimiter", " "), baseline=baseline,
    )  # fmt: skip


def read_rows(task: CoreTask, max_examples: int) -> list[Row]:
    """The lines of a task, shuffled as nanochat shuffles them, and the first of these."""
    rows: list[Row] = []
    for number, row in tasks.lines(str(task.file), str(task.file)):
        try:
            check(row, task.kind)
        except ValueError as error:
            raise DataError(f"{task.file}, line {number}: {error}") from None
        rows.append(row)
    if not rows:
        raise DataError(f"{task.file} has no examples")
    random.Random(SHUFFLE_SEED).shuffle(rows)
    return rows[:max_examples] if max_examples else rows


def check(row: Any, kind: str) -> None:
    """Raise ValueError where a line is not of its kind of task."""
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    for key in {MC: ("query",), SCHEMA: ("continuation",), LM: ("context", "continuation")}[kind]:
        tasks.string(row, key)
    if kind != LM:
        options = tasks.texts(row, "choices" if kind == MC else "context_options")
        if type(row.get("gold")) is not int or not 0 <= row["gold"] < len(options):
            raise ValueError(
                f"its gold {row.get('gold')!r} is not one of its {len(options)} options"
            )


def shots_of(rows: Sequence[Row], i: int, count: int) -> list[Row]:
    """The lines that are shown before line i, answers and all."""
    others = [j for j in range(len(rows)) if j != i]
    drawn = random.Random(SHOT_SEED + i).sample(others, min(count, len(others)))
    return [rows[j] for j in drawn]


def prompts(row: Row, task: CoreTask, shots: Sequence[Row]) -> list[str]:
    """The texts whose ends are scored, one for each option; or without continuation and with it."""
    d = task.delimiter
    if task.kind == MC:
        before = "".join(f"{s['query']}{d}{s['choices'][s['gold']]}\n\n" for s in shots)
        return [f"{before}{row['query']}{d}{choice}" for choice in row["choices"]]
    if task.kind == SCHEMA:
        before = "".join(
            f"{s['context_options'][s['gold']]}{d}{s['continuation']}\n\n" for s in shots
        )
        return [f"{before}{option}{d}{row['continuation']}" for option in row["context_options"]]
    before = "".join(f"{s['context'].strip()}{d}{s['continuation']}\n\n" for s in shots)
    prompt = f"{before}{row['context'].strip()}{d}"
    return [prompt.strip(), prompt + row["continuation"]]


def spans_of(texts: Sequence[str], kind: str, encode: Encoder) -> list[tuple[Span, bool]]:
    """The spans to score: behind what all begin with, or, of a schema, what all end with."""
    begin = () if encode.prefix is None else (encode.prefix,)
    ids = [(*begin, *encode.ids(text)) for text in texts]
    if kind == SCHEMA:
        same = common([one[::-1] for one in ids])
        return [encode.span(one, len(one) - same) for one in ids]
    same = common(ids)
    return [encode.span(one, same) for one in (ids[1:] if kind == LM else ids)]


def common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    pairs = enumerate(zip(*sequences, strict=False))
    return next((i for i, some in pairs if len(set(some)) > 1), min(map(len, sequences)))


def correct(row: Row, kind: str, likelihoods: Sequence[Likelihood]) -> bool:
    """Whether the model has an example right."""
    if kind == LM:
        return likelihoods[0].greedy
    losses = [-one.logprob / one.tokens for one in likelihoods]
    return losses.index(min(losses)) == row["gold"]


def score_core_task(
    scorer: Scorer, task: CoreTask, max_examples: int, done: Callable[[int], None]
) -> TaskScore:
    """The score of one task, centred."""
    encode = encoder(scorer.trained, scorer.context)
    # nanochat cuts the whole sequence to the context, the token that is not an input too
    encode = replace(encode, context=scorer.context - 1)
    rows = read_rows(task, max_examples)
    prepared: list[tuple[Row, list[tuple[Span, bool]]] | UnscorableError] = []
    for i, row in enumerate(rows):
        texts = prompts(row, task, shots_of(rows, i, task.shots))
        try:
            prepared.append((row, spans_of(texts, task.kind, encode)))
        except UnscorableError as error:
            prepared.append(error)
    values = task_score(
        task.label, scorer, prepared, lambda row, some: float(correct(row, task.kind, some)), done
    )
    return replace(values, baseline=task.baseline, shots=task.shots, kind=task.kind)


def score_core(
    scorer: Scorer, folder: Path, max_examples: int = 0,
    progress: Callable[[str], Callable[[int], None]] = lambda name: lambda count: None,
) -> SuiteResult:  # fmt: skip
    """The CORE metric of a model, by the files of a bundle.

    `progress(task)` returns a function that is called with the number of its sequences that were
    scored. `max_examples` scores that many of each task, as nanochat's max_per_task does; 0: all.
    """
    known = read_tasks(folder)
    scores = tuple(score_core_task(scorer, t, max_examples, progress(t.label)) for t in known)
    centred = [score.centred for score in scores if score.centred is not None]
    notes = []
    if len(centred) < len(scores):
        notes.append(
            f"{len(scores) - len(centred)} tasks have no example that this model can score"
        )
    if len(known) != TASKS:
        notes.append(f"the folder has {len(known)} tasks, CORE has {TASKS}")
    if max_examples:
        notes.append(f"an estimate, of at most {max_examples:,} examples a task")
    return SuiteResult(
        suite="core", definition=DEFINITION, tasks=scores, notes=tuple(notes),
        scores={"core": sum(centred) / len(centred) if centred else None},
    )  # fmt: skip
