"""Which recipe a sized run follows, bardlet's or nanoGPT's, by the options that it was given."""

from __future__ import annotations

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


def sequences(rows: int, context: int, fixed: Mapping[str, Any]) -> int:
    """The sequences of an iteration, near `rows` of `context` tokens, as `fixed` has them."""
    if fixed.get("tokens_per_step"):
        return max(1, fixed["tokens_per_step"] // context)
    size, steps = (fixed.get(name) for name in ("batch_size", "gradient_accumulation_steps"))
    if size and steps:
        return size * steps
    part = size or steps or 1
    return max(1, round(rows / part)) * part


def describe(recipe: Recipe, used: Mapping[str, Any]) -> str:
    """The recipe in a line, with the options as they are used."""
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
    return f"  recipe: {name}{why}: {recipe.family} family, {rate}, {used['schedule']}; {other}"
