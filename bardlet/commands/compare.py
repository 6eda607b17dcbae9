"""`bardlet compare`: models side by side, with the differences that matter."""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands import eval_tasks
from bardlet.commands.parser import Parser, parse
from bardlet.errors import CheckpointError, DataError, UsageError
from bardlet.io.safe_read import read_text
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.interop.verify import Trained
    from bardlet.suites.comparison import Pair
    from bardlet.suites.losses import TextLosses
    from bardlet.suites.scoring import Result
    from bardlet.suites.tasks import Task
    from bardlet.system.device import Machine

WARM_TOKENS, TIMED_TOKENS = 16, 128  # of the text that sampling's speed is measured on
ROWS = (  # of the table: key, name, format
    ("bits_per_byte", "bits per byte", "{:.4f}"), ("loss", "loss, nats per token", "{:.4f}"),
    ("parameters", "parameters", "{:,}"), ("bytes", "weights on disk, bytes", "{:,}"),
    ("iter", "iterations", "{:,}"), ("training_s", "training, seconds", "{:,.1f}"),
    ("tokens_per_s", "sampling, tokens/s", "{:,.0f}"),
)  # fmt: skip


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "runs", nargs="*", default=[], help="two or more runs, checkpoints or models"
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), last or iter-...")
    parser.add_argument("--dataset", default="", help="of all of them; default: each one's own")
    parser.add_argument("--text", default="", help="UTF-8 file in place of a dataset's split")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="default val")
    parser.add_argument("--task", action="append", default=[], help="JSONL, as for `bardlet eval`")
    parser.add_argument("--target_delimiter", default=" ", help="of tasks; default a space")
    parser.add_argument("--batch_size", type=int, default=16, help="windows at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parsed = parse(parser, args)
    if len(parsed.runs) < 2:
        raise UsageError("compare needs two runs or more", "bardlet compare out/one out/two")
    if len(set(parsed.runs)) < len(parsed.runs):
        raise UsageError("a run is named twice")
    if parsed.batch_size < 1:
        raise UsageError(f"batch_size={parsed.batch_size} must be at least 1")
    compare(parsed)
    return 0


def compare(parsed: Namespace) -> None:
    """Measure every model, and print them side by side."""
    from bardlet.data.tokenizers.base import fingerprint
    from bardlet.interop import load
    from bardlet.suites.comparison import pairs_of_losses, pairs_of_tasks
    from bardlet.suites.tasks import read_task
    from bardlet.system import device

    tasks = [read_task(path, parsed.target_delimiter) for path in parsed.task]
    text = text_of(parsed.text)
    device.tune_process()
    machine = device.choose(parsed.device, parsed.dtype)
    facts: dict[str, dict[str, Any]] = {}
    losses: dict[str, TextLosses] = {}
    scores: dict[str, list[Result]] = {}
    notes = []
    for name in parsed.runs:
        trained = load.load_model(name, parsed.checkpoint)
        facts[name] = {**facts_of(trained), "tokenizer": fingerprint(trained.tokenizer)}
        try:
            losses[name] = measured(trained, machine, parsed, text)
            one = losses[name]
            facts[name] |= {"loss": one.loss, "bits_per_byte": one.bits_per_byte,
                            "tokens": len(one.nats)}  # fmt: skip
        except DataError as error:
            if parsed.dataset or parsed.text:
                raise
            notes.append(f"{name} has no loss: {error.message}")
        scores[name] = task_results(trained, tasks, parsed)
        facts[name]["tasks"] = [result.to_json() for result in scores[name]]
        facts[name]["tokens_per_s"] = sampling_speed(trained, machine)
    pairs = [*pairs_of_losses(losses), *pairs_of_tasks(scores)]
    same_tokens = len({one["tokenizer"] for one in facts.values()}) == 1
    if not same_tokens:
        notes.append("the models have different tokenizers: nats per token do not compare, "
                     "bits per byte do")  # fmt: skip
    if len({one.text for one in losses.values()}) > 1:
        notes.append("the models were measured on different texts: their losses do not compare. "
                     "--dataset or --text gives them one")  # fmt: skip
    if pairs:
        notes.append("an interval is over texts and examples: it says nothing of other seeds")
    show(parsed, facts, pairs, notes, machine, same_tokens=same_tokens)


def text_of(path: str) -> str:
    """The text of a file, where one is named. DataError where it cannot be read."""
    if not path:
        return ""
    try:
        text = read_text(Path(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(f"cannot read {path}: {reason}", "--text takes a file of text") from None
    if not text:
        raise DataError(f"{path} is empty")
    return text


def facts_of(trained: Trained) -> dict[str, Any]:
    """What a model says of itself: sizes, and how it was trained."""
    from bardlet.analysis import history

    facts: dict[str, Any] = {
        "checkpoint": trained.source, "iter": trained.state.iter or None,
        "parameters": trained.model.num_params(), "context": trained.model.config.block_size,
        "training_s": None,
    }  # fmt: skip
    source = Path(trained.source)
    files = [source] if source.is_file() else [*source.glob("*.safetensors")]
    weights = [path for path in files if path.name != "optimizer.safetensors"]
    facts["bytes"] = sum(path.stat().st_size for path in weights) or None
    run = source.parent.parent if source.parent.name == "checkpoints" else source
    try:
        lines = history.read(run).iters
    except (CheckpointError, OSError):
        return facts
    done, seconds = 0, 0.0
    for line in lines:  # each stands for those since the one before
        if line["iter"] < trained.state.iter and line.get("time_ms"):
            seconds += line["time_ms"] / 1000 * (line["iter"] + 1 - done)
            done = line["iter"] + 1
    facts["training_s"] = seconds or None
    return facts


def measured(trained: Trained, machine: Machine, parsed: Namespace, text: str) -> TextLosses:
    """The losses of a model on the text that is named, or on its dataset's split."""
    from bardlet.data.dataset import mixture
    from bardlet.data.tokenizers.base import fingerprint
    from bardlet.interop import origin
    from bardlet.suites import losses
    from bardlet.suites.likelihood import Scorer

    scorer = Scorer(trained, machine, parsed.batch_size)
    name = parsed.dataset or origin.dataset_of(trained)
    if not text and not name:
        raise DataError("it was not trained here", "Name the data with --dataset or --text")
    with eval_tasks.progress() as begin:
        if text:
            return losses.of_text(scorer, text, begin(parsed.text, None))
        data = mixture.opened(name)
        if fingerprint(data.tokenizer) != fingerprint(trained.tokenizer):
            raise DataError(
                f"{data.folder} was prepared with another tokenizer than {trained.source}",
                "--text compares models with different tokenizers on one text",
            )
        return losses.of_split(scorer, data, parsed.split, begin(name, None))


def task_results(trained: Trained, tasks: Sequence[Task], parsed: Namespace) -> list[Result]:
    """The scores of tasks, as `bardlet eval` gives them."""
    from bardlet.suites.likelihood import Scorer
    from bardlet.suites.scoring import score_task, sequences

    if not tasks:
        return []
    scorer = Scorer(trained, eval_tasks.machine_of(parsed), parsed.batch_size)
    results = []
    with eval_tasks.progress() as begin:
        for task in tasks:
            results.append(score_task(scorer, task, begin(task.name, sequences(task))))
            eval_tasks.remark(results[-1])
    return results


def sampling_speed(trained: Trained, machine: Machine) -> float:
    """Tokens per second of one text, by a writer that has begun."""
    import torch

    from bardlet.sample import Writer
    from bardlet.sampling.filters import Sampling

    writer = Writer(trained.model, 1, machine.dtype)
    text = writer.add(torch.tensor([0]), Sampling(), WARM_TOKENS + TIMED_TOKENS, seed=1337)
    while text.length <= WARM_TOKENS:
        writer.step([text])
    left, start = text.left, time.perf_counter()
    while text.left:
        writer.step([text])
    return left / (time.perf_counter() - start)


def show(
    parsed: Namespace, facts: Mapping[str, dict[str, Any]], pairs: Sequence[Pair],
    notes: Sequence[str], machine: Machine, *, same_tokens: bool,
) -> None:  # fmt: skip
    """Print the models side by side."""
    if parsed.json:
        print(json.dumps({
            "models": [{"name": name, **values} for name, values in facts.items()],
            "differences": [pair.to_json() for pair in pairs], "notes": list(notes),
            "device": str(machine.device), "dtype": str(machine.dtype).removeprefix("torch."),
            "nats_compare": same_tokens,
        }, ensure_ascii=False))  # fmt: skip
        return
    rows = [["", *facts]]
    for key, label, form in ROWS:
        if key != "loss" or same_tokens:
            rows.append([label, *(cell(one.get(key), form) for one in facts.values())])
    first = next(iter(facts.values()))
    for i, task in enumerate(first["tasks"]):
        values = [one["tasks"][i] for one in facts.values()]
        rows.append([f"{task['task']}, acc", *(cell(one["acc"], "{:.4f}") for one in values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [value.rjust(width) for value, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
    for pair in pairs:
        print(pair)
    for note in notes:
        say(f"note: {note}")


def cell(value: float | None, form: str) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return form.format(value)
