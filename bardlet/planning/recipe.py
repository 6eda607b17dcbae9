"""Which recipe a sized run follows, bardlet's or nanoGPT's, by the options that it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bardlet.config import coerce
from bardlet.errors import UsageError

# options whose values are of nanoGPT's optimizer or model: under Muon they would mean another thing
NANOGPT = ("learning_rate", "min_lr", "beta1", "beta2", "lr_decay_iters", "bias",
           "gelu_approximate")  # fmt: skip
LLAMA = ("n_kv_head", "head_dim", "qk_norm", "qkv_bias", "tie_embeddings", "rope_theta")
MUON = ("muon_lr", "muon_momentum")
STAGES = 3  # of a chain; the third gained a seventh of what the second did (docs/log.md)
# iterations of a student, times those of the first: the fewest, and what its text is worth to it
STUDENT_ITERS = 0.75, 1.3
STUDENT_COST = 4 / 3  # of an iteration: the teacher computes its forward pass
LARGE_BATCH = 100_000  # tokens; nanoGPT raises beta2 for batches of fewer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The family of the model, what trains it, and the option that decided on both."""

    family: str = "llama"
    optimizer: str = "muon"
    because: str = ""  # an option's name; empty where none decided


def typed(flags: Mapping[str, object]) -> dict[str, Any]:
    """The options that flags set, typed; UsageError with all problems of them."""
    values: dict[str, Any] = {}
    problems = []
    for name, value in flags.items():
        if (name, value) == ("batch_size", "auto"):
            continue  # trials find it
        try:
            values[name] = coerce(name, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("; ".join(problems), "`bardlet train --help` lists every option")
    return values


def choose(values: Mapping[str, Any]) -> Recipe:
    """The recipe for options that were given, typed: bardlet's, unless one is nanoGPT's own."""
    mine = next((name for name in (*MUON, *LLAMA) if values.get(name)), "")
    theirs = next((name for name in NANOGPT if name in values), "")
    if values.get("family") == "gpt2":
        theirs = theirs or "family"
    plain = values.get("optimizer", "adamw" if theirs and not mine else "muon") == "adamw"
    plain = plain or bool(values.get("lora_rank"))  # which has no whole matrices
    family = values.get("family", "gpt2" if theirs and plain and not mine else "llama")
    optimizer = values.get("optimizer", "adamw" if plain or family == "gpt2" else "muon")
    decided = next((n for n in ("optimizer", "family", theirs) if n in values), "")
    return Recipe(family=family, optimizer=optimizer, because=decided)


def rates(recipe: Recipe, values: Mapping[str, Any], *, n_embd: int, iters: int, tokens: int,
          overfits: bool) -> dict[str, Any]:  # fmt: skip
    """The options of optimizer and schedule; `tokens` are an iteration's, `overfits` is whether the
    model has many parameters for its text. What follows from an option given follows its value.
    """
    warmup = min(100, max(5, iters // 40))
    if recipe.optimizer == "adamw":
        peak = values.get("learning_rate", 1e-3 * min(1.0, 768 / n_embd))
        return {
            "optimizer": "adamw", "learning_rate": peak, "min_lr": float(f"{peak / 10:.6g}"),
            "beta2": 0.99 if tokens < LARGE_BATCH else 0.95, "weight_decay": 0.1,
            "grad_clip": 1.0, "schedule": "cosine", "warmup_iters": warmup,
        }  # fmt: skip
    return {
        "optimizer": "muon", "muon_lr": 0.02, "learning_rate": 5e-3 * min(1.0, 256 / n_embd),
        "min_lr": 0.0, "weight_decay": 0.4 if overfits else 0.2, "grad_clip": 0.0,
        "schedule": "trapezoid", "cooldown_frac": 0.8, "warmup_iters": warmup,
    }  # fmt: skip


def stages(
    values: Mapping[str, Any], *, iters: int, seconds: float, spare_s: float
) -> dict[str, Any]:
    """The options of a chain in `spare_s` seconds that are left after a run of `seconds` which has
    seen its text as often as it is worth: a student gains where more repetition would overfit.

    Without options where the time is too short for one, or an option says what a chain would.
    """
    taken = ("stages", "distill_from", "max_iters", "lora_rank", "eval_only", "stream")
    if any(values.get(name) for name in taken) or values.get("objective", "lm") != "lm":
        return {}
    fewest, worth = STUDENT_ITERS
    fit = spare_s / (STUDENT_COST * seconds)
    more = min(STAGES - 1, max(1, int(fit / worth)))
    if fit < fewest:
        return {}
    return {
        "stages": 1 + more, "stage_iters": math.ceil(min(worth, fit / more) * iters),
        "distill_weight": values.get("distill_weight", 0.7),
    }  # fmt: skip


def parts(options: Mapping[str, Any]) -> tuple[float, ...]:
    """What part of a run's training time each stage of it takes."""
    first, more = options["max_iters"], options.get("stages", 1) - 1
    later = STUDENT_COST * (options.get("stage_iters") or first) / first
    whole = 1 + later * more
    return (1 / whole, *[later / whole] * more)


def sequences(rows: int, context: int, fixed: Mapping[str, Any]) -> int:
    """The sequences of an iteration, near `rows` of `context` tokens, as `fixed` has them."""
    if fixed.get("tokens_per_step"):
        return max(1, fixed["tokens_per_step"] // context)
    size, steps = (fixed.get(name) for name in ("batch_size", "gradient_accumulation_steps"))
    if size and steps:
        return size * steps
    part = size or steps or 1
    return max(1, round(rows / part)) * part


def describe(recipe: Recipe, used: Mapping[str, Any]) -> list[str]:
    """The recipe in a line or two, with the options as they are used."""
    rate = f"AdamW at {used['learning_rate']:g}"
    if recipe.optimizer == "muon":
        rate = f"Muon at {used['muon_lr']:g} and {rate}"
    whose = {("llama", "muon"): "bardlet's", ("gpt2", "adamw"): "nanoGPT's"}
    name = whose.get((recipe.family, recipe.optimizer), "mixed")
    other = (
        "--family=gpt2 takes nanoGPT's" if name == "bardlet's"
        else "--family=llama --optimizer=muon takes bardlet's"
    )  # fmt: skip
    why = f", by --{recipe.because}" if recipe.because else ""
    lines = [f"  recipe: {name}{why}: {recipe.family} family, {rate}, {used['schedule']}; {other}"]
    if used.get("stages", 1) > 1:
        lines.append(
            f"  {used['stages']} stages: after the first each learns from the one before, for "
            f"{used['stage_iters']:,} iterations, in the time that is left (--stages=1: without)"
        )
    return lines
