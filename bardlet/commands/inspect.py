"""`bardlet inspect`: what a dataset, a run or a checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path

from bardlet.arguments import Parser, parse


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("path", type=Path, help="folder of a dataset, a run or a checkpoint")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    given = parse(parser, args)
    from bardlet.inspection import describe, facts

    found = facts(given.path)
    print(json.dumps(found) if given.json else describe(found))
    return 0
