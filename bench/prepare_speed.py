"""Seconds and memory to turn a large text into character tokens, from start to exit.

    python bench/prepare_speed.py --peer PATH [--text FILE] [--megabytes 100] [--repeats 3]

The text is repeated to the size asked for. The peer's prepare.py runs from a copy in a temporary
folder, because it reads and writes beside itself. The tokens of both are compared.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import OURS, PEER, Column

from bardlet.data.dataset.folder import Dataset

CHUNK = 1 << 20  # tokens compared at once: this process has to stay small (common.py)


def main() -> None:
    parser = common.arguments(__doc__, trains=False)
    parser.add_argument("--megabytes", type=int, default=100, help="of text, 10**6 bytes each")
    args = parser.parse_args()
    with common.workspace(args) as work:
        folder = work.new("peer")
        script = shutil.copy(
            args.peer / "data" / "shakespeare_char" / "prepare.py", folder / "prepare.py"
        )
        text = folder / "input.txt"  # where the peer looks for it
        repeat(work.text, text, args.megabytes * 10**6)

        def peer(number: int) -> dict[str, Any]:
            return measured(common.timed([sys.executable, script], folder), args.megabytes)

        def ours(number: int) -> dict[str, Any]:
            command = [sys.executable, "-m", "bardlet", "prepare", text, f"--out={folder / 'ours'}"]
            return measured(common.timed(command, folder), args.megabytes)

        runs = common.interleaved({PEER: peer, OURS: ours}, args.repeats)
        same = same_tokens(folder, Dataset(folder / "ours"))
    columns = [
        Column("seconds", "seconds", ".2f", better="less"),
        Column("mb_per_s", "MB/s", ",.1f"),
        Column("peak_mb", "peak MB", ",.0f", better="less"),
    ]
    notes = [f"{args.megabytes} MB; the tokens of both are {'the same' if same else 'DIFFERENT'}"]
    tables = [common.comparison(runs, columns)]
    common.finish(args, runs=runs, tables=tables, notes=notes, same_tokens=same)


def measured(ran: common.Process, megabytes: int) -> dict[str, Any]:
    """A run's seconds, speed and peak memory."""
    speed = {"seconds": ran.seconds, "mb_per_s": megabytes / ran.seconds}
    return speed | ({"peak_mb": ran.peak_bytes / 1e6} if ran.peak_bytes else {})


def repeat(source: Path, target: Path, size: int) -> None:
    """Write `size` bytes: the text of `source` over and over."""
    block = source.read_bytes()
    with target.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])


def same_tokens(folder: Path, dataset: Dataset) -> bool:
    """Whether the peer's files in `folder` hold the dataset's tokens."""
    for split, stream in dataset.splits.items():
        theirs = np.memmap(folder / f"{split}.bin", dtype="<u2", mode="r")
        if len(theirs) != len(stream):
            return False
        for start in range(0, len(stream), CHUNK):
            if not np.array_equal(theirs[start : start + CHUNK], stream.read(start, CHUNK)):
                return False
    return True


if __name__ == "__main__":
    main()
