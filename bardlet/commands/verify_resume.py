"""`bardlet verify-resume`: a run killed and resumed, compared with one that was not."""

from __future__ import annotations

import json

from bardlet.arguments import Parser
from bardlet.commands.train import parse_timed
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    settings, seconds, as_json = parse_timed(parser, args, 15.0, "of training, each way")
    from bardlet.verification import verify_resume

    found = verify_resume(settings, seconds, say)
    if as_json:
        print(json.dumps(found))
    elif found["equal"]:
        print(
            "equal bit for bit after {iters} iterations, killed after {killed_at} and resumed: "
            "{tensors} tensors of weights and optimizer, {bytes:,} bytes, and every loss".format(
                **found
            )
        )
    else:
        names = ", ".join(found["differ"][:3]) or "no tensor"
        print(
            f"NOT equal after {found['iters']} iterations, killed after {found['killed_at']} and "
            f"resumed: {len(found['differ'])} of {found['tensors']} tensors differ ({names}); "
            f"losses {'equal' if found['losses_equal'] else 'differ'}"
        )
    return 0 if found["equal"] else 1
