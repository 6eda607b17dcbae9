"""`bardlet verify-resume`: a run killed and resumed, compared with one that was not."""

from __future__ import annotations

import json

from bardlet.arguments import Parser, say
from bardlet.commands.train import parse_settings
from bardlet.errors import UsageError


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("--seconds", type=float, default=15.0, help="of training, each way")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    settings, given = parse_settings(parser, args)
    if not 0 < given["seconds"] <= 3600:
        raise UsageError(f"seconds={given['seconds']} must be above 0, and at most 3600")
    from bardlet.verification import verify_resume

    found = verify_resume(settings, given["seconds"], say)
    if given["json"]:
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
