"""Prompts out of a file, and a text's own log-probabilities: results as records for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bardlet.errors import DataError, UsageError
from bardlet.evaluate import Score
from bardlet.io.safe_read import parse_json, read_text
from bardlet.serve.completion import Completion, TokenLogprob, mean_loss
from bardlet.serve.model import Model


def prompts(path: Path) -> list[dict[str, Any]]:
    """The prompts of a file: a line each, or where its name ends in .jsonl an object each.

    An object has `prompt`, and may have any option of a text. Raises DataError for what is not so.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the prompts {path}: {error}") from None
    if path.suffix != ".jsonl":
        records = [{"prompt": line} for line in lines if line]
    else:
        records = [parsed(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise DataError(f"{path} has no prompt", "Write one a line, or objects in a .jsonl file")
    return records


def parsed(line: str, place: str) -> dict[str, Any]:
    """A line's object with a prompt."""
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise DataError(f'{place} is not an object with a text as its "prompt"')
    return value


def answered(
    model: Model, records: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The records with their texts; a record's own options stand above `options`."""
    requests = []
    for i, record in enumerate(records, 1):
        own = {name: value for name, value in record.items() if name != "prompt"}
        try:
            requests.append(model.request(record["prompt"], **{**options, **own}))
        except (UsageError, DataError, TypeError) as error:
            raise DataError(f"prompt {i}: {error}") from None
    for record, completion in zip(records, model.complete(requests), strict=True):
        yield {"prompt": record["prompt"], **as_record(model, completion)}


def as_record(model: Model, completion: Completion) -> dict[str, Any]:
    """A completion: its text, tokens, and why it ended; log-probabilities where it has them."""
    result: dict[str, Any] = {
        "text": completion.text, "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
    }  # fmt: skip
    if completion.request.logprobs is not None:
        result["logprobs"] = as_records(model, completion.logprobs)
    return result


def as_records(model: Model, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities by token: its text, its id, and the likeliest in its place."""
    pieces = model.tokenizer.tokens()

    def one(token: int, logprob: float) -> dict[str, Any]:
        text = pieces[token].decode("utf-8", errors="replace")
        return {"token": text, "id": token, "logprob": logprob}

    return [
        {**one(each.token, each.logprob), "top": [one(*other) for other in each.top]}
        for each in logprobs
    ]


def score(model: Model, path: Path, top: int) -> dict[str, Any]:
    """A text's loss as `eval` measures it, and each of its tokens: for JSON."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the text {path}: {error}") from None
    logprobs = model.logprobs(text, top)
    if not logprobs:
        raise DataError(f"{path} has no token to predict", "Give a text of two tokens or more")
    loss, sizes = mean_loss(logprobs), model.tokenizer.token_bytes()
    size = int(sum(sizes[each.token] for each in logprobs))
    bits = loss * len(logprobs) / math.log(2) / size if size else 0.0
    whole = Score(loss=loss, tokens=len(logprobs), bits_per_byte=bits)
    return {
        **dataclasses.asdict(whole), "perplexity": whole.perplexity,
        "logprobs": as_records(model, logprobs),
    }  # fmt: skip
