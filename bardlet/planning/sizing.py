"""A run sized to its data and its machine: shape, batch, schedule and length from a short rule.

What a machine computes within the budget, C FLOPs, is spent on the largest model of a ladder that
still sees enough tokens:

- the ladder is deep and narrow at first, which teaches more per FLOP, and GPT-2's shapes later;
- enough is TOKENS_PER_PARAMETER at 10^20 FLOPs (Chinchilla, arXiv:2203.15556) and less below, as
  C^0.145: the exponent through the tuned presets of 3, 25 and 110 seconds on two CPU cores;
- or it is MIN_EPOCHS of the data, where that is less. Little is gained beyond MAX_EPOCHS
  (arXiv:2305.16264 has four), a few more where the text is small, nor by more parameters than
  PARAMETERS_PER_TOKEN of the text: what is left of the time goes into students (recipe.stages);
- a batch grows with the 0.6th power of the tokens seen, as those of the same presets and GPT-2's.

All figures were set on those presets and on slices of tiny Shakespeare's train split
(docs/log.md), and are extrapolated elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from bardlet.config import resolve
from bardlet.errors import DataError
from bardlet.model import GPT, GPTConfig
from bardlet.planning import recipe as recipes
from bardlet.planning.recipe import Recipe
from bardlet.planning.speed import Speed, measure
from bardlet.system import device
from bardlet.training import streaming
from bardlet.training.resume import check_data, model_config

# layers, width and context, from the smallest; heads are 32 wide, from 384 on 64
LADDER = (
    (2, 32, 32), (2, 32, 64), (4, 64, 64), (4, 96, 128), (6, 96, 128), (8, 96, 256), (12, 96, 256),
    (12, 128, 256), (12, 160, 256), (12, 192, 256), (12, 256, 256), (12, 384, 512),
    (12, 512, 512), (12, 768, 1024), (16, 1024, 1024), (24, 1024, 1024), (24, 1536, 1024),
    (24, 2048, 2048),
)  # fmt: skip
TOKENS_PER_PARAMETER = 20.0  # at 1e20 FLOPs
MIN_EPOCHS, MAX_EPOCHS = 2.5, 3.5  # of a million tokens
PARAMETERS_PER_TOKEN = 10.0
MIN_ITERS = 200  # fewer steps hardly leave the start, however small the text
TRAINING = 0.9  # the part of the budget that is training; evaluation and starting take the rest


def shape_of(
    n_layer: int, n_embd: int, block_size: int, *, vocab_size: int, family: str = "llama",
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> GPTConfig:  # fmt: skip
    """The model of a rung of the ladder, with the options in `fixed` as they are.

    Where heads are fixed, the width is rounded up to one that they divide; where it is fixed, heads
    divide it.
    """
    names = {field.name for field in dataclasses.fields(GPTConfig)} - {"lora_rank"}
    values = {name: value for name, value in fixed.items() if name in names}
    width = values.get("n_embd", n_embd)
    groups = values.get("n_kv_head") or 1
    heads = values.get("n_head") or next(
        (h for h in range(max(1, width // (32 if width < 384 else 64)), 0, -1)
         if width % h == 0 and h % groups == 0), groups
    )  # fmt: skip
    if "n_embd" not in values and "head_dim" not in values:
        width = math.ceil(width / (2 * heads)) * 2 * heads
    context = values.get("block_size", block_size)
    llama = {"qk_norm": True, "rope_theta": float(max(200, 4 * context))}
    shape = {
        "family": family, "n_layer": n_layer, "n_embd": width, "n_head": heads,
        "block_size": context, "vocab_size": vocab_size, **(llama if family == "llama" else {}),
    }  # fmt: skip
    return GPTConfig(**{**shape, **values, "vocab_size": values.get("vocab_size") or vocab_size})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model, and what it sees."""

    model: GPT  # without weights, on the meta device
    tokens: int  # of an iteration
    iters: int
    seconds: float  # of training
    enough: bool  # whether it sees as many tokens as its size asks for
    max_iters: int  # as many as the text is worth, however much time there is

    @property
    def params(self) -> int:
        """Of the blocks, which is what learns; embeddings follow the vocabulary."""
        config = self.model.config
        return self.model.num_params() - (1 + (not config.tied)) * config.vocab_size * config.n_embd


def plan(
    config: GPTConfig, train_tokens: int, budget_s: float, speed: Speed,
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:  # fmt: skip
    """How long and in what batches a model of this shape trains within the budget.

    Options in `fixed` that say so are kept to.
    """
    with torch.device("meta"):
        model = GPT(config)
    smaller = max(1.0, 1e6 / train_tokens) ** 0.15  # a small text is worth more repetition
    once = fixed.get("stream")  # a text of about so many tokens, each of which comes once
    low, high = (0.9, 1.0) if once else (MIN_EPOCHS * smaller, MAX_EPOCHS * smaller)
    seen = min(TRAINING * budget_s * speed.flops / model.flops_per_token(), high * train_tokens)
    rows = 4096 * (seen / 3e6) ** 0.6 / config.block_size
    rows = recipes.sequences(2 ** max(0, round(math.log2(rows))), config.block_size, fixed)
    tokens = rows * config.block_size
    step_s = speed.seconds(model, tokens)
    fit = max(1, int(TRAINING * budget_s / step_s))
    worth = math.ceil(high * train_tokens / tokens)
    worth = max(1, train_tokens // tokens) if once else max(MIN_ITERS, worth)
    iters = fixed.get("max_iters", min(fit, worth))
    fit = max(fit, iters) if iters * step_s <= budget_s else fit
    chosen = Plan(
        model=model, tokens=tokens, iters=iters, seconds=iters * step_s, enough=True,
        max_iters=worth,
    )  # fmt: skip
    ratio = TOKENS_PER_PARAMETER * (budget_s * speed.flops / 1e20) ** 0.145
    min_tokens = min(ratio * chosen.params, low * train_tokens)
    learns = chosen.params <= PARAMETERS_PER_TOKEN * train_tokens
    enough = learns and iters * tokens >= min_tokens and min(MIN_ITERS, fit, worth) <= iters <= fit
    return dataclasses.replace(chosen, enough=enough)


def best_plan(
    train_tokens: int, vocab_size: int, budget_s: float, speed: Speed, *, family: str = "llama",
    fixed: Mapping[str, Any] = MappingProxyType({}), ladder: Sequence[tuple[int, int, int]] = LADDER
) -> Plan:  # fmt: skip
    """The largest model of the ladder that sees enough, or else the smallest of them.

    Options in `fixed` are as they are in each.
    """
    # a window for each row of a batch at least
    longest = 2 ** int(math.log2(max(8, train_tokens // 8)))
    shapes = [
        shape_of(
            layers, width, min(context, longest), vocab_size=vocab_size, family=family, fixed=fixed
        )
        for layers, width, context in ladder
    ]
    plans = [plan(s, train_tokens, budget_s, speed, fixed) for s in dict.fromkeys(shapes)]
    return ([p for p in plans if p.enough] or plans[:1])[-1]


def options(
    chosen: Plan, train_tokens: int, val_tokens: int, budget_s: float,
    fixed: Mapping[str, Any] = MappingProxyType({}), recipe: Recipe = Recipe(),  # noqa: B008
) -> dict[str, Any]:  # fmt: skip
    """The plan as options of a training run."""
    config = chosen.model.config
    rows = chosen.tokens // config.block_size
    steps = fixed.get("gradient_accumulation_steps")
    usual = rows // steps if steps else min(rows, max(1, 16384 // config.block_size))
    batch_size = fixed.get("batch_size") or usual
    evaluations = 3 + min(30, int(budget_s / 600))
    seen = chosen.iters * chosen.tokens
    # a tenth of the time is for evaluations; scoring costs a third of training
    affordable = int(0.1 * seen * 3 / evaluations)
    full = val_tokens <= affordable
    sampled = affordable // (2 * batch_size * config.block_size)  # train is estimated as well
    shape = ("family", "n_layer", "n_head", "n_embd", "block_size", "qk_norm", "rope_theta")
    spare_s = TRAINING * budget_s - chosen.seconds if chosen.iters >= chosen.max_iters else 0.0
    return {
        **{name: getattr(config, name) for name in shape},
        "batch_size": batch_size,
        "gradient_accumulation_steps": max(1, rows // batch_size), "max_iters": chosen.iters,
        "eval_interval": max(1, math.ceil(chosen.iters / evaluations)), "eval_full": full,
        "eval_iters": 10 if full else max(10, sampled),
        "log_interval": 10, "always_save_checkpoint": True,
        **recipes.rates(
            recipe, fixed, n_embd=config.n_embd, iters=chosen.iters, tokens=chosen.tokens,
            overfits=chosen.params > PARAMETERS_PER_TOKEN / 2 * train_tokens,
        ),
        **recipes.stages(fixed, iters=chosen.iters, seconds=chosen.seconds, spare_s=spare_s),
    }  # fmt: skip


def sized(
    flags: Mapping[str, object], budget_s: float, say: Callable[[str], None]
) -> tuple[dict[str, Any], int]:
    """The options of a run on the dataset that `flags` name, for `budget_s` seconds here.

    With them the most iterations that its text is worth. Says why. What the flags set is kept, and
    checked first. Raises UsageError with all problems of the flags, DataError without a dataset.
    """
    dataset = streaming.opened(flags)
    train_tokens, val_tokens = streaming.train_tokens(dataset), len(dataset.splits["val"])
    if train_tokens < 16:
        raise DataError(
            f"the train split of {dataset.folder} has {train_tokens} tokens, too few to learn from",
            "Prepare more text",
        )
    fixed = recipes.typed(flags)
    recipe = recipes.choose(fixed)
    rule: dict[str, Any] = {"family": recipe.family, "fixed": fixed}
    smallest = best_plan(
        train_tokens, dataset.vocab_size, budget_s, Speed(flops=1e9), **rule, ladder=LADDER[:1]
    )
    unmeasured = options(smallest, train_tokens, val_tokens, budget_s, fixed, recipe)
    config = resolve([("sized", unmeasured), ("command line", flags)])
    check_data(config, dataset)
    model_config(config, dataset.vocab_size)
    device.tune_process()
    machine = device.choose(str(flags.get("device", "auto")), str(flags.get("dtype", "auto")))
    speed = measure(machine)
    chosen = best_plan(train_tokens, dataset.vocab_size, budget_s, speed, **rule)
    result = options(chosen, train_tokens, val_tokens, budget_s, fixed, recipe)
    for line in reasons(chosen, train_tokens, budget_s, speed, fixed):
        say(line)
    for line in recipes.describe(recipe, {**result, **fixed}):
        say(line)
    return result, chosen.max_iters


def reasons(
    chosen: Plan, train_tokens: int, budget_s: float, speed: Speed, fixed: Mapping[str, Any]
) -> list[str]:
    """What was chosen, and why, in three lines."""
    config = chosen.model.config
    epochs = chosen.iters * chosen.tokens / train_tokens
    if fixed.keys() >= {"n_layer", "n_embd", "block_size"}:
        why = "as asked"
    elif not chosen.enough:
        why = "the smallest model there is: for more there is too little text or time"
    else:
        why = "the largest model that sees enough tokens for its size in this time"
    if "max_iters" in fixed:
        length = "as asked"
    elif chosen.seconds > 0.8 * TRAINING * budget_s:
        length = "as many as the time allows"
    elif fixed.get("stream"):
        length = "a stream is one pass over its text"
    else:
        length = "more repetition of this text would overfit"
    return [
        f"sized to {train_tokens:,} tokens of text and {budget_s:,.0f} s of this machine, "
        f"{speed.flops / 1e9:,.0f} GFLOP/s (change the time with --budget):",
        f"  {config.n_layer} layers, {config.n_embd} wide, context {config.block_size}, "
        f"{chosen.params / 1e6:.2f}M parameters in its blocks: {why}",
        f"  {chosen.iters:,} iterations of {chosen.tokens:,} tokens, {epochs:.1f} epochs, about "
        f"{chosen.seconds:,.0f} s: {length}",
    ]
