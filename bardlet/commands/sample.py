"""`bardlet sample`: a checkpoint and a prompt to text on stdout."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.parser import Parser, add_run, parse
from bardlet.commands.settings import run_named
from bardlet.config import TRUTH
from bardlet.errors import DataError, UsageError
from bardlet.io.safe_read import read_text
from bardlet.io.terminal import say

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bardlet.data.dataset.folder import Dataset
    from bardlet.data.tokenizers.base import Tokenizer
    from bardlet.model import GPT
    from bardlet.run.state import DatasetRef

SEPARATOR = "---------------"


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
    parser.add_argument("--compile", default="false", help="nanoGPT's; has no effect here")
    parsed = parse(parser, ["--compile=true" if arg == "--compile" else arg for arg in args])
    if parsed.min_run < 0:
        raise UsageError(f"min_run={parsed.min_run} must be at least 0")
    if wants_compile(parsed.compile):
        say("compile=true has no effect on sampling")
    run = run_named(parsed, say)
    write(
        run=run, checkpoint=parsed.checkpoint, start=getattr(parsed, "start", None),
        seed=parsed.seed, num_samples=parsed.num_samples, max_new_tokens=parsed.max_new_tokens,
        temperature=parsed.temperature, top_k=parsed.top_k,
        device_name=parsed.device, dtype=parsed.dtype, as_json=parsed.json,
        check_memorization=parsed.check_memorization, min_run=parsed.min_run, say=say,
    )  # fmt: skip
    return 0


def wants_compile(value: str) -> bool:
    """The value of `--compile`, which is written as nanoGPT does."""
    if value.lower() not in TRUTH:
        raise UsageError(f"compile={value} is not true or false")
    return TRUTH[value.lower()]


def write(
    *, run: str, checkpoint: str, start: str | None, num_samples: int, max_new_tokens: int,
    temperature: float, top_k: int, seed: int, device_name: str, dtype: str, as_json: bool,
    check_memorization: bool = False, min_run: int = 0, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Print samples from a run's checkpoint; one sample is streamed as it is written.

    A sample ends with its text. `start` is the prompt, FILE:path the prompt's file, None a new line
    where the alphabet has it; after documents, a text begins as they did: behind the end of one. A
    prompt of a run of prompts with responses ends in a line end, as `prepare` ends them.
    `check_memorization` marks what of the samples stands in the training text;
    analysis/memorization.py has `min_run`.
    """
    import torch

    from bardlet import native
    from bardlet.analysis import memorization
    from bardlet.interop import load
    from bardlet.sample import check, generate
    from bardlet.system import device
    from bardlet.system.memory import MicroBatcher

    check(num_samples, max_new_tokens, temperature, top_k, seed)
    trained = load.load_model(run, checkpoint)
    model, tokenizer = trained.model, trained.tokenizer
    without_padding(model, tokenizer.vocab_size)
    dataset = trained.state.dataset
    trained_on = training_text(trained.source, dataset) if check_memorization else None
    machine = device.choose(device_name, dtype)
    model.to(machine.device)
    if not native.runs(model):  # which converts weights itself
        model.to(machine.dtype)  # half the bytes to read for every token
    text, ids = prompt_of(start, tokenizer, dataset)
    prompt = torch.tensor(ids, dtype=torch.int64)  # (P,)
    if len(prompt) > model.config.block_size:
        say(f"the prompt is longer than the context of {model.config.block_size}: its end counts")
    streamed = num_samples == 1 and not as_json and trained_on is None
    if streamed:
        print(text, end="", flush=True)
    began = time.perf_counter()
    draw = functools.partial(
        generate, model, prompt, max_new_tokens=max_new_tokens, temperature=temperature,
        top_k=top_k, seed=seed, dtype=machine.dtype,
    )  # fmt: skip
    if streamed:
        rows = [shown_while_drawn(draw(), tokenizer)]
    else:
        all_of_them = functools.partial(drawn, draw, num_samples, tokenizer.end_of_text)
        rows = MicroBatcher(num_samples).run(all_of_them)
    took = time.perf_counter() - began
    # a stream that is not ended leaves out a character that its last token only begins
    texts = [text + tokenizer.stream().feed(row.tolist()) for row in rows]
    count = sum(map(len, rows))
    rate = count / took if took else 0.0
    memorized = None
    if trained_on is not None:
        memorized = memorization.report(trained_on, tokenizer, rows, min_run)
    if as_json:
        result: dict[str, Any] = {
            "checkpoint": trained.source, "prompt": text, "samples": texts, "seed": seed,
            "temperature": temperature, "top_k": top_k, "new_tokens": max(map(len, rows)),
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


def shown_while_drawn(chosen: Iterator[torch.Tensor], tokenizer: Tokenizer) -> np.ndarray:
    """The new tokens of one sample, (N,) int64, printed as they come, before the end of text."""
    import numpy as np

    stream, tokens = tokenizer.stream(), []
    for token in chosen:
        if token.item() == tokenizer.end_of_text:
            break
        tokens.append(token.item())
        print(stream.feed(tokens[-1:]), end="", flush=True)
    return np.array(tokens, dtype=np.int64)


def drawn(
    draw: Callable[..., Iterator[torch.Tensor]], num_samples: int, end: int | None, size: int
) -> list[np.ndarray]:
    """The new tokens of all samples, (N,) int64 each, before the token `end`; `size` at once."""
    import numpy as np

    rows = []
    for first in range(0, num_samples, size):
        count = min(size, num_samples - first)
        columns: list[np.ndarray] = []
        ended = np.zeros(count, dtype=bool)
        for chosen in draw(num_samples=count, first=first):
            columns.append(chosen.numpy())
            ended |= columns[-1] == end
            if ended.all():
                break
        for row in np.array(columns, dtype=np.int64).reshape(-1, count).T:
            ends = np.flatnonzero(row == end)
            rows.append(row[: ends[0]] if len(ends) else row)
    return rows


def without_padding(model: GPT, vocab_size: int) -> None:
    """Take from a model the tokens at the end of its vocabulary that stand for no text.

    `vocab_size` larger than the dataset's makes them, for speed; training makes them unlikely only.
    """
    import torch

    if vocab_size == model.config.vocab_size:
        return
    model.config = dataclasses.replace(model.config, vocab_size=vocab_size)
    head = torch.nn.Parameter(model.lm_head.weight.detach()[:vocab_size].clone())
    embedding = model.get_parameter("transformer.wte.weight").detach()[:vocab_size].clone()
    model.lm_head.weight = head
    model.transformer["wte"].weight = head if model.config.tied else torch.nn.Parameter(embedding)


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


def prompt_of(
    start: str | None, tokenizer: Tokenizer, dataset: DatasetRef
) -> tuple[str, list[int]]:
    """The prompt's text, and its ids behind the end of a document where the dataset has that."""
    from bardlet.interop.chat_template import of_pairs

    ends = dataset.end_of_text
    behind = [] if ends is None or ends >= tokenizer.vocab_size else [ends]
    text = "" if start is None and behind else prompt_text(start, tokenizer)
    if start is not None and of_pairs(dataset) and text == text.rstrip():
        text += "\n"  # which stands between a prompt and its response
    return text, behind + tokenizer.encode(text).tolist()


def prompt_text(start: str | None, tokenizer: Tokenizer) -> str:
    """The prompt that `start` asks for, one that the tokenizer has ids for."""
    if start is None:
        return "\n" if b"\n" in tokenizer.tokens() else tokenizer.decode([0])
    if start.startswith("FILE:"):
        path = Path(start.removeprefix("FILE:"))
        try:
            start = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the prompt {path}: {error}") from None
    if not start:
        raise UsageError("the prompt is empty", "Give at least one character to go on from")
    return start
