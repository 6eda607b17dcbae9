"""`bardlet attention`: what each head of a model looks at over a text."""

from __future__ import annotations

import json
from typing import Any

from bardlet.commands.parser import Parser, add_run, parse
from bardlet.commands.settings import run_named
from bardlet.errors import UsageError
from bardlet.io.terminal import say

MAX_NUMBERS = 4_000_000  # in JSON


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("text", help="what the model reads")
    parser.add_argument("--layer", type=int, help="the one that is shown, from 0; default: mean")
    parser.add_argument("--head", type=int, help="the one that is shown, from 0; default: mean")
    parsed = parse(parser, args)
    if not parsed.text:
        raise UsageError("the text is empty", "Give at least one character")
    from bardlet.serve.model import load

    model = load(
        run_named(parsed, say), checkpoint=parsed.checkpoint, device=parsed.device,
        dtype=parsed.dtype,
    )  # fmt: skip
    layer, head = getattr(parsed, "layer", None), getattr(parsed, "head", None)
    show(model, parsed.text, layer, head, as_json=parsed.json)
    return 0


def show(model: Any, text: str, layer: int | None, head: int | None, *, as_json: bool) -> None:
    """Print the weights of one layer and head over a text, or their mean, and a table of heads."""
    from bardlet.analysis import attention, heads

    config = model.gpt.config
    for name, value, count in (("layer", layer, config.n_layer), ("head", head, config.n_head)):
        if value is not None and not 0 <= value < count:
            raise UsageError(f"{name}={value} must be from 0 to {count - 1}")
    ids = list(model.prompt(text))
    if len(ids) > model.context:
        say(f"the text is longer than the context of {model.context}: its end counts")
        ids = ids[-model.context :]
    weights = attention.trace(model.gpt, ids).attention  # (L, H, T, T)
    layers = range(config.n_layer) if layer is None else [layer]
    chosen = range(config.n_head) if head is None else [head]
    weights = weights[list(layers)][:, list(chosen)]
    names = [model.tokenizer.tokens()[i].decode("utf-8", "backslashreplace") for i in ids]
    about = [f"layer {layer}" if layer is not None else f"mean of {config.n_layer} layers",
             f"head {head}" if head is not None else f"mean of {config.n_head} heads"]  # fmt: skip
    info = {
        "checkpoint": model.trained.source, "text": text, "ids": ids, "tokens": names,
        "shown": ", ".join(about),
        "heads": [{"layer": i, "head": j, **heads.facts(weights[a, b])}
                  for a, i in enumerate(layers) for b, j in enumerate(chosen)],
    }  # fmt: skip
    if as_json:
        if weights.numel() > MAX_NUMBERS:
            raise UsageError(
                f"{weights.numel():,} weights are more than {MAX_NUMBERS:,} in JSON",
                "Pick one with --layer and --head, or give a shorter text",
            )
        print(json.dumps({**info, "weights": weights.tolist()}, ensure_ascii=False))
    else:
        print(heads.describe(info, weights.mean((0, 1)), names))
