"""`bardlet doctor`: what is wrong with a run, by its metrics. Exits 1 where something is."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bardlet.commands.dependents import dataset_of
from bardlet.commands.parser import Parser, parse
from bardlet.commands.settings import newest_run
from bardlet.errors import BardletError
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("run", nargs="?", default=None, help="a run's folder; else the newest")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parser.epilog = "exit code: 0 healthy, 1 with findings"
    parsed = parse(parser, args)
    from bardlet.analysis import doctor, history

    path = Path(parsed.run or newest_run(say))
    past = history.read(path)
    findings = doctor.diagnose(past, trained_on(path))
    lines = len(past.iters)
    if parsed.json:
        print(json.dumps({
            "run": str(path), "healthy": not findings, "judged": doctor.long(past),
            "lines": lines, "findings": doctor.as_json(findings),
        }))  # fmt: skip
        return 1 if findings else 0
    for finding in findings:
        since = "" if finding.iter is None else f" since iteration {finding.iter:,}"
        print(f"{finding.illness}{since}: {finding.evidence}")
        print(f"  {finding.suggestion}")
    if not findings:
        few = (
            ""
            if doctor.long(past)
            else f"; too few to judge its curves by, {doctor.MIN_LINES} are needed"
        )
        print(f"{path} is healthy: nothing found in {lines:,} lines of iterations{few}")
    return 1 if findings else 0


def trained_on(run: Path) -> Dataset | None:
    """The dataset of a run, where it lies as it was."""
    from bardlet.data.dataset import mixture

    for ref in dataset_of(run):
        with contextlib.suppress(BardletError):
            dataset = mixture.opened(ref.name)
            return dataset if dataset.hash == ref.hash else None
    return None
