"""`bardlet plan`: what a run will take. Exits 1 where this machine does not have it."""

from __future__ import annotations

import json

from bardlet.arguments import Parser, say
from bardlet.commands.train import parse_settings
from bardlet.errors import UsageError


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("--seconds", type=float, default=3.0, help="of each trial of the run")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    settings, given = parse_settings(parser, args)
    if not 0 < given["seconds"] <= 3600:
        raise UsageError(f"seconds={given['seconds']} must be above 0, and at most 3600")
    from bardlet.plan import describe, fits, plan

    say("measuring some iterations of this run")
    found = plan(settings, given["seconds"])
    print(json.dumps(found) if given["json"] else describe(settings, found))
    return 0 if fits(found) else 1
