"""`bardlet explain`: one token step through a model, with its numbers and its lines of code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.next import FILTERS
from bardlet.commands.parser import Parser, parse
from bardlet.commands.sample import CHOICE, prompt_text
from bardlet.commands.settings import newest_run
from bardlet.errors import DataError
from bardlet.io import atomic
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.analysis.explanation import Station


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument("run", nargs="?", default=None, help="run or checkpoint; else the newest")
    parser.add_argument("--checkpoint", default="best", help="best (default), last or iter-...")
    parser.add_argument(
        "--start", help="text before it, or FILE:path; default: as a document or a line begins"
    )
    for name in FILTERS:
        default, text = CHOICE[name]
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument("--seed", type=int, default=1337, help="of the random choice")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page")
    parsed = parse(parser, args)
    from bardlet.analysis import explanation
    from bardlet.sample import check
    from bardlet.sampling.filters import Sampling

    check(1, 1, parsed.seed)
    sampling = Sampling(**{name: getattr(parsed, name) for name in FILTERS})
    run = str(parsed.run or newest_run(say))
    info, way = explained(
        run, parsed.checkpoint, getattr(parsed, "start", None), sampling, parsed.seed
    )
    if path := getattr(parsed, "html", None):
        try:
            write_page(path, info, way)
        except OSError as error:
            hint = "Name a file in a folder that is there, such as explain.html"
            raise DataError(f"cannot write {path}: {error.strerror}", hint) from None
    elif parsed.json:
        print(json.dumps(info, ensure_ascii=False))
    else:
        print(heading(info))
        print(f"\n{explanation.describe(way)}")
    return 0


def explained(
    run: str, checkpoint: str, start: str | None, sampling: Any, seed: int
) -> tuple[dict[str, Any], list[Station]]:
    """The step after a prompt: its facts as JSON values, and as stations.

    In float32 on the CPU, where model.py computes; `sample --dtype=float32` draws the same token.
    """
    from bardlet.analysis import explanation, next_token
    from bardlet.analysis.token_step import follow
    from bardlet.sample import uniform_numbers
    from bardlet.sampling.filters import choose
    from bardlet.serve.model import load

    model = load(run, checkpoint=checkpoint, device="cpu", dtype="float32")
    text = prompt_text(start, model)
    ids = model.prompt(text)
    if len(ids) > model.context:
        say(f"the text is longer than the context of {model.context}: its end counts")
    step = follow(model.gpt, list(ids[-model.context :]))
    names = explanation.quoted(model.tokenizer.tokens())
    uniform = uniform_numbers(1, seed)[0]
    way = explanation.stations(
        model.gpt, step, names, sampling, uniform, seed, model.tokenizer.kind
    )
    own, drawn = next_token.probabilities(step.logits, sampling)
    token = int(choose(step.logits[None], uniform[None], sampling)[0])
    info = {
        "checkpoint": model.trained.source, "prompt": text, "ids": list(ids), "seed": seed,
        **{name: getattr(sampling, name) for name in FILTERS},
        "layers": [
            {"attention": layer.heads.tolist(), "attention_norm": layer.attention.norm().item(),
             "mlp_norm": layer.mlp.norm().item(), "residual_norm": layer.after.norm().item()}
            for layer in step.layers
        ],
        "logits": step.logits.tolist(), "probabilities": own.tolist(),
        "drawn_with": drawn.tolist(), "uniform": uniform.item(), "token": token,
        "text": model.tokenizer.tokens()[token].decode("utf-8", "backslashreplace"),
        "stations": [dataclasses.asdict(station) for station in way],
    }  # fmt: skip
    return info, way


def heading(info: dict[str, Any]) -> str:
    quoted = json.dumps(info["prompt"][-60:], ensure_ascii=False)
    return f"{info['checkpoint']}: the token after {quoted}"


def write_page(path: Path, info: dict[str, Any], way: list[Station]) -> None:
    """Write the stations as a self-contained HTML page, each with the function that does it."""
    from bardlet.analysis.explanation import source
    from bardlet.web import page

    stations = [{**dataclasses.asdict(one), "source": source(one.code)} for one in way]
    data = {"heading": heading(info), "stations": stations}
    html = page.build("bardlet explain", modules=["explain.js"], style="explain.css", data=data)
    atomic.write_text(path, html)
    say(f"wrote {path}: open it in a browser")
