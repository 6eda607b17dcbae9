"""What lies in a run's folder beside metrics.jsonl: options, checkpoints, samples."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from bardlet.config import TrainConfig
from bardlet.errors import BardletError
from bardlet.io.safe_read import read_json_lines, read_text
from bardlet.report.metrics import plain
from bardlet.run import run_folder
from bardlet.run.state import RunState

SAMPLED, LONGEST = 60, 4000  # evaluations whose samples are shown, characters of a text
TEXTS = 16  # of an evaluation
CONFIG_BYTES = 1 << 17


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """The options in config.toml, and what to say where they cannot be read."""
    try:
        text = read_text(folder / "config.toml", inside=folder, max_bytes=CONFIG_BYTES)
        return {k: plain(v) for k, v in tomllib.loads(text).items() if not isinstance(v, dict)}, ""
    except FileNotFoundError:
        return {}, "there is no config.toml"
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"config.toml cannot be read: {(str(error).splitlines() or [''])[0]}"


def changed(config: dict[str, Any]) -> list[str]:
    """The options whose values are not the defaults, or that are not known here."""
    defaults = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    return [name for name, value in config.items() if defaults.get(name, NotImplemented) != value]


def command(folder: Path, config: dict[str, Any], start: dict[str, Any]) -> str:
    """The command that trains the run again from its beginning, in a folder beside it."""
    run, processes = folder.as_posix(), start.get("processes")
    words = ["bardlet", "train", f"{run}/config.toml", f"--out_dir={run}-again"]
    if config.get("init_from") == "resume":  # of a bardlet that noted no other beginning
        words.append("--init_from=scratch")
    if isinstance(processes, int) and 1 < processes < 100_000:
        words = ["torchrun", f"--nproc_per_node={processes}", "-m", *words]
    return shlex.join(words)


def checkpoints(folder: Path) -> dict[str, Any]:
    """The iterations that are kept, and the best of them."""
    with contextlib.suppress(BardletError):
        best = run_folder.read_pointer(folder, "best")
        return {
            "kept": [run_folder.iter_of(path) for path in run_folder.checkpoints(folder)],
            "best": run_folder.iter_of(best) if best else None,
        }  # fmt: skip
    return {"kept": [], "best": None}


def newest_state(folder: Path) -> RunState | None:
    """The state of the newest checkpoint that can be read."""
    with contextlib.suppress(BardletError):
        for path in reversed(run_folder.checkpoints(folder)):
            with contextlib.suppress(BardletError):
                return run_folder.read_state(path)
    return None


def saved_facts(saved: RunState | None) -> dict[str, Any]:
    """What the newest checkpoint says of the run."""
    if saved is None:
        return {}
    scores = saved.scores
    return {
        "iter": saved.iter, "tokens": saved.tokens, "versions": dict(saved.versions),
        "computes": dict(saved.numerics), "dataset": saved.dataset.name,
        "source": saved.imported.source if saved.imported else None,
        "scores": dataclasses.asdict(scores) if scores else None,
    }  # fmt: skip


def read_samples(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The samples of a run by iteration, evenly spread where they are many; how many are left out.

    Each is an iteration with its texts, of at most LONGEST characters each.
    """
    groups: dict[int, list[dict[str, str]]] = {}
    with contextlib.suppress(OSError):
        for _, record in read_json_lines(path):
            it, prompt, text = (record.get(name) for name in ("iter", "prompt", "text"))
            if isinstance(it, int) and isinstance(prompt, str) and isinstance(text, str):
                kept = {"prompt": prompt[:LONGEST], "text": text[:LONGEST]}
                groups.setdefault(it, []).append(kept)
    iters = sorted(groups)
    at = np.unique(np.linspace(0, len(iters) - 1, min(len(iters), SAMPLED)).round().astype(int))
    shown = [iters[i] for i in at] if iters else []
    texts = [{"iter": it, "texts": groups[it][:TEXTS]} for it in shown]
    return texts, len(iters) - len(shown)
