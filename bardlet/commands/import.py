"""`bardlet import`: another program's model as a run of ours."""
# ruff: noqa: N999 (the module has the command's name, and is imported by it)

from __future__ import annotations

import json
from pathlib import Path

from bardlet.commands.parser import Parser, parse
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "source",
        help="folder of a gpt2, llama or qwen3 model with safetensors, a GGUF file, nanoGPT's "
        "ckpt.pt, or a model's name on the hub, such as gpt2 or OWNER/NAME",
    )
    parser.add_argument("out", help="run folder to write, which must not be there yet")
    parser.add_argument("--block_size", type=int, help="keep this much of the context")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    given = parse(parser, args)
    from bardlet.interop import load

    trained = load.load_model(given.source, block_size=getattr(given, "block_size", 0))
    folder = load.save(trained, Path(given.out))
    from bardlet.commands.inspect import checkpoint_facts, describe_checkpoint

    found = checkpoint_facts(folder)
    print(json.dumps(found) if given.json else describe_checkpoint(found))
    say(f"go on with: bardlet sample {given.out}")
    return 0
