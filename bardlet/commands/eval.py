"""`bardlet eval`: a model's loss on a whole split, or its scores on tasks and suites."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bardlet.commands import eval_tasks
from bardlet.commands.parser import Parser, add_formats, add_run, parse
from bardlet.commands.settings import run_named
from bardlet.config import TrainConfig
from bardlet.errors import DataError, UsageError
from bardlet.io.terminal import say
from bardlet.run import lock, run_folder
from bardlet.run.state import Scores

SCORING_S = 60.0  # that scoring a run at its end may take in any case


def run(parser: Parser, args: list[str]) -> int:
    add_run(parser)
    parser.add_argument("--dataset", help="default: the one it was trained on")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="default val")
    parser.add_argument("--batch_size", type=int, default=16, help="windows at once")
    add_formats(parser)
    eval_tasks.add_options(parser)
    parsed = parse(parser, args)
    run = run_named(parsed, say)
    if parsed.task or parsed.suite:
        return eval_tasks.run(run, parsed)
    scores = eval_run(
        run, checkpoint=parsed.checkpoint, dataset=getattr(parsed, "dataset", None),
        split=parsed.split, batch_size=parsed.batch_size, device_name=parsed.device,
        dtype=parsed.dtype, weights=parsed.weights, cache=parsed.cache,
    )  # fmt: skip
    if parsed.json:
        print(json.dumps(scores))
    else:
        print(
            "{split} loss {loss:.4f} nats per token, perplexity {perplexity:.4f}, "
            "{bits_per_byte:.4f} bits per byte, over {tokens:,} tokens".format(**scores)
        )
        if "accuracy" in scores:
            print(
                "that is of the chosen answers, which are likelier than the rejected ones in "
                "{accuracy:.1%} of {pairs:,} pairs".format(**scores)
            )
        if "weights_cost" in scores:
            print("weights in {weights} cost {weights_cost:+.5f} nats per token".format(**scores))
        if "cache_cost" in scores:
            print(
                "keys and values in {cache} cost {cache_cost:+.5f} nats per token".format(**scores)
            )
    return 0


def eval_run(
    run: str, *, checkpoint: str, dataset: str | None, split: str, batch_size: int,
    device_name: str, dtype: str, stop: Callable[[], bool] = lambda: False, weights: str = "auto",
    cache: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """The loss of a run's checkpoint, or of any other source, on a whole split, as JSON values.

    `weights` and `cache` are formats of native/quantised.py: the loss is that of the model rounded
    to them, and what each costs is told beside it, in float32 unless `dtype` names another.

    Raises EvalInterrupted where `stop` says so.
    """
    from bardlet.data.dataset import mixture
    from bardlet.data.tokenizers import base as tokenizers
    from bardlet.evaluate import Score, evaluate
    from bardlet.interop import load, origin
    from bardlet.native import quantised
    from bardlet.system import device
    from bardlet.system.distributed import Group
    from bardlet.training.pair_scores import PairScore, by_likelihood

    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} must be at least 1")
    quantised.check(weights, cache)
    trained = load.load_model(run, checkpoint)
    model, state = trained.model, trained.state
    name = dataset or origin.dataset_of(trained)
    if not name:
        raise UsageError(f"{run} was not trained here", "Name the data with --dataset")
    data = mixture.opened(name)
    if tokenizers.fingerprint(data.tokenizer) != tokenizers.fingerprint(trained.tokenizer):
        raise DataError(
            f"{data.folder} was prepared with another tokenizer than {trained.source}",
            "A loss compares on the same tokens only",
        )
    device.tune_process()
    exact = (weights, cache) != ("auto", "auto") and dtype == "auto"  # bfloat16 rounds them again
    machine = device.choose(device_name, "float32" if exact else dtype)
    model.to(machine.device)
    how: dict[str, Any] = {"batch_size": batch_size, "machine": machine, "group": Group()}
    whole_split: Callable[..., Score] = functools.partial(
        evaluate, model, data, split, **how, doc_mask=bool(state.config.get("doc_mask")), stop=stop
    )
    if data.preferences:
        whole_split = functools.partial(by_likelihood, model, data, split, **how, stop=stop)
        if cache != "auto":
            raise UsageError(f"cache={cache} is measured on text", f"{name} has pairs of answers")
    score, costs = whole_split(), dict[str, Any]()
    if weights != "auto":
        quantised.round_weights(model, weights)
        before, score = score, whole_split()
        costs.update(weights=weights, weights_cost=score.loss - before.loss)
    if cache != "auto":
        before, score = score, whole_split(cache=cache)
        costs.update(cache=cache, cache_cost=score.loss - before.loss)
    pairs = {}
    if isinstance(score, PairScore):
        pairs = {"pairs": score.pairs, "accuracy": score.accuracy}
    return {
        "checkpoint": trained.source, "dataset": name, "split": split, "loss": score.loss,
        "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens, "iter": state.iter, "device": str(machine.device),
        "dtype": str(machine.dtype).removeprefix("torch."), **costs, **pairs,
    }  # fmt: skip


def best_val_loss(
    config: TrainConfig, estimate: float, train_s: float, say: Callable[[str], None]
) -> str:
    """The best validation loss of a run that has ended, as text.

    Where its evaluations were estimates, the whole split is scored first, of the best checkpoint
    and of the last; the lower becomes `best`. The estimate is returned where that would take longer
    than the `train_s` seconds of training.
    """
    batches = 0 if config.eval_full else config.eval_iters
    sampled = Scores(
        train_loss=math.nan, val_loss=estimate, bits_per_byte=math.nan, val_batches=batches
    )
    if config.eval_full or config.eval_only or config.objective != "lm":
        return sampled.val
    run = Path(config.out_dir)
    pointers = [run_folder.read_pointer(run, name) for name in ("best", "last")]
    folders = list(dict.fromkeys(folder for folder in pointers if folder))
    from bardlet.evaluate import EvalInterrupted

    say("evaluating on the whole validation split")
    ends = time.monotonic() + max(SCORING_S, train_s)
    try:
        with lock.held(run):
            losses = {f: score(f, config, lambda: time.monotonic() > ends) for f in folders}
            best = min(losses, key=losses.__getitem__)
            run_folder.set_pointer(run, "best", best)
            return f"{losses[best]:.4f}"
    except EvalInterrupted:
        reason = "takes longer than training did"
    except KeyboardInterrupt:
        reason = "was interrupted"
    say(f"the evaluation {reason}; run it with: bardlet eval {shlex.quote(str(run))}")
    return sampled.val


def score(folder: Path, config: TrainConfig, stop: Callable[[], bool]) -> float:
    """The loss of a run's checkpoint on the whole validation split, written into its scores."""
    result = eval_run(
        str(folder), checkpoint="best", dataset=config.dataset, split="val",
        batch_size=config.batch_size, device_name=config.device, dtype=config.dtype, stop=stop,
    )  # fmt: skip
    scores = run_folder.read_scores(folder)
    if scores is not None:
        run_folder.write_scores(folder, dataclasses.replace(
            scores, val_loss=result["loss"], bits_per_byte=result["bits_per_byte"], val_batches=0,
            sampled_val_loss=scores.compared,
        ))  # fmt: skip
    return result["loss"]
