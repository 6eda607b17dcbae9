"""`bardlet export`: a trained model in another program's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bardlet.commands.parser import Parser, parse
from bardlet.errors import UsageError
from bardlet.io.terminal import say


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("run", help="run or checkpoint, what `bardlet import` reads, or a dataset")
    parser.add_argument("out", help="folder, or file of html, which must not be there yet")
    parser.add_argument(
        "--format", help="hf (default), gguf, onnx, nanogpt, or html (default where OUT ends so)"
    )
    parser.add_argument(
        "--dtype", "--weights",
        help="hf: float32 (default), bfloat16, float16; gguf: F32 (default), F16, BF16, Q8_0, "
        "Q6_K, Q4_K_M, Q4_0; html: float32 (default), float16, int8",
    )  # fmt: skip
    parser.add_argument(
        "--with_text", action="store_true", default=False,
        help="html: put the training text in, for the counts of the playground",
    )  # fmt: skip
    parser.add_argument("--checkpoint", default="best", help="best (default), last or iter-...")
    parser.add_argument("--push", metavar="NAME", help="hf: upload as this model of the hub")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    options = parse(parser, args)
    name = getattr(options, "push", None)
    form = getattr(options, "format", "html" if options.out.endswith(".html") else "hf")
    if name and form != "hf":
        raise UsageError(f"--push uploads the format hf, not {form}")
    from bardlet.data.dataset import folder
    from bardlet.interop.export import export
    from bardlet.interop.nanogpt_dataset import export_dataset, is_dataset

    if folder.is_dataset(Path(options.run)) and form != "nanogpt":
        raise UsageError(f"{options.run} is a dataset", "Only --format=nanogpt writes one")
    if form == "nanogpt" and is_dataset(options.run):
        done = export_dataset(options.run, Path(options.out), say)
        return show(done, options.json)
    done = export(
        options.run, Path(options.out), form=form, dtype=getattr(options, "dtype", None),
        checkpoint=options.checkpoint, say=say, with_text=options.with_text,
    )  # fmt: skip
    if name:
        from bardlet.interop.huggingface.export import push

        done["pushed"] = push(Path(options.out), name)
    return show(done, options.json)


def show(done: dict[str, Any], as_json: bool) -> int:
    """Print what was written, and say what may be done with it."""
    if as_json:
        print(json.dumps(done))
    else:
        out = Path(done["out"])
        folder = out if out.is_dir() else out.parent
        for file, size in done["files"].items():
            print(f"{folder / file}  {size:,} bytes")
        for number, step in enumerate(done["next"]):
            say(f"{'     ' if number else 'next:'} {step}")
    return 0
