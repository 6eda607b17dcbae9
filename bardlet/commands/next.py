"""`bardlet next`: the likeliest next tokens, beside how often the training text has them there."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from bardlet.commands.parser import Parser, add_run, parse
from bardlet.commands.sample import CHOICE, prompt_text, training_text
from bardlet.commands.settings import run_named
from bardlet.errors import BardletError, UsageError
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.serve.model import Model

FILTERS = ("temperature", "top_k", "top_p", "min_p")


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument(
        "--start", help="text before it, or FILE:path; default: as a document or a line begins"
    )
    parser.add_argument("--top", type=int, default=10, help="tokens that are shown; 0: all")
    for name in FILTERS:
        default, text = CHOICE[name]
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parsed = parse(parser, args)
    if parsed.top < 0:
        raise UsageError(f"top={parsed.top} must be at least 0")
    from bardlet.sampling.filters import Sampling
    from bardlet.serve.model import load

    sampling = Sampling(**{name: getattr(parsed, name) for name in FILTERS})
    model = load(
        run_named(parsed, say), checkpoint=parsed.checkpoint, device=parsed.device,
        dtype=parsed.dtype,
    )  # fmt: skip
    text = prompt_text(getattr(parsed, "start", None), model)
    info = facts(model, text, sampling, parsed.top)
    print(json.dumps(info, ensure_ascii=False) if parsed.json else describe(info))
    return 0


def facts(model: Model, text: str, sampling: Any, top: int) -> dict[str, Any]:
    """The likeliest tokens after a text, as JSON values; counts are null without the dataset."""
    import torch

    from bardlet.analysis import next_token

    ids = model.prompt(text)
    if len(ids) > model.context:
        say(f"the text is longer than the context of {model.context}: its end counts")
    logits = next_token.logits_after(model.gpt, torch.tensor(ids))
    own, drawn = next_token.probabilities(logits, sampling)
    counted = evidence_of(model, ids)
    counts = {row["id"]: row["count"] for row in counted["next"]} if counted else {}
    names, order = model.tokenizer.tokens(), own.argsort(descending=True, stable=True).tolist()
    rows = []
    for token in order[: top or None]:
        count = counts.get(token, 0) if counted else None
        rows.append({
            "id": token, "token": names[token].decode("utf-8", "backslashreplace"),
            "logit": logits[token].item(), "probability": own[token].item(),
            "drawn": drawn[token].item(), "count": count,
            "share": count / max(1, counted["count"]) if counted and count is not None else None,
        })  # fmt: skip
    entropy = -(own * own.clamp_min(1e-300).log()).sum().item()
    return {
        "checkpoint": model.trained.source, "prompt": text, "prompt_tokens": len(ids),
        "vocab_size": len(own), "entropy_nats": entropy,
        **{name: getattr(sampling, name) for name in FILTERS},
        "text": {"dataset": model.trained.state.dataset.name, "context": counted["context"],
                 "occurrences": counted["count"]} if counted else None,
        "tokens": rows,
    }  # fmt: skip


def evidence_of(model: Model, ids: tuple[int, ...]) -> dict[str, Any] | None:
    """What the training text has after the tokens of a prompt; None where it is not here."""
    from bardlet.analysis.counts import SplitText
    from bardlet.analysis.evidence import evidence

    trained = model.trained
    with contextlib.suppress(BardletError):
        dataset = training_text(trained.source, trained.state.dataset)
        text = SplitText(dataset.splits["train"], dataset.tokenizer)
        return evidence(text, ids=ids[len(model.behind) :][-model.context :], places=0)
    say("the training text is not here as it was, or is too large: nothing is counted")
    return None


def describe(info: dict[str, Any]) -> str:
    """What `facts` returns, for people."""
    from bardlet.analysis.explanation import quote

    quoted = json.dumps(info["prompt"][-60:], ensure_ascii=False)
    lines = [f"after {quoted}, {info['prompt_tokens']} tokens, by {info['checkpoint']}"]
    text = info["text"]
    if text:
        context = json.dumps(text["context"][-60:], ensure_ascii=False)
        where = (
            f"the training text of {text['dataset']} has {context} {text['occurrences']:,} times"
        )
        lines.append(where if text["context"] else "the training text has no end of it")
    how = " ".join(f"{name}={info[name]:g}" for name in FILTERS if off(name) != info[name])
    lines.append(f"drawn: {how or 'as the model has it'}")
    head = f"{'id':>7}  {'token':<12}{'probability':>11}{'drawn':>9}"
    lines.append(head + (f"{'count':>11}{'share':>9}" if text else ""))
    for row in info["tokens"]:
        token = quote(row["token"])
        line = f"{row['id']:>7}  {token:<12}{row['probability']:>11.1%}{row['drawn']:>9.1%}"
        lines.append(line + (f"{row['count']:>11,}{row['share']:>9.1%}" if text else ""))
    if (rest := info["vocab_size"] - len(info["tokens"])) > 0:
        left = max(0.0, 1 - sum(row["probability"] for row in info["tokens"]))
        lines.append(f"{rest:,} others{left:>24.1%}")
    return "\n".join(lines)


def off(name: str) -> float:
    """The value of a filter that changes nothing."""
    return {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}[name]
