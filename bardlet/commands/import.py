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
        help="folder of a gpt2, llama, mistral, qwen2 or qwen3 model with safetensors, a GGUF "
        "file, nanoGPT's ckpt.pt, or a model's name on the hub, such as gpt2 or OWNER/NAME",
    )
    parser.add_argument("out", help="run folder to write, which must not be there yet")
    parser.add_argument("--block_size", type=int, help="context to keep; default: all")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    options = parse(parser, args)
    from bardlet.interop import load

    trained = load.load_model(options.source, block_size=getattr(options, "block_size", 0))
    folder = load.save(trained, Path(options.out))
    from bardlet.commands.inspect import checkpoint_facts, describe_checkpoint

    facts = checkpoint_facts(folder)
    print(json.dumps(facts) if options.json else describe_checkpoint(facts))
    say(f"go on with: bardlet sample {options.out}")
    if trained.state.config:
        say(f"     or with: bardlet train --resume --out_dir={options.out}")
    return 0
