"""A run that begins from a model, sized to its data and its machine: the model's shape is fixed.

What a model knows is lost to large rates and many epochs, so both are small and validation decides
when to stop. The figures are customary ones: nanoGPT's rate for GPT-2 XL's finetuning, larger for
smaller models with the root of their size, ten times as large for low-rank matrices beside the
weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bardlet.config import resolve
from bardlet.data.dataset import mixture
from bardlet.data.dataset.samples import beginnings
from bardlet.errors import DataError, UsageError
from bardlet.model import GPT, GPTConfig
from bardlet.planning import recipe
from bardlet.planning.recipe import sequences
from bardlet.planning.sizing import TRAINING
from bardlet.planning.speed import Speed, measure
from bardlet.system import device
from bardlet.training import streaming
from bardlet.training.resume import check_data

RATE, RATE_SIZE = 3e-5, 124e6  # the peak, for so many parameters
MAX_RATE = 3e-4
LORA_RATE = 10.0  # times, where low-rank matrices are trained
LORA_FLOPS = 2 / 3  # of an iteration's: frozen weights have no gradients
EPOCHS = 3.0
STEPS = 40  # of an epoch, at least, where the text is small
MIN_ITERS = 20  # where the time is short
MAX_TOKENS = 32768  # of an iteration
EVALUATIONS, PATIENCE = 10, 3
LOGITS = 1 << 28  # of a micro-batch, a gigabyte in float32
MIN_WINDOW, MAX_WINDOW = 128, 1024  # that are taken of a longer context
DOCUMENTS = 4  # of the usual length that have room in a window, which cuts the last of them


def window(dataset: str, context: int, say: Callable[[str], None]) -> int:
    """The block_size of a run from a model with this context, where nobody names one.

    Windows with room for the longest document and for several, powers of two from MIN_WINDOW to
    MAX_WINDOW. Without documents, the context up to MAX_WINDOW.
    """
    try:
        data = mixture.opened(dataset)
    except DataError:  # which the run says
        return context
    stream = data.splits["train"]
    starts = [
        shard.astype(np.int64) + int(stream.ends[number]) - len(stream.shards[number])
        for number, shard in enumerate(beginnings(data, "train"))
    ]
    sizes = np.diff(np.concatenate([*starts, [len(stream)]])) if starts else np.zeros(0)
    wanted, why = MAX_WINDOW, "a longer one takes more memory"
    if len(sizes):
        longest, mean = int(sizes.max()), float(sizes.mean())
        wanted = 2 ** math.ceil(math.log2(max(longest, DOCUMENTS * mean, MIN_WINDOW)))
        why = f"documents have {mean:,.0f} tokens on average and {longest:,} at most"
    size = min(context, MAX_WINDOW, wanted)
    if size < context:
        say(f"block_size={size} in place of {context}: {why} (--block_size)")
    return size


def finetuned(
    flags: Mapping[str, object], shape: GPTConfig, budget_s: float, say: Callable[[str], None]
) -> tuple[dict[str, Any], int]:
    """The options of a run from a model of this shape, on the dataset that `flags` name, for
    `budget_s` seconds here, and the iterations that the text is worth, however long they take.

    What else the flags set is kept to. Says what was chosen.
    """
    fixed = recipe.typed(flags)
    dataset = streaming.opened(flags)
    train_tokens, val_tokens = streaming.train_tokens(dataset), len(dataset.splits["val"])
    longest = 2 ** int(math.log2(max(8, train_tokens // 8)))
    rank = fixed.get("lora_rank", 0)
    context = fixed.get("block_size") or window(
        str(flags["dataset"]), min(shape.block_size, longest), say
    )
    if context > shape.block_size:
        raise UsageError(
            f"block_size={context} is above the {shape.block_size} of {flags['init_from']}",
            f"Give at most --block_size={shape.block_size}",
        )
    kept = ("vocab_size", "dropout", "lora_rank")  # the run's own
    of_model = {k: v for k, v in dataclasses.asdict(shape).items() if k not in kept}
    of_model["block_size"] = context
    for name in sorted(of_model.keys() & fixed.keys()):
        if fixed[name] != of_model[name]:
            say(f"{name}={fixed[name]} has no effect: the model's is {of_model[name]}")
    with torch.device("meta"):
        model = GPT(dataclasses.replace(shape, block_size=context, lora_rank=0))

    def chosen(speed: Speed) -> dict[str, Any]:
        sizes = batches(model, train_tokens, budget_s, speed, fixed, rank=rank)
        seen = math.prod(sizes[n] for n in SIZES) * context
        return {
            **of_model, **sizes, **evaluations(sizes, seen, val_tokens, context),
            **rates(model.num_params(), sizes["max_iters"], fixed, rank=rank),
        }  # fmt: skip

    check_data(resolve([("sized", chosen(Speed(flops=1e9))), ("command line", flags)]), dataset)
    device.tune_process()
    speed = measure(
        device.choose(str(flags.get("device", "auto")), str(flags.get("dtype", "auto")))
    )
    result = chosen(speed)
    for line in reasons({**result, **fixed}, model, train_tokens, budget_s, speed, rank=rank):
        say(line)
    tokens = result["batch_size"] * result["gradient_accumulation_steps"] * context
    return result, math.ceil(epochs(fixed) * train_tokens / tokens)


SIZES = ("batch_size", "gradient_accumulation_steps", "max_iters")


def epochs(fixed: Mapping[str, Any]) -> float:
    """How often a run sees its text; a stream comes once."""
    return 1.0 if fixed.get("stream") else EPOCHS


def batches(
    model: GPT, train_tokens: int, budget_s: float, speed: Speed, fixed: Mapping[str, Any], *,
    rank: int,
) -> dict[str, int]:  # fmt: skip
    """Sequences at once, how often in an iteration, and how many iterations."""
    context = model.config.block_size
    part = LORA_FLOPS if rank else 1.0
    fit = TRAINING * budget_s * speed.flops / (part * model.flops_per_token())  # tokens
    seen = min(fit, epochs(fixed) * train_tokens)
    tokens = min(MAX_TOKENS, train_tokens / STEPS, seen / MIN_ITERS)
    rows = sequences(2 ** max(0, math.floor(math.log2(max(1.0, tokens / context)))), context, fixed)
    at_once = max(1, min(16384, LOGITS // model.config.vocab_size) // context)
    steps = fixed.get("gradient_accumulation_steps") or -(-rows // min(rows, at_once))
    size = fixed.get("batch_size") or max(1, rows // steps)
    step_s = part * speed.seconds(model, size * steps * context)
    longest = max(1, int(TRAINING * budget_s / step_s))
    wanted = math.ceil(epochs(fixed) * train_tokens / (size * steps * context))
    iters = fixed.get("max_iters", min(longest, wanted))
    return {"batch_size": size, "gradient_accumulation_steps": steps, "max_iters": iters}


def evaluations(
    sizes: Mapping[str, int], seen: int, val_tokens: int, context: int
) -> dict[str, Any]:
    """When and on how much to evaluate, in about a tenth of the time of training on `seen`."""
    affordable = int(0.1 * seen * 3 / EVALUATIONS)  # scoring costs a third of training
    full = val_tokens <= affordable
    sampled = affordable // (2 * sizes["batch_size"] * context)  # train is estimated as well
    iters = sizes["max_iters"]
    return {
        "eval_interval": max(1, math.ceil(iters / EVALUATIONS)), "eval_full": full,
        "eval_iters": 10 if full else max(10, sampled), "log_interval": 10 if iters > 200 else 1,
        "always_save_checkpoint": False, "patience": PATIENCE,
    }  # fmt: skip


def rates(
    parameters: int, iters: int, fixed: Mapping[str, Any], *, rank: int
) -> dict[str, Any]:  # fmt: skip
    """The options of optimizer and schedule for a model of so many parameters."""
    usual = min(MAX_RATE, RATE * math.sqrt(RATE_SIZE / parameters))
    peak = fixed.get("learning_rate", float(f"{usual * (LORA_RATE if rank else 1):.2g}"))
    return {
        "optimizer": "adamw", "learning_rate": peak, "min_lr": float(f"{peak / 10:.6g}"),
        "weight_decay": 0.0 if rank else 0.01, "grad_clip": 1.0, "schedule": "cosine",
        "warmup_iters": min(100, iters // 20), "beta2": 0.99,
    }  # fmt: skip


def reasons(
    used: Mapping[str, Any], model: GPT, train_tokens: int, budget_s: float, speed: Speed, *,
    rank: int,
) -> list[str]:  # fmt: skip
    """What was chosen, in three lines."""
    tokens = used["batch_size"] * used["gradient_accumulation_steps"] * used["block_size"]
    times = used["max_iters"] * tokens / train_tokens
    seconds = used["max_iters"] * speed.seconds(model, tokens) * (LORA_FLOPS if rank else 1.0)
    what = f"low-rank matrices ({rank}) beside its weights" if rank else "all of its weights"
    return [
        f"finetuning {used['init_from']}, {model.num_params() / 1e6:.2f}M parameters, on "
        f"{train_tokens:,} tokens of text in {budget_s:,.0f} s of this machine, "
        f"{speed.flops / 1e9:,.0f} GFLOP/s (change the time with --budget):",
        f"  {used['max_iters']:,} iterations of {tokens:,} tokens, {times:.1f} epochs, about "
        f"{seconds:,.0f} s, or fewer: it stops after {used['patience']} evaluations without "
        "progress (--patience)",
        f"  AdamW at {used['learning_rate']:g} trains {what}, at small rates that keep what the "
        "model knows",
    ]
