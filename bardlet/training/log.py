"""What a run says: the console's lines and progress bar, metrics.jsonl, and a tracker if asked.

The lines go to stdout where that is a file or a pipe, as nanoGPT's do; where it is a terminal, they
go to stderr, above the bar.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from bardlet.config import TrainConfig
from bardlet.io import terminal
from bardlet.io.atomic import write_text
from bardlet.run.state import Scores
from bardlet.training import expected
from bardlet.training.metrics_lines import lines_until
from bardlet.training.sparkline import Sparkline
from bardlet.training.tracker import Tracker

PARAMETERS = "number of parameters"


class Log:
    """The log of one run, written by the main process and silent on the others."""

    def __init__(
        self, config: TrainConfig, *, main: bool, start: int = 0, evaluated: bool = True,
        tracker: Tracker | None = None,
    ) -> None:  # fmt: skip
        """`start` is the iteration a resumed run goes on from: later lines are dropped, and that of
        the evaluation after `start` iterations where it is to be done again. What is recorded goes
        to `tracker` as well.
        """
        self.config, self.main = config, main
        self.progress: Any = None
        self.curve = Sparkline()
        self.tracker = tracker
        self.file: FileIO | None = None
        self.lost = False  # the last line
        if not main or config.eval_only:
            return
        path = Path(config.out_dir) / "metrics.jsonl"
        write_text(path, "".join(lines_until(path, start, evaluated) if start else []))
        self.file = path.open("ab", buffering=0)  # whose errors are known at once

    def start_progress(self, start: int) -> None:
        """Show a live bar with the time left, on a terminal only."""
        if self.main:
            loss = "loss {task.fields[loss]:.4f}"
            self.progress = terminal.live_bar(
                "iter {task.completed}/{task.total}", "bar", "{task.fields[curve]}", loss, "left",
                "time left",
            )  # fmt: skip
        if self.progress is None:
            return
        self.task = self.progress.add_task(
            "train", total=self.config.max_iters, completed=start, loss=math.nan, curve=""
        )
        self.progress.start()

    def say(self, line: str) -> None:
        """Print a line for people. A terminal that was closed ends no run."""
        with contextlib.suppress(OSError):
            if self.progress is not None and sys.stdout is not None and sys.stdout.isatty():
                line = terminal.shown(line, sys.stderr)
                self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            elif self.main:
                terminal.log(line)

    def stopping(self) -> None:
        """Answer a signal to stop, from its handler."""
        if self.main:
            terminal.at_once("stopping after this iteration; again: now")

    def stopped(self, it: int, processes: int) -> None:
        """Say how far a run came that was asked to stop, and the command that goes on."""
        if self.config.eval_only or not self.main:
            return
        here = os.environ.get("LOCAL_WORLD_SIZE", processes)  # of several machines, on this one
        launch = f"torchrun --nproc_per_node={here} -m " if processes > 1 else ""
        command = f"{launch}bardlet train --resume --out_dir={shlex.quote(self.config.out_dir)}"
        line = f"stopped after {it} iterations; go on with: {command}"
        self.say(line)
        if sys.stderr.isatty() and sys.stdout is not None and not sys.stdout.isatty():
            terminal.say(line)  # who pressed Ctrl-C does not see the file

    def introduction(
        self, *, machine: str, backend: str, iter: int, params: int, train_tokens: int,
        tokens_per_iter: int, tokens: int, counted_windows: float, **facts: Any,
    ) -> None:  # fmt: skip
        """Say what is about to be trained, on what; `facts` go into metrics.jsonl as they are.

        `tokens` have been trained on in the `iter` iterations so far. `counted_windows` is the
        share of windows with a target that counts.
        """
        max_iters = self.config.max_iters
        in_all = tokens + max(0, max_iters - iter) * tokens_per_iter
        self.say(machine + (f", {backend}" if backend else ""))
        self.say(f"{PARAMETERS}: {params / 1e6:.2f}M")
        ends = self.config.stream and in_all > train_tokens
        self.say(
            f"tokens per iteration: {tokens_per_iter:,}; {max_iters:,} iterations: "
            f"{in_all / train_tokens:.2f} epochs" + ", and a stream ends after one" * ends
        )
        if counted_windows < 1:
            self.say(
                f"{counted_windows:.1%} of the windows of {self.config.block_size} tokens have a "
                "token that counts in the loss; the others teach nothing"
            )
        self.record(
            type="start", iter=iter, params=params, max_iters=max_iters, train_tokens=train_tokens,
            tokens_per_iter=tokens_per_iter, counted_windows=counted_windows,
            block_size=self.config.block_size, **facts,
        )  # fmt: skip

    def expected(self, measure: Callable[[], float], device: str) -> None:
        """Say how many seconds the run will take, which `measure` finds out."""
        if not self.config.eval_only:
            for line in expected.describe(self.config, measure(), device):
                self.say(line)

    def replanned(self, config: TrainConfig, it: int) -> None:
        """Take over another number of iterations."""
        self.config = config
        if self.progress is not None:
            self.progress.update(self.task, total=config.max_iters)
        self.record(type="event", event="replanned", iter=it, max_iters=config.max_iters)

    def width(self) -> float:
        """The columns that a line has."""
        if self.progress is None or sys.stdout is None or not sys.stdout.isatty():
            return math.inf
        return self.progress.console.width

    def advance(self, it: int, loss: float) -> None:
        """Move the bar to iteration `it`."""
        if self.progress is not None:
            self.curve.add(loss)
            console = self.progress.console
            known: dict[str, Any] = {} if math.isnan(loss) else {"loss": loss}
            known["curve"] = self.curve.draw(console.width, console.encoding)
            with contextlib.suppress(OSError):
                self.progress.update(self.task, completed=it + 1, **known)

    def iteration(
        self, it: int, *, loss: float, seconds: float, waiting: float, flops: float,
        peak_flops: float, lr: float, grad_norm: float, tokens: int, tokens_seen: int,
        pairs: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Report one iteration: `tokens` were trained on in `seconds`, at `flops` an iteration.

        `waiting` is the part of the seconds in which the batch was fetched.
        MFU is a part of `peak_flops`, of all devices together; 0 is a peak that is not known. A
        loss of NaN says that no target of the batch counted. `pairs` has the reward margin and the
        accuracy of a batch of them.
        """
        pairs = pairs or {}
        if math.isnan(loss):
            self.say(f"iter {it}: no token of this batch counts in the loss, no step is taken")
            self.record(
                type="iter", iter=it, loss=None, lr=lr, grad_norm=None, counted=0,
                tokens=tokens_seen,
            )  # fmt: skip
            return
        mfu = flops / seconds / peak_flops if peak_flops else None
        parts = [
            f"iter {it}: loss {loss:.4f}", f"time {seconds * 1000:.2f}ms",
            f"mfu {f'{mfu:.2%}' if mfu is not None else 'unknown'}", f"lr {lr:.3e}",
            f"grad norm {grad_norm:.3f}", f"{tokens / seconds:,.0f} tok/s",
        ]  # fmt: skip
        if pairs:
            shown = "margin {reward_margin:.4f}, accuracy {accuracy:.1%}".format(**pairs)
            parts.insert(1, shown)
        while len(parts) > 1 and len(", ".join(parts)) > self.width():
            parts.pop()
        self.say(", ".join(parts))
        self.record(
            type="iter", iter=it, loss=loss, lr=lr, grad_norm=grad_norm, time_ms=seconds * 1000,
            data_ms=waiting * 1000, mfu=mfu, tokens_per_s=tokens / seconds, tokens=tokens_seen,
            **pairs,
        )  # fmt: skip

    def evaluation(self, scores: Scores, it: int) -> None:
        """Report the losses on both splits after `it` iterations."""
        self.say(f"step {it}: train loss {scores.train_loss:.4f}, val loss {scores.val}")
        self.record(type="eval", iter=it, **scores.logged())

    def record(self, **entry: Any) -> None:
        """Append one line to metrics.jsonl, at once. A full disk costs lines, not the run."""
        if self.file is None and self.tracker is None:
            return
        # JSON has no NaN: a loss that is not finite is null
        entry = {k: None if v != v or v in (math.inf, -math.inf) else v for k, v in entry.items()}
        if self.file is not None:
            self.write_line(json.dumps(entry))
        if self.tracker is not None:
            prefix = entry.pop("type")
            step = entry.pop("iter")
            self.tracker.log({f"{prefix}/{k}": v for k, v in entry.items()}, step=step)

    def text(self, name: str, text: str, it: int) -> None:
        """Hand a sample to the tracker."""
        if self.tracker is not None:
            self.tracker.text(name, text, it)

    def close(self) -> None:
        """Take the bar away and close the file."""
        if self.progress is not None:
            with contextlib.suppress(OSError):
                self.progress.stop()
            self.progress = None
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()
            self.file = None
        if self.tracker is not None:
            self.tracker.finish()

    def write_line(self, line: str) -> None:
        """Append a line to metrics.jsonl; where the disk does not take it, say so once."""
        assert self.file is not None
        # after an error the file may end within a line, which an empty one then ends
        data = ("\n" * self.lost + line + "\n").encode()
        try:
            if self.file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.lost = False
        except OSError as error:
            if not self.lost:
                what = f"{self.file.name}: {error.strerror}"
                self.say(f"warning: {what}; lines are lost until it can be written again")
            self.lost = True
