"""Programs that a run is also logged to: TensorBoard, trackio, Weights & Biases.

metrics.jsonl is what counts. A tracker that is not available is refused before anything is written;
one that fails later is named once, and neither stops nor changes the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from bardlet.config import TrainConfig
from bardlet.errors import UsageError
from bardlet.io.terminal import say
from bardlet.run.state import RunState
from bardlet.system.optional_deps import need, reason

FOLDER = "tensorboard"  # of a run, for TensorBoard's event files
PROJECT = "bardlet"  # of trackio
# by option; TensorBoard last, since it writes into the run's folder
PACKAGES = {"wandb_log": "wandb", "trackio": "trackio", "tensorboard": "tensorboard"}
NAMES = {"wandb_log": "Weights & Biases", "trackio": "trackio", "tensorboard": "TensorBoard"}
HINTS = {"wandb_log": "Run `wandb login`, set WANDB_MODE=offline, or leave wandb_log out"}


class Tracker(Protocol):
    """What a run is logged to."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Take values by their names, "iter/loss" and the like, after `step` iterations."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """Take a text that the model wrote."""
        ...

    def finish(self) -> None: ...


class WandB:
    """A run of Weights & Biases, or one of trackio, which has the same calls."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.run.log(dict(values), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Nothing: neither shows texts over time."""

    def finish(self) -> None:
        self.run.finish()


class TensorBoard:
    """Event files in the run's own folder: `tensorboard --logdir out` shows all runs."""

    def __init__(self, config: TrainConfig, saved: RunState | None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = Path(config.out_dir) / FOLDER
        if saved is None:
            shutil.rmtree(folder, ignore_errors=True)
        # what an earlier process wrote after the checkpoint is not shown
        purge = saved.iter if saved else None
        self.writer = SummaryWriter(str(folder), flush_secs=10, purge_step=purge)
        options = "\n".join(f"    {k} = {v}" for k, v in dataclasses.asdict(config).items())
        self.text("config", options, saved.iter if saved else 0)
        if saved and saved.scores:  # purged with the rest, and not evaluated again
            self.log({f"eval/{k}": v for k, v in saved.scores.logged().items()}, saved.iter)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        # indented, so that none of it is taken for Markdown
        self.writer.add_text(name, "    " + text.strip("\n").replace("\n", "\n    "), step)

    def finish(self) -> None:
        self.writer.close()


class Trackers:
    """All trackers of a run as one that never fails."""

    def __init__(self, trackers: Mapping[str, Tracker], wandb_id: str | None) -> None:
        self.trackers, self.wandb_id = trackers, wandb_id
        self.failed: set[str] = set()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.each(lambda tracker: tracker.log(values, step))

    def text(self, name: str, text: str, step: int) -> None:
        self.each(lambda tracker: tracker.text(name, text, step))

    def finish(self) -> None:
        self.each(lambda tracker: tracker.finish())

    def each(self, act: Callable[[Tracker], None]) -> None:
        """Do something with every tracker; say of each only the first time that it fails."""
        for name, tracker in self.trackers.items():
            try:
                act(tracker)
            except Exception as error:  # whatever another program raises
                if name not in self.failed:
                    say(f"warning: {name}: {reason(error)}. Training goes on, {name} lacks values")
                self.failed.add(name)


def check(config: TrainConfig) -> None:
    """Raise UsageError where a tracker is asked for and not installed, or not wholly."""
    for option in asked(config):
        package = PACKAGES[option]
        try:
            need(package, package, f"{option}=True")
        except ImportError as error:
            raise UsageError(
                f"{option}=True: {NAMES[option]} cannot be used: {reason(error)}",
                f"Install it with what it needs: pip install 'bardlet[{package}]'",
            ) from None


def asked(config: TrainConfig) -> list[str]:
    """The options of the trackers that a run asks for."""
    return [option for option in PACKAGES if getattr(config, option)]


def start(config: TrainConfig, saved: RunState | None) -> Trackers | None:
    """The trackers that a run asks for, begun, or gone on with where it is resumed.

    `saved` is what the run goes on from. None where no tracker is asked for. UsageError where one
    cannot be started.
    """
    trackers: dict[str, Tracker] = {}
    wandb_id = saved.wandb_id if saved else None
    for option in asked(config):
        try:
            if option == "wandb_log":
                run = wandb_run(config, wandb_id)
                wandb_id = run.id
                trackers[NAMES[option]] = WandB(run)
            elif option == "trackio":
                trackers[NAMES[option]] = WandB(trackio_run(config, resumed=saved is not None))
            else:
                trackers[NAMES[option]] = TensorBoard(config, saved)
        except Exception as error:  # its own, of a key or a network that is not there
            raise UsageError(
                f"{option}=True: {NAMES[option]} cannot be used: {reason(error)}",
                HINTS.get(option, f"Leave {option} out"),
            ) from None
    return Trackers(trackers, wandb_id) if trackers else None


def wandb_run(config: TrainConfig, run_id: str | None) -> Any:
    """A run of Weights & Biases, as nanoGPT's wandb_log starts one; that of `run_id` goes on."""
    wandb = need("wandb", "wandb", "wandb_log=True")
    again = {"id": run_id, "resume": "allow"} if run_id else {}
    return wandb.init(
        project=config.wandb_project, name=config.wandb_run_name,
        config=dataclasses.asdict(config), **again,
    )  # fmt: skip


def trackio_run(config: TrainConfig, *, resumed: bool) -> Any:
    """A run of trackio, named as the run's folder; the newest of this name goes on if resumed."""
    trackio = need("trackio", "trackio", "trackio=True")
    with contextlib.redirect_stdout(sys.stderr):  # stdout is the run's log
        return trackio.init(
            project=PROJECT, name=Path(config.out_dir).resolve().name, embed=False,
            config=dataclasses.asdict(config), resume="allow" if resumed else "never",
        )  # fmt: skip
