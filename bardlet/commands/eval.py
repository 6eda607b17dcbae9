"""`bardlet eval`: a model's loss on a whole split."""

from __future__ import annotations

import json

from bardlet.arguments import Parser, add_run, parse
from bardlet.config_file import newest_run
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("--dataset", help="default: the one it was trained on")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="default val")
    parser.add_argument("--batch_size", type=int, default=16, help="windows at once")
    given = parse(parser, args)
    from bardlet.inspection import eval_run

    run = str(given.run or given.out_dir or newest_run(say))
    scores = eval_run(
        run, which=given.checkpoint, dataset=getattr(given, "dataset", None), split=given.split,
        batch_size=given.batch_size, device_name=given.device, dtype=given.dtype,
    )  # fmt: skip
    if given.json:
        print(json.dumps(scores))
    else:
        print(
            "{split} loss {loss:.4f} nats per token, perplexity {perplexity:.4f}, "
            "{bits_per_byte:.4f} bits per byte, over {tokens:,} tokens".format(**scores)
        )
    return 0
