"""`bardlet plan`: what a run will take. Exits 1 where this machine does not have it."""

from __future__ import annotations

import json

from bardlet.commands.parser import Parser
from bardlet.commands.train import parse_timed
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    config, rest = parse_timed(parser, args, 3.0, "of each trial of the run")
    from bardlet.planning.estimate import describe, fits, plan

    say("measuring some iterations of this run")
    result = plan(config, rest["seconds"])
    print(json.dumps(result) if rest["json"] else describe(config, result))
    return 0 if fits(result) else 1
