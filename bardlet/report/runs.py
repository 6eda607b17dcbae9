"""Runs as JSON values for a page: curves, what happened, options, samples, and what a doctor says.

Everything is shown as far as it can be read; what cannot is named in a note.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.analysis import doctor
from bardlet.analysis.history import History
from bardlet.errors import BardletError, CheckpointError
from bardlet.report import files
from bardlet.report.metrics import Metrics
from bardlet.report.thinning import rounded, thinned, whole
from bardlet.report.trained_on import Background
from bardlet.run import run_folder
from bardlet.run.state import RunState

DEPTH = 4  # folders below the one that runs are looked for in: out/demo, out/demo/stages/1
LIVE_S = 60.0  # after its last line a run counts as training for so long
SERIES = ("loss", "lr", "grad_norm", "tokens_per_s", "mfu", "data_ms")
AXIS = 400  # points of the table from iterations to tokens and seconds
JUDGED, LAST = 4000, 200  # lines that the doctor sees: evenly spread, and all of the last
MOST_EVALS, MOST_EVENTS = 1000, 1000  # of a run on a page


def find(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yields the runs in and below a folder, in the order of their names."""
    if is_run(folder):
        yield folder
    if depth > 0:
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        except OSError:  # not there, or not to be looked into
            return
        for name in names:
            if name != "checkpoints" and not name.startswith("."):
                yield from find(folder / name, depth - 1)


def is_run(folder: Path) -> bool:
    """Whether a run lies in a folder, or has begun to."""
    return any((folder / name).exists() for name in ("metrics.jsonl", "checkpoints"))


def named(names: Sequence[str]) -> list[Path]:
    """The folders of runs that a command names. CheckpointError where there is none."""
    paths = [Path(name) for name in names]
    paths = [path.parent if path.name == "metrics.jsonl" else path for path in paths]
    for path in paths:
        if not is_run(path):
            hint = "Give the folder that train wrote, such as out/demo; `bardlet ls` lists them"
            raise CheckpointError(f"no run at {path}", hint)
    return paths


class Run:
    """A run's folder, read again where its files have changed."""

    def __init__(self, folder: Path, background: Background | None = None) -> None:
        """`background` computes in a thread what takes seconds; without it, that is waited for."""
        self.folder, self.metrics = folder, Metrics(folder / "metrics.jsonl")
        self.background = background or Background(wait=True)
        self.known: tuple[object, dict[str, Any]] = (None, {})

    @property
    def version(self) -> str:
        """What changes when the run does."""
        names = ("metrics.jsonl", "samples.jsonl", "config.toml", "checkpoints", "checkpoints/last")
        stamps = []
        for name in names:
            with contextlib.suppress(OSError):
                status = (self.folder / name).stat()
                stamps.append(f"{status.st_size:x}.{status.st_mtime_ns:x}")
        return "-".join([*stamps, str(self.background.done)])

    def modified(self) -> float:
        """When a line was written last, in seconds since 1970; 0 where there is none."""
        for name in ("metrics.jsonl", "config.toml", "checkpoints"):
            with contextlib.suppress(OSError):
                return (self.folder / name).stat().st_mtime
        return 0.0

    def entry(self) -> dict[str, Any]:
        """What a list of runs has of it."""
        name, modified = self.folder.as_posix(), self.modified()
        return {"name": name, "version": self.version, "modified": modified}

    def described(self) -> dict[str, Any]:
        """All that a page shows of the run."""
        version = self.version
        if self.known[0] != version:
            self.known = (version, self.read())
        values = self.known[1]
        age = time.time() - self.modified()
        state = values["state"]
        if state == "stopped" and age < LIVE_S:
            state = "training"
        return {**values, **self.entry(), "version": version, "state": state, "age_s": round(age)}

    def read(self) -> dict[str, Any]:
        """The values of `described`, from the run's files."""
        notes = self.read_metrics()
        config, note = files.read_config(self.folder)
        notes += [note] if note else []
        saved = files.newest_state(self.folder)
        samples, left_out = files.read_samples(self.folder / "samples.jsonl")
        start = self.metrics.start
        if left_out:
            notes.append(f"samples of {left_out:,} of the iterations are left out")
        about = self.background.ask(saved, start)
        metrics, axis = self.metrics, self.axis()
        loss = thinned(metrics.column("iter"), metrics.column("loss"))
        return {
            "state": self.state(saved), "notes": notes, "start": start, "config": config,
            "changed": files.changed(config), "command": files.command(self.folder, config, start),
            "done": self.done(saved), "lines": len(metrics), "axis": axis,
            "per_point": loss["per_point"],
            "series": {"loss": loss, **{
                name: thinned(metrics.column("iter"), metrics.column(name))
                for name in SERIES[1:]
            }},
            "evals": self.evals(), "events": metrics.events[-MOST_EVENTS:],
            "resumes": [line["iter"] for line in metrics.starts[1:]],
            "checkpoints": files.checkpoints(self.folder), "saved": files.saved_facts(saved),
            "samples": samples, **about,
            "findings": self.findings(),
            "judged": len(metrics) >= doctor.MIN_LINES,
        }  # fmt: skip

    def read_metrics(self) -> list[str]:
        """Read on in metrics.jsonl; what to say of lines that cannot be shown."""
        try:
            self.metrics.update()
        except OSError as error:
            reason = error.strerror or str(error)
            return [f"metrics.jsonl cannot be read: {reason}"]
        notes = []
        if self.metrics.damaged:
            notes.append(f"{self.metrics.damaged:,} damaged lines of metrics.jsonl are left out")
        if self.metrics.unknown:
            notes.append(f"{self.metrics.unknown:,} lines of metrics.jsonl are not known here")
        if len(self.metrics) and not np.isfinite(self.metrics.column("time_ms")).any():
            notes.append("this run does not say how long its iterations took")
        if (events := len(self.metrics.events) - MOST_EVENTS) > 0:
            notes.append(f"{events:,} earlier events are left out")
        if (evals := len(self.metrics.evals) - len(self.evals())) > 0:
            notes.append(f"{evals:,} evaluations are left out, evenly")
        return notes

    def evals(self) -> list[dict[str, Any]]:
        """The evaluations, of very many the best and others evenly."""
        every = -(-len(self.metrics.evals) // MOST_EVALS) or 1
        known = [e for e in self.metrics.evals if isinstance(e.get("val_loss"), int | float)]
        best = min(known, key=lambda e: e["val_loss"], default=None)
        newest = len(self.metrics.evals) - 1
        return [
            e for i, e in enumerate(self.metrics.evals)
            if i % every == 0 or i == newest or e is best
        ]  # fmt: skip

    def axis(self) -> dict[str, list[Any]]:
        """Iterations done, and the tokens and seconds up to there, at points to interpolate."""
        n = len(self.metrics)
        at = np.unique(np.linspace(0, n - 1, min(n, AXIS)).round().astype(int)) if n else []
        done = self.metrics.column("iter")[at] + 1 if n else np.zeros(0)
        tokens, seconds = (self.metrics.column(name)[at] if n else np.zeros(0)
                           for name in ("tokens", "seconds"))  # fmt: skip
        start = int(done[0] - 1) if n else 0
        before = float(tokens[0] / done[0] * start) if n and np.isfinite(tokens[0]) else 0.0
        return {
            "done": [start, *whole(done)], "tokens": [before, *rounded(tokens)],
            "seconds": [0.0, *rounded(seconds)],
        }  # fmt: skip

    def done(self, saved: RunState | None) -> int:
        """How many iterations the run has had, as far as anything says."""
        iters = self.metrics.columns["iter"]
        known = [iters[-1] + 1] if iters else []
        known += [line["iter"] for line in self.metrics.evals[-1:]]
        return int(max([*known, saved.iter if saved else 0]))

    def state(self, saved: RunState | None) -> str:
        """starting, stopped or finished; what was written lately makes training of stopped."""
        with contextlib.suppress(BardletError):
            newest = run_folder.newest(self.folder)
            if run_folder.finished(newest) and run_folder.iter_of(newest) >= self.done(saved):
                return "finished"
        return "stopped" if len(self.metrics) else "starting"

    def findings(self) -> list[dict[str, Any]]:
        """What the doctor finds, by lines that are spread evenly where they are many."""
        n = len(self.metrics)
        if not n:
            return []
        spread = np.linspace(0, n - 1, min(n, JUDGED)).round().astype(int)
        at = np.unique(np.concatenate([spread, np.arange(max(0, n - LAST), n)]))
        columns = {name: self.metrics.column(name)[at].tolist() for name in self.metrics.columns}
        iters = [
            {k: None if v != v else v for k, v in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)
        ]
        for line in iters:
            for name in ("iter", "tokens"):
                value = line[name]
                line[name] = None if value is None else int(value)
        history = History(
            iters=iters, evals=[e for e in self.metrics.evals if number_pair(e)],
            events=self.metrics.events, start=self.metrics.start,
        )  # fmt: skip
        with contextlib.suppress(TypeError, ValueError, KeyError, ArithmeticError):  # of odd lines
            return doctor.as_json(doctor.diagnose(history))
        return []


def number_pair(evaluation: dict[str, Any]) -> bool:
    """Whether an evaluation has both of its losses as numbers."""
    losses = (evaluation.get("train_loss"), evaluation.get("val_loss"))
    return all(isinstance(loss, int | float) for loss in losses)
