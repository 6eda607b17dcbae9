"""`bardlet eval --task` and `--suite`: a model's scores on tasks that others set."""

from __future__ import annotations

import contextlib
import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.parser import Parser
from bardlet.errors import UsageError
from bardlet.io.atomic import write_text
from bardlet.io.terminal import live_bar, say

if TYPE_CHECKING:
    from bardlet.suites.likelihood import Scorer
    from bardlet.suites.scoring import Result
    from bardlet.suites.suite import SuiteResult
    from bardlet.system.device import Machine

SUITES = ("core", "babylm")
Done = Callable[[int], None]
Begin = Callable[[str, int | None], Done]


def add_options(parser: Parser) -> None:
    """The options of tasks and suites."""
    parser.add_argument(
        "--task", action="append", default=[],
        help="JSONL of multiple choice or cloze, or - for standard input; may be given several "
        "times; default: the loss on a split",
    )  # fmt: skip
    parser.add_argument(
        "--suite", choices=SUITES, default=None, help="core or babylm; default: none"
    )
    parser.add_argument(
        "--suite_files",
        default=None,
        help="folder with the suite's files; default: the cache, or the hub's",
    )
    parser.add_argument(
        "--max_examples", type=int, default=0, help="of each task of a suite, the first; 0: all"
    )
    parser.add_argument(
        "--target_delimiter", default=" ", help="between context and choice; default a space"
    )
    parser.add_argument(
        "--examples", default=None, help="JSONL to write each example of the tasks into"
    )


def run(source: str, parsed: Namespace) -> int:
    """Score a model on the tasks and the suite that were asked for, and print the scores."""
    from bardlet.suites.scoring import score_task, sequences
    from bardlet.suites.tasks import read_task

    check(parsed)
    tasks = [read_task(path, parsed.target_delimiter) for path in parsed.task]
    folder = suite_folder(parsed)
    scorer = opened(source, parsed)
    say(f"{scorer.trained.source}, {scorer.machine.describe()}")
    results = []
    with progress() as begin:
        for task in tasks:
            results.append(score_task(scorer, task, begin(task.name, sequences(task))))
            remark(results[-1])
        suites = (
            [score_suite(parsed.suite, scorer, folder, parsed.max_examples, begin)]
            if folder
            else []
        )
    if parsed.examples:
        write_examples(Path(parsed.examples), results)
    show(scorer, results, suites, as_json=parsed.json)
    return 0


def check(parsed: Namespace) -> None:
    """Raise UsageError for values that are not allowed, and name options without an effect."""
    if parsed.batch_size < 1:
        raise UsageError(f"batch_size={parsed.batch_size} must be at least 1")
    if parsed.max_examples < 0:
        raise UsageError(f"max_examples={parsed.max_examples} must be at least 0")
    if parsed.task.count("-") > 1:
        raise UsageError("--task - was given twice, and there is one standard input")
    if parsed.examples is not None:
        path = Path(parsed.examples)
        if not path.parent.is_dir() or path.is_dir():
            raise UsageError(f"--examples={path} is not a file in an existing folder")
    idle = {
        "dataset": hasattr(parsed, "dataset"), "split": parsed.split != "val",
        "suite_files": parsed.suite_files is not None and not parsed.suite,
        "max_examples": bool(parsed.max_examples) and not parsed.suite,
        "target_delimiter": parsed.target_delimiter != " " and not parsed.task,
        "cache": parsed.cache != "auto",
        "examples": parsed.examples is not None and not parsed.task,
    }  # fmt: skip
    for name in (name for name, is_idle in idle.items() if is_idle):
        say(f"--{name} has no effect here")


def opened(source: str, parsed: Namespace) -> Scorer:
    """The model on the machine."""
    from bardlet.interop import load
    from bardlet.native import quantised
    from bardlet.suites.likelihood import Scorer
    from bardlet.system import device

    quantised.check(parsed.weights)
    trained = load.load_model(source, parsed.checkpoint)
    quantised.round_weights(trained.model, parsed.weights)
    device.tune_process()
    return Scorer(trained, machine_of(parsed), parsed.batch_size)


def machine_of(parsed: Namespace) -> Machine:
    """The machine that tasks are scored on; in float32 on a CPU unless another dtype is asked for,
    so that scores are those of other programs.
    """
    from bardlet.system import device

    machine = device.choose(parsed.device, parsed.dtype)
    if machine.device.type == "cpu" and parsed.dtype == "auto":
        machine = device.choose(parsed.device, "float32")
    return machine


def suite_folder(parsed: Namespace) -> Path | None:
    """The folder with the files of the suite, where one is asked for."""
    if not parsed.suite:
        return None
    from bardlet.suites import files

    return files.folder_of(parsed.suite, parsed.suite_files)


def score_suite(
    suite: str, scorer: Scorer, folder: Path, max_examples: int, begin: Begin
) -> SuiteResult:
    """The scores of a suite."""
    if suite == "core":
        from bardlet.suites.core import score_core as score
    else:
        from bardlet.suites.babylm import score_babylm as score
    return score(scorer, folder, max_examples, lambda name: begin(name, None))


@contextlib.contextmanager
def progress() -> Iterator[Begin]:
    """Yields begin(task, sequences), which returns a function to call with the number of sequences
    whenever some are scored: on a terminal it advances a bar. `sequences` is None where unknown.
    """
    bar = live_bar("{task.description}", "bar", "{task.completed:,.0f}", "time left")
    if bar is None:
        yield lambda name, total: lambda count: None
        return

    def begin(name: str, total: int | None) -> Done:
        for old in bar.task_ids:
            bar.remove_task(old)
        task = bar.add_task(name, total=total)
        return lambda count: bar.advance(task, count)

    with bar:
        yield begin


def remark(result: Result) -> None:
    """Say how many contexts were cut and how many examples left out."""
    if result.cut:
        of = f"{result.cut:,} of {len(result.examples):,} contexts"
        say(f"{result.task}: {of} are longer than the model sees, and count with their ends")
    for reason, count in result.left_out.items():
        say(f"{result.task}: {count:,} examples are left out: {reason}")


def write_examples(path: Path, results: Sequence[Result]) -> None:
    """Write a line of JSON for every example that was scored."""
    rows = [{"task": r.task, **example} for r in results for example in r.examples]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    say(f"{len(rows):,} examples written to {path}")


def show(
    scorer: Scorer, results: Sequence[Result], suites: Sequence[SuiteResult], *, as_json: bool
) -> None:
    """Print the scores on standard output."""
    if as_json:
        about: dict[str, Any] = {
            "checkpoint": scorer.trained.source, "iter": scorer.trained.state.iter,
            "device": str(scorer.machine.device),
            "dtype": str(scorer.machine.dtype).removeprefix("torch."),
            "tasks": [result.to_json() for result in results],
            "suites": [suite.to_json() for suite in suites],
        }  # fmt: skip
        print(json.dumps(about, ensure_ascii=False))
        return
    for result in results:
        print(
            f"{result.task}: {scores_line(result.scores)}, over {len(result.examples):,} examples"
        )
    for suite in suites:
        print(suite_table(suite))


def scores_line(scores: dict[str, float | None]) -> str:
    """Scores with their standard errors: `acc 0.2534 +- 0.0043`."""
    names = [name for name in scores if not name.endswith("_stderr")]
    return ", ".join(f"{n} {number(scores[n], scores.get(f'{n}_stderr'))}" for n in names)


def number(value: float | None, stderr: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if stderr is None else f"{value:.4f} +- {stderr:.4f}"


def suite_table(suite: SuiteResult) -> str:
    """The tasks of a suite, and its scores below them."""
    lines = []
    width = max(len(task.task) for task in suite.tasks)
    for task in suite.tasks:
        shots = f", {task.shots}-shot" if task.shots is not None else ""
        centred = f", centred {task.centred:.4f}" if task.centred is not None else ""
        out = f", {sum(task.left_out.values()):,} left out" if task.left_out else ""
        out += f", {task.cut:,} cut" if task.cut else ""
        value = number(task.accuracy, task.stderr)
        lines.append(f"{task.task:<{width}}  {value}{centred}, over {task.examples:,}{shots}{out}")
    lines.append(f"{suite.suite}: {scores_line(suite.scores)}")
    lines += [f"note: {note}" for note in suite.notes]
    return "\n".join([*lines, f"({suite.definition})"])
