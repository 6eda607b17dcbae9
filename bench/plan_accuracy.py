"""What `bardlet plan` says, over what then happens: seconds and peak memory of whole runs.

    python bench/plan_accuracy.py [--text FILE] [--repeats 3] [--out FILE.json]

Each run is planned and then trained, one after the other, in processes of their own. The time is
from launch to exit, the memory all that the process has held. The last case runs through torch
alone.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import common
from common import Column, Workspace

CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "demo": (["demo"], {}),
    "shakespeare-char-quick": (["shakespeare-char-quick"], {}),
    "demo, four micro-batches": (
        ["demo", "--batch_size=4", "--gradient_accumulation_steps=4", "--max_iters=300"], {},
    ),
    "shakespeare-char-classic-cpu, torch": (
        ["shakespeare-char-classic-cpu", "--max_iters=1000"], {"BARDLET_CORE": "0"},
    ),
}  # fmt: skip
COLUMNS = [
    Column("planned_s", "planned s", ".1f"), Column("actual_s", "actual s", ".1f"),
    Column("time_ratio", "ratio", ".2f"), Column("planned_mb", "planned MB", ",.0f"),
    Column("actual_mb", "actual MB", ",.0f"), Column("memory_ratio", "ratio", ".2f"),
    Column("within", "within 20 %"),
]  # fmt: skip
WITHIN = 0.2


def main() -> None:
    parser = common.arguments(__doc__, peer=False)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    with common.workspace(args) as work:
        contenders = {
            case: lambda number, flags=flags, env=env: compared(work, flags, env)
            for case in args.cases
            for flags, env in [CASES[case]]
        }
        runs = common.interleaved(contenders, args.repeats)
    common.finish(args, runs=runs, tables=[common.comparison(runs, COLUMNS)])


def compared(work: Workspace, flags: list[str], env: dict[str, str]) -> dict[str, Any]:
    """A plan's seconds and megabytes, those of the run, and the ratios of the two."""
    out = work.new("run") / "out"
    options = [*flags, f"--out_dir={out}", "--device=cpu", *work.ours_args]
    planned = plan_of(common.timed(bardlet("plan", *options, "--json"), work.folder, **env))
    ran = common.timed(bardlet("train", *options), work.folder, **env)
    assert ran.peak_bytes is not None, "this process has grown larger than what it measures"
    seconds, size = planned["time"]["total_s"], planned["memory"]["total"]
    ratios = seconds / ran.seconds, size / ran.peak_bytes
    return {
        "planned_s": seconds, "actual_s": ran.seconds, "time_ratio": ratios[0],
        "planned_mb": size / 1e6, "actual_mb": ran.peak_bytes / 1e6, "memory_ratio": ratios[1],
        "within": all(abs(ratio - 1) <= WITHIN for ratio in ratios),
        "disk_is_exact": same_files(planned, out),
    }  # fmt: skip


def bardlet(*words: str) -> list[str | Path]:
    return [sys.executable, "-m", "bardlet", *words]


def plan_of(ran: common.Process) -> dict[str, Any]:
    """The plan among the lines that the command printed."""
    return next(json.loads(line) for _, line in ran.lines if line.startswith("{"))


def same_files(planned: dict[str, Any], out: Path) -> bool:
    """Whether the weights and the optimizer's state take as many bytes as was said."""
    from bardlet.run import run_folder

    folder = run_folder.find(out, "last")
    sizes = {name: (folder / name).stat().st_size for name in planned["disk"]["files"]}
    names = ("model.safetensors", "optimizer.safetensors")
    return all(math.isclose(sizes[name], planned["disk"]["files"][name]) for name in names)


if __name__ == "__main__":
    main()
