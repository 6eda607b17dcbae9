"""`bardlet sample`: a checkpoint and a prompt to text on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.parser import Parser, add_draft, add_formats, add_run, parse
from bardlet.commands.settings import run_named
from bardlet.config import TRUTH
from bardlet.errors import DataError, UsageError
from bardlet.io.safe_read import read_text
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.data.dataset.folder import Dataset
    from bardlet.run.state import DatasetRef
    from bardlet.serve.model import Model

SEPARATOR = "---------------"
# how a token is chosen: each option's default and help
CHOICE: dict[str, tuple[float | int, str]] = {
    "temperature": (0.8, "0: always the likeliest"),
    "top_k": (200, "likeliest tokens drawn from; 0: all"),
    "top_p": (1.0, "the likeliest tokens with this probability together are drawn from"),
    "min_p": (0.0, "least probability of a token drawn, as a share of the likeliest's"),
    "repetition_penalty": (1.0, "above 1: tokens that stand already are less likely"),
    "presence_penalty": (0.0, "taken off the logits of tokens written already"),
    "frequency_penalty": (0.0, "the same for each time that they were written"),
}


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument(
        "--start", help="text to go on from, or FILE:path; default: as a document or a line begins"
    )
    parser.add_argument("--num_samples", type=int, default=10, help="texts to write")
    parser.add_argument("--max_new_tokens", type=int, default=500, help="tokens in each")
    for name, (default, text) in CHOICE.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument(
        "--stop", action="append", help="text at which a sample ends; may be given several times"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="prompts, a line each, or objects with `prompt` and options of their own in a .jsonl "
        "file: a text for each, as lines of JSON",
    )  # fmt: skip
    parser.add_argument(
        "--logprobs", type=Path, metavar="FILE",
        help="write nothing: the loss of this text as `eval` measures it, and what surprises most",
    )  # fmt: skip
    parser.add_argument(
        "--top_logprobs", type=int, metavar="N",
        help="in JSON: the log-probability of each token, and of the N likeliest in its place",
    )  # fmt: skip
    parser.add_argument(
        "-i", "--interactive", action="store_true", default=False,
        help="keep the model at hand and ask for prompts",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1337, help="of the random choices")
    add_formats(parser)
    add_draft(parser)
    parser.add_argument(
        "--check_memorization", action="store_true", default=False,
        help="mark the runs that stand word for word in the training text, and sum them up",
    )  # fmt: skip
    parser.add_argument(
        "--min_run", type=int, default=0, help="tokens from which such a run counts; 0: 50 bytes"
    )
    parser.add_argument("--compile", default="false", help="nanoGPT's; has no effect here")
    parsed = parse(parser, ["--compile=true" if arg == "--compile" else arg for arg in args])
    if parsed.min_run < 0:
        raise UsageError(f"min_run={parsed.min_run} must be at least 0")
    if wants_compile(parsed.compile):
        say("compile=true has no effect on sampling")
    from bardlet.serve.model import load

    model = load(
        run_named(parsed, say), checkpoint=parsed.checkpoint, device=parsed.device,
        dtype=parsed.dtype, weights=parsed.weights, cache=parsed.cache, draft=parsed.draft,
    )  # fmt: skip
    if parsed.draft and parsed.num_samples > 1 and not parsed.interactive:
        say("the draft helps where one text is left: --num_samples=1 writes one alone")
    options = {
        "seed": parsed.seed, **{name: getattr(parsed, name) for name in CHOICE},
        "stop": getattr(parsed, "stop", None) or [],
    }  # fmt: skip
    top, how_long = getattr(parsed, "top_logprobs", None), parsed.max_new_tokens
    if path := getattr(parsed, "logprobs", None):
        show_score(model, path, top or 0, parsed.json)
    elif parsed.interactive:
        from bardlet.serve.talk import talk

        talk(model, {**options, "max_new_tokens": how_long}, shown)
    elif path := getattr(parsed, "prompts", None):
        from bardlet.serve.files import answered, prompts

        every = {**options, "max_new_tokens": how_long, "logprobs": top}
        for record in answered(model, prompts(path), every):
            print(json.dumps(record, ensure_ascii=False))
    else:
        write(
            model, start=getattr(parsed, "start", None), num_samples=parsed.num_samples,
            max_new_tokens=how_long, options={**options, "logprobs": top}, as_json=parsed.json,
            check_memorization=parsed.check_memorization, min_run=parsed.min_run, say=say,
        )  # fmt: skip
    return 0


def shown(text: str) -> None:
    """Write a piece of text to stdout at once."""
    print(text, end="", flush=True)


def show_score(model: Model, path: Path, top: int, as_json: bool) -> None:
    """Print the loss of a text and its tokens, in JSON or the ten that surprise most."""
    from bardlet.serve.files import score

    result = score(model, path, top)
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"loss {result['loss']:.4f} nats per token, perplexity {result['perplexity']:.2f}, "
        f"{result['bits_per_byte']:.4f} bits per byte, {result['tokens']:,} tokens"
    )
    surprising = sorted(enumerate(result["logprobs"], 1), key=lambda pair: pair[1]["logprob"])
    for place, token in surprising[:10]:
        print(f"  token {place}, {token['token']!r}: {-token['logprob']:.2f} nats")


def wants_compile(value: str) -> bool:
    """The value of `--compile`, which is written as nanoGPT does."""
    if value.lower() not in TRUTH:
        raise UsageError(f"compile={value} is not true or false")
    return TRUTH[value.lower()]


def write(
    model: Model, *, start: str | None, num_samples: int, max_new_tokens: int,
    options: Mapping[str, Any], as_json: bool,
    check_memorization: bool = False, min_run: int = 0, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Print samples of a model; one sample is streamed as it is written.

    A sample ends with its text. `options` are those of serve.model.Model. `start` is the prompt,
    FILE:path the prompt's file, None the way in which a document or a line begins. A prompt of a
    run of prompts with responses ends in a line end, as `prepare` ends them.
    `check_memorization` marks what of the samples stands in the training text;
    analysis/memorization.py has `min_run`.
    """
    import numpy as np

    from bardlet.analysis import memorization
    from bardlet.data.tokenizers.coverage import losses
    from bardlet.sample import check
    from bardlet.serve.completion import Completion
    from bardlet.serve.files import as_records

    check(num_samples, max_new_tokens, options["seed"])
    trained, tokenizer = model.trained, model.tokenizer
    dataset = trained.state.dataset
    trained_on = training_text(trained.source, dataset) if check_memorization else None
    text = prompt_text(start, model)
    prompt = model.prompt(text)
    for line in losses(tokenizer, text):
        say(f"of the prompt, {line}")
    if len(prompt) > model.context:
        say(f"the prompt is longer than the context of {model.context}: its end counts")
    requests = [
        model.request(prompt, number=i, max_new_tokens=max_new_tokens, **options)
        for i in range(num_samples)
    ]
    streamed = num_samples == 1 and not as_json and trained_on is None
    began = time.perf_counter()
    if streamed:
        shown(text)
        completions = [Completion(requests[0])]
        for piece in model.pieces(completions[0]):
            shown(piece)
    else:
        completions = model.complete(requests)
    took = time.perf_counter() - began
    texts = [text + completion.text for completion in completions]
    rows = [np.array(completion.tokens, dtype=np.int64) for completion in completions]
    count = sum(map(len, rows))
    rate = count / took if took else 0.0
    memorized = None
    if trained_on is not None:
        memorized = memorization.report(trained_on, tokenizer, rows, min_run)
    if options.get("logprobs") is not None:
        options = {**options, "logprobs": [as_records(model, c.logprobs) for c in completions]}
    if as_json:
        result: dict[str, Any] = {
            "checkpoint": trained.source, "prompt": text, "samples": texts, **options,
            "finish_reasons": [completion.finish_reason for completion in completions],
            "tokens": [completion.tokens for completion in completions],
            "new_tokens": max(map(len, rows)),
            "tokens_per_s": rate,
        }  # fmt: skip
        print(json.dumps({**result, "memorization": memorized} if memorized else result))
    elif streamed:
        print(f"\n{SEPARATOR}")
    else:
        if memorized:
            texts = [
                text + memorization.marked(row, sample["runs"], tokenizer)
                for row, sample in zip(rows, memorized["samples"], strict=True)
            ]
        for sample in texts:
            print(f"{sample}\n{SEPARATOR}")
        if memorized:
            print(memorization.describe(memorized))
    sys.stdout.flush()
    say(f"{count:,} tokens in {took:.1f} s: {rate:,.0f} tok/s")


def training_text(source: str, trained_on: DatasetRef) -> Dataset:
    """The dataset that a checkpoint was trained on; DataError where it is not here as it was."""
    from bardlet.data.dataset import mixture

    dataset = mixture.opened(trained_on.name)
    if dataset.hash != trained_on.hash:
        raise DataError(
            f"{dataset.folder} does not have the tokens that {source} was trained on",
            "What a model knows by heart shows in its own training text only",
        )
    return dataset


def prompt_text(start: str | None, model: Model) -> str:
    """The prompt that `start` asks for; where it asks for none, how a text or a line begins."""
    if start is None:
        return model.beginning
    if start.startswith("FILE:"):
        path = Path(start.removeprefix("FILE:"))
        try:
            start = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the prompt {path}: {error}") from None
    if not start:
        raise UsageError("the prompt is empty", "Give at least one character to go on from")
    return model.as_prompt(start)
