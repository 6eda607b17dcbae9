"""Going back to an earlier checkpoint of a run: what came after it is kept, as a run of its own."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

from bardlet.errors import CheckpointError
from bardlet.io.atomic import flush
from bardlet.run import run_folder


def set_aside(run: Path, it: int) -> Path | None:
    """Move the checkpoints of `run` after iteration `it` to a run beside it, and return that; None
    where there are none.

    `best` is the best of those that stay. Only the lock's owner may. CheckpointError where the disk
    does not allow it.
    """
    later = [folder for folder in run_folder.checkpoints(run) if run_folder.iter_of(folder) > it]
    if not later:
        return None
    path = run.resolve()
    names = (f"{path.name}-until-{run_folder.iter_of(later[-1])}{'-' * (n > 1)}{n if n > 1 else ''}"
             for n in count(1))  # fmt: skip
    out = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    try:
        (out / "checkpoints").mkdir(parents=True)
        for name in ("config.toml", "metrics.jsonl", "samples.jsonl"):
            if (run / name).is_file():
                shutil.copyfile(run / name, out / name)
        for name in ("best", "last"):
            folder = run_folder.read_pointer(run, name)
            if folder in later:
                run_folder.set_pointer(out, name, folder)
        for folder in reversed(later):  # a kill between leaves the run with one that is its newest
            folder.rename(out / "checkpoints" / folder.name)
        flush(out / "checkpoints")
        point_to_best(run)
    except OSError as error:
        raise CheckpointError(
            f"cannot keep what came after iteration {it} in {out}: {error.strerror}",
            "Copy the run, and go back in the copy",
        ) from None
    return out


def point_to_best(run: Path) -> None:
    """Let `best` name the checkpoint with the lowest validation loss, where its own is gone."""
    if run_folder.read_pointer(run, "best") is not None:
        return
    scored = [(scores.val_loss, folder) for folder in run_folder.checkpoints(run)
              if (scores := run_folder.read_scores(folder))]  # fmt: skip
    if scored:
        run_folder.set_pointer(run, "best", min(scored)[1])
