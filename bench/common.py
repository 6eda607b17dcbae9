"""What the benchmarks share: both sides' commands, their clocks, one scorer, tables and records.

Each benchmark runs the peer and bardlet in turns, in one invocation, on the same text. Nothing of
the peer is changed or kept: it runs from its own folder on data in a temporary one. torch is
imported in functions only: the peak memory of a process starts at that of its parent, and so this
one has to stay small.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pickle
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.data.dataset.folder import Dataset
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text import corpus
from bardlet.errors import BardletError

if TYPE_CHECKING:
    from bardlet.model import GPT

SEED = 1337  # both sides' default
PEER, OURS = "nanoGPT", "bardlet"
# the command that the peer's README gives for a CPU, and for a GPU but for the device
PEER_CPU = [
    "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000",
    "--lr_decay_iters=2000", "--dropout=0.0",
]  # fmt: skip
PEER_GPU = ["--device=cpu", "--compile=False", "--log_interval=1"]
# As little evaluation as either side takes: a batch at iteration 0, and ours at the end.
PEER_NO_EVAL = ["--eval_interval=1000000", "--eval_iters=1"]
OURS_NO_EVAL = [*PEER_NO_EVAL, "--eval_full=False"]

# runs the peer's script as it is, but for the seed that it sets
SHIFTED = """
import runpy, sys, torch
peer, shift, seed_with = sys.argv[1], int(sys.argv[2]), torch.manual_seed
torch.manual_seed = lambda seed: seed_with(seed + shift)
sys.path.insert(0, peer)
sys.argv = [peer + "/train.py", peer + "/config/train_shakespeare_char.py", *sys.argv[3:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# both sides log so; ours gives the mean since its last line
ITERATION = re.compile(r"iter (\d+): loss .*?, time ([\d.]+)ms")


# --- processes and their clocks


@dataclass(frozen=True, kw_only=True)
class Process:
    """A finished process: from launch to exit, and what it said when."""

    seconds: float
    peak_bytes: int | None  # of resident memory; None where this process's own was more
    lines: list[tuple[float, str]]  # seconds since launch, and the line

    @property
    def iterations(self) -> list[tuple[int, float]]:
        """The number and milliseconds of each iteration in the output."""
        return iterations(line for _, line in self.lines)


def timed(
    command: Sequence[str | Path], cwd: Path, *, until: str | None = None, **env: str
) -> Process:
    """Run a command to its end, or until a line begins with `until`, which has to come.

    `env` is added to the environment. SystemExit with the output's end where the command fails.
    """
    words = [str(word) for word in command]
    began = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=cwd, text=True, encoding="utf-8", errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
    )  # fmt: skip
    assert process.stdout is not None
    lines, reached = [], False
    for line in process.stdout:
        lines.append((time.perf_counter() - began, line.rstrip("\n")))
        if until and not reached and line.startswith(until):
            reached = True
            process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if not reached if until else process.returncode:
        tail = "\n".join(line for _, line in lines[-20:])
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}\n{tail}")
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss * unit if usage.ru_maxrss > own else None
    return Process(seconds=seconds, peak_bytes=peak, lines=lines)


def iterations(lines: Iterator[str]) -> list[tuple[int, float]]:
    """The number and milliseconds of each iteration that log lines tell of."""
    return [(int(m[1]), float(m[2])) for line in lines if (m := ITERATION.match(line))]


def per_iteration(times: list[tuple[int, float]], drop: int) -> float:
    """The median milliseconds of an iteration, the first `drop` left out."""
    return statistics.median(ms for _, ms in times[drop:])


def project(ms: float, count: int) -> float:
    """Seconds that `count` iterations of `ms` milliseconds take."""
    return ms * count / 1000


def loop_seconds(times: list[tuple[int, float]], eval_interval: int) -> float:
    """Seconds of the peer's training loop, from the time of every iteration.

    The peer counts an evaluation to the iteration it comes before: there the median stands in.
    """
    usual = [ms for it, ms in times if it % eval_interval]
    return (sum(usual) + (len(times) - len(usual)) * statistics.median(usual)) / 1000


# --- the two sides


@dataclass
class Workspace:
    """A temporary folder with the text and its tokens, as both sides read them."""

    folder: Path
    text: Path
    dataset: Dataset
    peer: Path | None
    ours_args: Sequence[str] = ()  # further options of every `bardlet train`

    def new(self, name: str) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def train_ours(self, preset: str, out: Path, *options: str, **how: str) -> Process:
        """Train a preset on the prepared tokens through the command line, on the CPU."""
        command = [sys.executable, "-m", "bardlet", "train", preset, f"--out_dir={out}"]
        return timed([*command, "--device=cpu", *options, *self.ours_args], self.folder, **how)

    def train_peer(self, out: Path, *options: str, shift: int = 0, **how: str) -> Process:
        """Train the peer with its own script, over its config for this data."""
        assert self.peer is not None
        command = [sys.executable, "-c", SHIFTED, self.peer, str(shift), *options]
        return timed([*command, f"--out_dir={out}"], self.folder, **how)

    def score(self, model: GPT, windows: int = 0) -> float:
        """Nats per token over the whole validation split, float32, each target once.

        In windows of the model's context, or of `windows` where that is shorter.
        """
        from bardlet.evaluate import evaluate
        from bardlet.system import device
        from bardlet.system.distributed import Group

        context = min(windows or model.config.block_size, model.config.block_size)
        model.config = dataclasses.replace(model.config, block_size=context)
        machine = device.choose("cpu", "float32")
        options: dict[str, Any] = {"batch_size": 64, "machine": machine, "group": Group()}
        return evaluate(model, self.dataset, "val", **options).loss


@contextlib.contextmanager
def workspace(args: argparse.Namespace) -> Iterator[Workspace]:
    """A folder to run both sides in, gone afterwards."""
    peer = args.peer.resolve() if getattr(args, "peer", None) else None
    if peer and not (peer / "config" / "train_shakespeare_char.py").is_file():
        raise SystemExit(f"{peer} is not a checkout of nanoGPT")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            text = corpus.load("tinyshakespeare", file=args.text)
        except BardletError as error:
            raise SystemExit(str(error)) from None
        for note in text.notes:
            print(note, file=sys.stderr)
        file = folder / "tinyshakespeare.txt"
        file.write_text(text.text, encoding="utf-8")
        dataset = prepare(text, folder / "data" / "tinyshakespeare")
        if peer:
            for_nanogpt(dataset, folder, peer)
        ours_args = shlex.split(getattr(args, "ours_args", ""))
        yield Workspace(folder, file, dataset, peer, ours_args)


def for_nanogpt(dataset: Dataset, work: Path, peer: Path) -> None:
    """The dataset's tokens in the files that nanoGPT reads, in `work`."""
    folder = work / "data" / "shakespeare_char"
    folder.mkdir(parents=True)
    for split, stream in dataset.splits.items():
        stream.read(0, len(stream)).astype("<u2").tofile(folder / f"{split}.bin")
    chars = dataset.tokenizer.chars
    meta = {
        "vocab_size": len(chars),
        "itos": dict(enumerate(chars)),
        "stoi": {c: i for i, c in enumerate(chars)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    (work / "configurator.py").symlink_to(peer / "configurator.py")  # it looks here for it


def peer_model(out: Path, name: str = "ckpt.pt") -> GPT:
    """A checkpoint of the peer's in our model."""
    import torch

    from bardlet.model import GPT, GPTConfig

    saved = torch.load(out / name, map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(family="gpt2", **saved["model_args"]))
    model.load_state_dict({k.removeprefix("_orig_mod."): v for k, v in saved["model"].items()})
    return model


def our_model(out: Path) -> GPT:
    """The weights at the end of a run of ours."""
    from bardlet.run import checkpoint, run_folder

    return checkpoint.load(run_folder.find(out, "last"))[0]


def our_train_seconds(process: Process) -> float:
    """Seconds of optimisation, evaluations left out, that `bardlet train` tells at its end."""
    matches = [re.search(r"training took ([\d.]+) s", line) for _, line in process.lines]
    return next(float(m[1]) for m in reversed(matches) if m)


# --- the command line, the order of runs, the results


def arguments(
    doc: str | None, *, peer: bool = True, text: bool = True, trains: bool = True, repeats: int = 3
) -> argparse.ArgumentParser:
    """A parser with the options that benchmarks share; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if peer:
        parser.add_argument("--peer", type=Path, required=True, help="a checkout of nanoGPT")
    if text:
        parser.add_argument("--text", type=Path, help="the canonical tiny Shakespeare file")
    if trains:
        parser.add_argument("--ours_args", default="", help="further options of `bardlet train`")
    parser.add_argument("--repeats", "--seeds", type=int, default=repeats, help="runs of each side")
    parser.add_argument("--out", type=Path, help="write every run as JSON")
    return parser


def interleaved(
    contenders: dict[str, Callable[[int], dict[str, Any]]], repeats: int, **facts: Any
) -> list[dict[str, Any]]:
    """Run every contender in turn, `repeats` times: their measurements, named and numbered.

    A contender gets the number of its run, from 0, which shifts its seed.
    """
    runs = []
    for number in range(repeats):
        for who, measure in contenders.items():
            run = {**facts, "who": who, "seed": SEED + number, **measure(number)}
            runs.append(run)
            words = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.items()]
            print(f"run {number + 1} of {repeats}: {', '.join(words)}", file=sys.stderr, flush=True)
    return runs


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, least and greatest of some measurements, and their number."""
    return {
        "median": statistics.median(values), "min": min(values), "max": max(values),
        "runs": len(values),
    }  # fmt: skip


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The spread of everything measured, for each case and contender in order of appearance."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run.get("case", ""), run["who"]), []).append(run)
    rows = []
    for (case, who), group in groups.items():
        row: dict[str, Any] = {"case": case, "who": who}
        for key, value in group[0].items():
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "seed":
                row[key] = spread([run[key] for run in group if key in run])
            elif isinstance(value, bool):
                row[key] = all(run[key] for run in group)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Column:
    """A measurement in a table: its key, heading and number format, and which way is better.

    `better` adds a column of ratios to the first contender's median, above 1 for better.
    """

    key: str
    heading: str
    format: str = ".1f"
    better: str = ""  # "less", "more" or "" for no ratio


def comparison(runs: list[dict[str, Any]], columns: Sequence[Column]) -> str:
    """A table of medians, ranges and ratios, a row for each contender; the first is the measure."""
    summaries = summary(runs)
    header = [summaries[0]["case"]]
    for column in columns:
        header += [column.heading] + ["ratio"] * bool(column.better)
    rows = []
    for row in summaries:
        cells = [row["who"]]
        for column in columns:
            value, first = row.get(column.key), summaries[0].get(column.key)
            if not isinstance(value, dict):
                text = {None: "", True: "yes", False: "no"}[value]
                cells += [text] + [""] * bool(column.better)
                continue
            low, middle, high = (format(value[k], column.format) for k in ("min", "median", "max"))
            cells.append(middle if low == high else f"{middle} ({low} to {high})")
            if column.better:
                ratio = value["median"] / first["median"] if isinstance(first, dict) else None
                ratio = 1 / ratio if ratio and column.better == "less" else ratio
                cells.append(f"{ratio:.2f}x" if ratio else "")
        rows.append(cells)
    return table(header, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text in columns, the first one's text to the left and the others' to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def finish(
    args: argparse.Namespace, *, runs: list[dict[str, Any]], tables: Sequence[str],
    notes: Sequence[str] = (), **more: Any,
) -> None:  # fmt: skip
    """Print the tables and notes, and write them with every run and the circumstances as JSON."""
    print("\n" + "\n\n".join([*tables, *notes]))
    if not args.out:
        return
    from bardlet.system import device

    record = {
        "benchmark": Path(sys.argv[0]).stem,
        "arguments": {k: v for k, v in vars(args).items() if not isinstance(v, Path)},
        "runs": runs,
        "summary": summary(runs) if runs and "who" in runs[0] else [],
        "tables": [text.splitlines() for text in tables],
        "notes": list(notes),
        **more,
        "machine": device.choose("cpu").why,
        "platform": platform.platform(),
        "versions": device.versions(),
        "commit": commit(Path(__file__).parent),
        "peer_commit": commit(args.peer) if getattr(args, "peer", None) else None,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def commit(folder: Path) -> str:
    """The commit of a checkout, marked where files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    return described.stdout.strip() or "unknown"
