"""The runs that depend on a dataset, which is replaced under them only when asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from bardlet.errors import BardletError, DataError
from bardlet.io.safe_read import read_json
from bardlet.run import run_folder
from bardlet.run.state import DatasetRef

NAMED = 5  # runs in a message
DEPTH = 3  # folders below out/ in which runs are looked for


def guard(out: Path, *, fresh: bool, say: Callable[[str], None]) -> Callable[[str], None]:
    """Returns what is asked before the dataset at `out` is replaced by one with a hash.

    It raises DataError, with `fresh` only says, where runs were trained on tokens that would be
    gone.
    """

    def replacing(new_hash: str) -> None:
        try:
            old_hash = read_json(out / "manifest.json")["hash"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # there is none, or one that no run can read
        runs = trained_on(out, old_hash) if new_hash != old_hash else []
        if not runs:
            return
        names = ", ".join(runs[:NAMED]) + f" and {len(runs) - NAMED} more" * (len(runs) > NAMED)
        if fresh:
            say(f"{out} is replaced: {names} can no longer be resumed or evaluated on it")
            return
        raise DataError(
            f"{out} has the tokens that {names} learnt from, and would get others",
            "Name another folder with --out, or replace it with --fresh: the runs can then be "
            "sampled from, not resumed or evaluated on it",
        )

    return replacing


def trained_on(dataset: Path, tokens_hash: str) -> list[str]:
    """The runs in out/ whose newest checkpoint was trained on the tokens of a dataset."""
    folders = (p.parent for d in range(DEPTH) for p in Path("out").glob("*/" * d + "checkpoints"))
    return sorted(
        str(run)
        for run in folders
        if any(
            ref.hash == tokens_hash or ("," in ref.name and is_part(dataset, ref.name))
            for ref in dataset_of(run)
        )
    )


def dataset_of(run: Path) -> list[DatasetRef]:
    """What the newest checkpoint of a run that can be read was trained on, if there is one."""
    with contextlib.suppress(BardletError):
        for folder in reversed(run_folder.checkpoints(run)):
            with contextlib.suppress(BardletError):
                return [run_folder.read_state(folder).dataset]
    return []


def is_part(dataset: Path, mixture: str) -> bool:
    """Whether a dataset is one of a mixture such as a:0.7,b:0.3."""
    names = [part.rpartition(":")[0] for part in mixture.split(",")]
    paths = [Path(name) if Path(name).name != name else Path("data") / name for name in names]
    return any(path.resolve() == dataset.resolve() for path in paths)
