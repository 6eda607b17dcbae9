"""`bardlet verify-resume`: proof, on this machine, that a killed run ends as if it had not been."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bardlet.commands.parser import Parser
from bardlet.commands.train import parse_timed
from bardlet.config import TrainConfig, to_toml
from bardlet.errors import CheckpointError, TrainingError
from bardlet.io.atomic import write_text
from bardlet.io.terminal import say
from bardlet.run import run_folder

POLL_S = 0.005
Process = subprocess.Popen[bytes]


def run(parser: Parser, args: list[str]) -> int:
    from bardlet.system import signals

    config, rest = parse_timed(parser, args, 15.0, "of training, each way")
    signals.need_signals("verify-resume")
    result = verify_resume(config, rest["seconds"], say)
    if rest["json"]:
        print(json.dumps(result))
    elif result["equal"]:
        print(
            "equal bit for bit after {iters} iterations, killed after {killed_at} and resumed: "
            "{tensors} tensors of weights and optimizer, {bytes:,} bytes, and every loss".format(
                **result
            )
        )
    else:
        names = ", ".join(result["differ"][:3]) or "no tensor"
        print(
            f"NOT equal after {result['iters']} iterations, killed after {result['killed_at']} and "
            f"resumed: {len(result['differ'])} of {result['tensors']} tensors differ ({names}); "
            f"losses {'equal' if result['losses_equal'] else 'differ'}"
        )
    return 0 if result["equal"] else 1


def verify_resume(
    config: TrainConfig, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train for some seconds; train as far again, killed half way and resumed; compare the two.

    Both are processes of their own in a temporary folder, with the options of `config` but for how
    far they go. Returns what was compared, JSON values; "equal" says how it came out.
    """
    from bardlet.planning.chain import stage_of
    from bardlet.training.trial_process import TRIAL

    if config.stages > 1:
        say(f"of the {config.stages} stages, the first is tried")
        config = stage_of(config, 1)
    with tempfile.TemporaryDirectory(prefix="bardlet-") as name:
        folder = Path(name)
        options: dict[str, Any] = {
            **TRIAL, "fresh": False, "dataset": dataset_path(config.dataset), "eval_iters": 1,
            "save_interval": config.save_interval, "save_failure": "stop",
            # the rates of the whole run, of which this is the beginning
            "lr_decay_iters": config.lr_decay_iters or max(1, config.max_iters),
        }  # fmt: skip
        whole = dataclasses.replace(config, **options, out_dir=str(folder / "whole"))
        say(f"training for {seconds:.0f} s without a break")
        with training(whole) as process:
            wait_for(process, folder / "whole.log", lambda: len(losses(folder / "whole")) > 1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGTERM)
            finish(process, folder / "whole.log", allowed=(0, 130))
        done = run_folder.iter_of(run_folder.newest(folder / "whole"))
        half = max(1, done // 2)
        parts = dataclasses.replace(
            whole, max_iters=done, save_interval=half, out_dir=str(folder / "parts")
        )
        say(f"training again, killed after {half} of its {done} iterations")
        with training(parts) as process:
            wait_for(
                process,
                folder / "parts.log",
                lambda: bool(run_folder.checkpoints(folder / "parts")),
            )
            process.kill()
            process.wait()
        killed_at = run_folder.iter_of(run_folder.newest(folder / "parts"))
        say(f"resuming at iteration {killed_at}")
        with training(parts) as process:
            finish(process, folder / "parts.log", allowed=(0,))
        return {
            **compare(folder / "whole", folder / "parts"), "iters": done, "killed_at": killed_at,
        }  # fmt: skip


def compare(one: Path, other: Path) -> dict[str, Any]:
    """What is equal, bit for bit, between the last states and the losses of two runs."""
    differ, count, size = [], 0, 0
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (tensors(run_folder.newest(run) / file) for run in (one, other))
        count += len(ours)
        size += sum(len(raw) for raw in ours.values())
        differ += [
            name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)
        ]  # fmt: skip
    same_losses = losses(one) == losses(other)
    return {
        "equal": not differ and same_losses, "tensors": count, "bytes": size, "differ": differ,
        "losses_equal": same_losses,
    }  # fmt: skip


def tensors(path: Path) -> dict[str, bytes]:
    """Shape, dtype and bytes of each tensor of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        names = file.keys()
        arrays = {name: file.get_tensor(name) for name in names}
    return {n: f"{a.shape} {a.dtype} ".encode() + a.tobytes() for n, a in arrays.items()}


def losses(run: Path) -> list[tuple[int, float]]:
    """Iteration and loss of each line that a run has logged so far."""
    from bardlet.analysis import history

    with contextlib.suppress(CheckpointError):  # there is no file yet
        return [(line["iter"], line["loss"]) for line in history.read(run).iters]
    return []


@contextlib.contextmanager
def training(config: TrainConfig) -> Iterator[Process]:
    """`bardlet train` with this configuration, as a process that does not outlive the body."""
    out = Path(config.out_dir)
    options, said = out.with_name(f"{out.name}.toml"), out.with_name(f"{out.name}.log")
    write_text(options, to_toml(config))
    command = [sys.executable, "-m", "bardlet", "train", str(options)]
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: Process, said: Path, happened: Callable[[], bool]) -> None:
    """Return when it has happened. TrainingError where the process ends before."""
    while not happened():
        if process.poll() is not None:
            finish(process, said, allowed=())
        time.sleep(POLL_S)


def finish(process: Process, said: Path, allowed: tuple[int, ...]) -> None:
    """Wait for a process. TrainingError with its last line where it ends otherwise than allowed."""
    if process.wait() not in allowed:
        text = said.read_text(encoding="utf-8", errors="replace")
        last = (text.strip().splitlines() or ["it said nothing"])[-1].removeprefix("bardlet: ")
        raise TrainingError(f"training ended with exit code {process.returncode}: {last}")


def dataset_path(name: str) -> str:
    """The dataset as a path that means the same from anywhere. DataError where there is none."""
    from bardlet.data.dataset import mixture

    mixture.opened(name)
    return mixture.resolved(name)
