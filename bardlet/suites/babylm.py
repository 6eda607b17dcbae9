"""BabyLM's zero-shot tasks on sentences: BLiMP, its supplement, and EWoK.

As the challenge's pipeline scores a causal model (babylm-org/babylm-eval, sentence_zero_shot): the
log-probability of all tokens of a text behind the token that begins it.

blimp, supplement  pairs of sentences (Warstadt et al. 2020, arXiv:1912.00582): the grammatical one
                   is the likelier
ewok               two targets behind a context (Ivanova et al. 2024, arXiv:2405.09605): the first,
                   which fits it, is the likelier. Its authors put one target behind two contexts

The score of each is the mean over its paradigms (BLiMP's UID, EWoK's Domain) of their accuracies.
Texts that are equally likely count one half, as drawing lots would.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bardlet.errors import DataError
from bardlet.suites import files, tasks
from bardlet.suites.encoding import Encoder, UnscorableError, encoder
from bardlet.suites.likelihood import Likelihood, Scorer, Span
from bardlet.suites.suite import SuiteResult, TaskScore, task_score

DEFINITION = (
    "mean over paradigms of the accuracy on minimal pairs by summed log-probability, as BabyLM's "
    "evaluation pipeline has it (BLiMP arXiv:1912.00582, EWoK arXiv:2405.09605)"
)
GROUPS = ("blimp", "supplement", "ewok")
DEPTH = 4  # folders below the one that is named
Pair = tuple[tuple[str, str], tuple[str, str]]  # context and continuation, the better one first


def files_by_group(folder: Path) -> dict[str, list[Path]]:
    """The files of each group: of the folder that is named for it, a whole one before a fast one.

    A folder with nothing so named is BLiMP itself.
    """
    result: dict[str, list[Path]] = {}
    folders = [folder, *below(folder, DEPTH)]
    for group in GROUPS:
        named = [p for p in folders if p.name.lower().startswith(group) and data_files(p)]
        named.sort(key=lambda p: ("fast" in p.name, "filtered" not in p.name, str(p)))
        if named:
            result[group] = data_files(named[0])
    if not result:
        alone = [path for p in folders for path in data_files(p)]
        result = {"blimp": alone} if alone else {}
    if not result:
        hint = files.PUT["babylm"].format(cache="any folder")
        raise DataError(f"{folder} has no .jsonl or .parquet of BLiMP or EWoK", hint)
    return result


def below(folder: Path, depth: int) -> list[Path]:
    """The folders in and below a folder that are not hidden."""
    if not depth:
        return []
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [path for p in inner for path in (p, *below(p, depth - 1))]


def data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".jsonl", ".parquet"))


def read_group(paths: Sequence[Path], group: str) -> dict[str, list[Pair]]:
    """The pairs of a group by paradigm."""
    pairs: defaultdict[str, list[Pair]] = defaultdict(list)
    for path in paths:
        numbered = tasks.lines(str(path), str(path)) if path.suffix == ".jsonl" else enumerate(
            files.rows_of_parquet(path), start=1
        )  # fmt: skip
        for number, row in numbered:
            try:
                paradigm, pair = pair_of(row, group, path.stem)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            pairs[paradigm].append(pair)
    if not pairs:
        raise DataError(f"{paths[0].parent} has no pairs of sentences")
    return dict(pairs)


def pair_of(row: Any, group: str, stem: str) -> tuple[str, Pair]:
    """A row's paradigm, and the two texts; ValueError where a text of it is missing."""
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    if group == "ewok":
        context, first, second, domain = (
            tasks.string(row, key) for key in ("Context1", "Target1", "Target2", "Domain")
        )
        return domain, ((context, f" {first}"), (context, f" {second}"))
    good, bad = (tasks.string(row, key) for key in ("sentence_good", "sentence_bad"))
    return str(row.get("UID") or stem), (("", good), ("", bad))


def prepared(
    pairs: Sequence[Pair], encode: Encoder
) -> list[tuple[Pair, list[tuple[Span, bool]]] | UnscorableError]:
    """The spans of pairs."""
    result: list[tuple[Pair, list[tuple[Span, bool]]] | UnscorableError] = []
    for pair in pairs:
        try:
            result.append((pair, [encode.sequence(*texts) for texts in pair]))
        except UnscorableError as error:
            result.append(error)
    return result


def preferred(pair: Pair, likelihoods: Sequence[Likelihood]) -> float:
    """1 where the better text is the likelier, 0.5 where both are as likely."""
    better, worse = (one.logprob for one in likelihoods)
    return 0.5 if better == worse else float(better > worse)


def score_babylm(
    scorer: Scorer, folder: Path, max_examples: int = 0,
    progress: Callable[[str], Callable[[int], None]] = lambda name: lambda count: None,
) -> SuiteResult:  # fmt: skip
    """The scores of the groups that a folder has. `progress(group)` returns a function that is
    called with the number of its sequences that were scored.

    `max_examples` scores the first so many of each paradigm; 0: all.
    """
    encode = encoder(scorer.trained, scorer.context)
    results: list[TaskScore] = []
    scores: dict[str, float | None] = {}
    by_group = files_by_group(folder)
    for group, paths in by_group.items():
        done = progress(group)
        some = [
            task_score(name, scorer, prepared(pairs[: max_examples or None], encode), preferred,
                       done)
            for name, pairs in sorted(read_group(paths, group).items())
        ]  # fmt: skip
        scores[group], scores[f"{group}_stderr"] = macro_average(some)
        results += [dataclasses.replace(one, group=group) for one in some]
    notes = [f"no files of {group} in {folder}" for group in GROUPS if group not in by_group]
    if max_examples:
        notes.append(f"an estimate, of at most {max_examples:,} pairs a paradigm")
    if encode.prefix is None:
        notes.append("no token begins a text, so that the first of each sentence is not scored")
    return SuiteResult(
        suite="babylm", definition=DEFINITION, tasks=tuple(results), scores=scores,
        notes=tuple(notes),
    )  # fmt: skip


def macro_average(some: Sequence[TaskScore]) -> tuple[float | None, float | None]:
    """The mean of accuracies and its standard error."""
    known = [one for one in some if one.accuracy is not None]
    if not known:
        return None, None
    mean = sum(one.accuracy or 0.0 for one in known) / len(known)
    errors = [one.stderr for one in known if one.stderr is not None]
    stderr = (
        math.sqrt(sum(e * e for e in errors)) / len(known) if len(errors) == len(known) else None
    )
    return mean, stderr
