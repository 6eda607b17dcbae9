"""`bardlet sample`: text out of a trained model."""

from __future__ import annotations

from bardlet.arguments import Parser, add_run, parse
from bardlet.config_file import newest_run
from bardlet.errors import UsageError
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument(
        "--start", help="text to go on from, or FILE:path; default: as a document or a line begins"
    )
    parser.add_argument("--num_samples", type=int, default=10, help="texts to write")
    parser.add_argument("--max_new_tokens", type=int, default=500, help="tokens in each")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument(
        "--top_k", type=int, default=200, help="likeliest tokens drawn from; 0: all"
    )
    parser.add_argument("--seed", type=int, default=1337, help="of the random choices")
    parser.add_argument(
        "--check_memorization", action="store_true", default=False,
        help="mark the runs that stand word for word in the training text, and sum them up",
    )  # fmt: skip
    parser.add_argument(
        "--min_run", type=int, default=0, help="tokens from which such a run counts; 0: 50 bytes"
    )
    given = parse(parser, args)
    if given.min_run < 0:
        raise UsageError(f"min_run={given.min_run} must be at least 0")
    from bardlet.writing import write

    run = str(given.run or given.out_dir or newest_run(say))
    write(
        run=run, which=given.checkpoint, start=getattr(given, "start", None), seed=given.seed,
        num_samples=given.num_samples, max_new_tokens=given.max_new_tokens,
        temperature=given.temperature, top_k=given.top_k,
        device_name=given.device, dtype=given.dtype, as_json=given.json,
        check_memorization=given.check_memorization, min_run=given.min_run, say=say,
    )  # fmt: skip
    return 0
