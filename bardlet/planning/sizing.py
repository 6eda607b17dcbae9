"""A run sized to its data and its machine: shape, batch, schedule and length from a short rule.

What a machine computes within the budget, C FLOPs, is spent on the largest model of a ladder that
still sees enough tokens:

- the ladder is deep and narrow at first, which teaches more per FLOP, and GPT-2's shapes later;
- enough is TOKENS_PER_PARAMETER at 10^20 FLOPs (Chinchilla, arXiv:2203.15556) and less below, as
  C^0.145: the exponent through the tuned presets of 3, 25 and 110 seconds on two CPU cores;
- or it is MIN_EPOCHS of the data, where that is less. Little is gained beyond MAX_EPOCHS
  (arXiv:2305.16264 has four), a few more where the text is small, nor by more parameters than
  PARAMETERS_PER_TOKEN of the text;
- a batch grows with the 0.6th power of the tokens seen, as those of the same presets and GPT-2's.

All figures were set on those presets and on slices of tiny Shakespeare's train split
(docs/log.md), and are extrapolated elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bardlet.data.dataset import mixture
from bardlet.errors import DataError
from bardlet.model import GPT, GPTConfig
from bardlet.native.training import NativeGPT, fits
from bardlet.system import device
from bardlet.system.device import Machine

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
STEP_S = 0.003  # of an iteration, whatever its size
REACHED = 0.35  # of a GPU's peak, by a well fed model


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a machine trains."""

    flops: float  # a second
    layer_s: float = 0.0  # an iteration takes this for each layer, however small

    def seconds(self, model: GPT, tokens: float) -> float:
        """Of an iteration with so many tokens, by the FLOPs that model.py counts."""
        counted = model.flops_per_token() * tokens / self.flops
        return max(counted, self.layer_s * model.config.n_layer) + STEP_S


def measure(machine: Machine) -> Speed:
    """The machine's speed: a small model's forward and backward, and of a GPU its peak besides."""
    config = shape_of(*LADDER[6], vocab_size=256)
    model = GPT(config).to(machine.device)
    forward = NativeGPT(model, machine.dtype) if fits(model, training=True) else model
    idx = torch.zeros(8, config.block_size, dtype=torch.int64, device=machine.device)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        with machine.autocast():
            _, loss = forward(idx, idx)
        loss.backward()
        sum(p.grad.sum() for p in model.parameters() if p.grad is not None)
        loss.item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    if machine.device.type == "cpu":
        return Speed(flops=model.flops_per_token() * idx.numel() / best)
    return Speed(flops=REACHED * machine.peak_flops(), layer_s=best / config.n_layer)


def shape_of(n_layer: int, n_embd: int, block_size: int, *, vocab_size: int) -> GPTConfig:
    """The model of a rung of the ladder."""
    return GPTConfig(
        family="llama", n_layer=n_layer, n_head=n_embd // (32 if n_embd < 384 else 64),
        n_embd=n_embd, block_size=block_size, vocab_size=vocab_size, qk_norm=True,
        rope_theta=float(max(200, 4 * block_size)),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model, and what it sees."""

    model: GPT  # without weights, on the meta device
    tokens: int  # of an iteration
    iters: int
    seconds: float  # of training
    enough: bool  # whether it sees as many tokens as its size asks for

    @property
    def params(self) -> int:
        """Of the blocks, which is what learns; embeddings follow the vocabulary."""
        config = self.model.config
        return self.model.num_params() - (1 + (not config.tied)) * config.vocab_size * config.n_embd


def plan(config: GPTConfig, train_tokens: int, budget_s: float, speed: Speed) -> Plan:
    """How long and in what batches a model of this shape trains within the budget."""
    with torch.device("meta"):
        model = GPT(config)
    smaller = max(1.0, 1e6 / train_tokens) ** 0.15  # a small text is worth more repetition
    max_tokens = MAX_EPOCHS * smaller * train_tokens
    seen = min(TRAINING * budget_s * speed.flops / model.flops_per_token(), max_tokens)
    rows = 4096 * (seen / 3e6) ** 0.6 / config.block_size
    tokens = 2 ** max(0, round(math.log2(rows))) * config.block_size
    step_s = speed.seconds(model, tokens)
    fit = max(1, int(TRAINING * budget_s / step_s))
    iters = min(fit, max(MIN_ITERS, math.ceil(max_tokens / tokens)))
    chosen = Plan(model=model, tokens=tokens, iters=iters, seconds=iters * step_s, enough=True)
    ratio = TOKENS_PER_PARAMETER * (budget_s * speed.flops / 1e20) ** 0.145
    min_tokens = min(ratio * chosen.params, MIN_EPOCHS * smaller * train_tokens)
    learns = chosen.params <= PARAMETERS_PER_TOKEN * train_tokens
    enough = learns and iters * tokens >= min_tokens and iters >= min(MIN_ITERS, fit)
    return Plan(model=model, tokens=tokens, iters=iters, seconds=iters * step_s, enough=enough)


def best_plan(train_tokens: int, vocab_size: int, budget_s: float, speed: Speed) -> Plan:
    """The largest model of the ladder that sees enough, or else the smallest of them."""
    plans = []
    for n_layer, n_embd, block_size in LADDER:
        # a window for each row of a batch at least
        context = min(block_size, 2 ** int(math.log2(max(8, train_tokens // 8))))
        shape = shape_of(n_layer, n_embd, context, vocab_size=vocab_size)
        plans.append(plan(shape, train_tokens, budget_s, speed))
    return ([p for p in plans if p.enough] or plans[:1])[-1]


def options(chosen: Plan, train_tokens: int, val_tokens: int, budget_s: float) -> dict[str, Any]:
    """The plan as options of a training run."""
    config = chosen.model.config
    rows = chosen.tokens // config.block_size
    batch_size = min(rows, max(1, 16384 // config.block_size))
    evaluations = 3 + min(30, int(budget_s / 600))
    seen = chosen.iters * chosen.tokens
    # a tenth of the time is for evaluations; scoring costs a third of training
    affordable = int(0.1 * seen * 3 / evaluations)
    full = val_tokens <= affordable
    sampled = affordable // (2 * batch_size * config.block_size)  # train is estimated as well
    return {
        "family": "llama", "n_layer": config.n_layer, "n_head": config.n_head,
        "n_embd": config.n_embd, "block_size": config.block_size, "qk_norm": True,
        "rope_theta": config.rope_theta, "batch_size": batch_size,
        "gradient_accumulation_steps": rows // batch_size, "max_iters": chosen.iters,
        "eval_interval": max(1, math.ceil(chosen.iters / evaluations)), "eval_full": full,
        "eval_iters": 10 if full else max(10, sampled),
        "log_interval": 10, "always_save_checkpoint": True,
        "optimizer": "muon", "muon_lr": 0.02,
        "learning_rate": 5e-3 * min(1.0, 256 / config.n_embd), "min_lr": 0.0,
        "weight_decay": 0.4 if chosen.params > PARAMETERS_PER_TOKEN / 2 * train_tokens else 0.2,
        "grad_clip": 0.0, "schedule": "trapezoid", "cooldown_frac": 0.8,
        "warmup_iters": min(100, max(5, chosen.iters // 40)),
    }  # fmt: skip


def sized(
    flags: Mapping[str, object], budget_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """The options of a run on the dataset that `flags` name, for `budget_s` seconds here.

    Says what was chosen and why. What else the flags set is theirs, and not counted on.
    """
    dataset = mixture.opened(str(flags["dataset"]))
    train_tokens, val_tokens = (len(dataset.splits[s]) for s in ("train", "val"))
    if train_tokens < 16:
        raise DataError(
            f"the train split of {dataset.folder} has {train_tokens} tokens, too few to learn from",
            "Prepare more text",
        )
    device.tune_process()
    machine = device.choose(str(flags.get("device", "auto")), str(flags.get("dtype", "auto")))
    speed = measure(machine)
    chosen = best_plan(train_tokens, dataset.vocab_size, budget_s, speed)
    for line in reasons(chosen, train_tokens, budget_s, speed):
        say(line)
    return options(chosen, train_tokens, val_tokens, budget_s)


def reasons(chosen: Plan, train_tokens: int, budget_s: float, speed: Speed) -> list[str]:
    """What was chosen, and why, in three lines."""
    config = chosen.model.config
    epochs = chosen.iters * chosen.tokens / train_tokens
    if not chosen.enough:
        why = "the smallest model there is: for more there is too little text or time"
    else:
        why = "the largest model that sees enough tokens for its size in this time"
    if chosen.seconds > 0.8 * TRAINING * budget_s:
        length = "as many as the time allows"
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
