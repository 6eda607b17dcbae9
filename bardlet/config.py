"""The options of a run: typed, frozen, resolved in one order, all problems reported at once.

    defaults <- preset <- file <- flags

Names are nanoGPT's where nanoGPT has the option. `commands/settings.py` reads presets and files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bardlet.errors import UsageError, did_you_mean

Value = str | int | float | bool
BUILTIN_INIT = ("scratch", "resume")  # values of init_from that name no model
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def option(
    default: Value, help: str, *, group: str = "", low: float | None = None,
    high: float | None = None, choices: Sequence[Value] = (),
) -> Any:  # fmt: skip
    """A field of TrainConfig: its default, help text, and the values it may take."""
    bounds = {"help": help, "group": group, "low": low, "high": high, "choices": tuple(choices)}
    return field(default=default, metadata=bounds)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every option of a training run. The defaults are nanoGPT's (GPT-2 124M), device aside."""

    out_dir: str = option("out", "folder of the run", group="input and output")
    dataset: str = option("openwebtext", "name of a folder in data/, or a path to one")
    stream: bool = option(False, "the dataset is one that `prepare --stream` writes meanwhile")
    init_from: str = option(
        "scratch", "scratch, resume, or a model to go on from: gpt2, OWNER/NAME of the hub, a "
        "folder of transformers, nanoGPT's ckpt.pt, a run",
    )  # fmt: skip
    fresh: bool = option(False, "start anew over the run that is in out_dir")
    eval_interval: int = option(2000, "iterations between evaluations", low=1)
    eval_iters: int = option(200, "batches of a sampled loss estimate", low=1)
    eval_full: bool = option(True, "validate on the whole split; false: on eval_iters batches")
    eval_only: bool = option(False, "evaluate once and exit")
    eval_on_start: bool = option(False, "show a new model's loss on a few sequences: about ln V")
    log_interval: int = option(1, "iterations between log lines", low=1)
    always_save_checkpoint: bool = option(
        True, "save after each evaluation; false: only when validation improves, and at the end"
    )
    save_interval: int = option(0, "iterations between saves; 0: at evaluations only", low=0)
    save_minutes: float = option(10.0, "minutes after which a save is due; 0: never", low=0)
    keep_checkpoints: int = option(2, "newest checkpoints kept, beside the best", low=1)
    save_failure: str = option(
        "continue", "when a checkpoint cannot be saved: train on, or stop",
        choices=("continue", "stop"),
    )  # fmt: skip
    patience: int = option(0, "evaluations without progress to stop after; 0: never", low=0)
    skip_spikes: bool = option(False, "take no step where the loss spikes; false: only log it")
    guard_dead: bool = option(True, "stop a run that has stopped learning; false: only log it")
    sample_interval: int = option(
        0, "iterations between samples, a few texts into samples.jsonl; 0: never", low=0
    )
    sample_start: str = option(
        "auto", "prompt of these; auto: none, and the first words of the validation text"
    )
    tensorboard: bool = option(False, "log to TensorBoard as well, in out_dir/tensorboard")
    trackio: bool = option(False, "log to trackio as well")
    wandb_log: bool = option(False, "log to Weights & Biases as well")
    wandb_project: str = option("owt", "its project")
    wandb_run_name: str = option("gpt2", "its run name")

    batch_size: int = option(
        12, "sequences in one micro-batch; auto: the fastest that fits here", group="batches", low=1
    )  # fmt: skip
    gradient_accumulation_steps: int = option(40, "micro-batches an iteration, all ranks", low=1)
    tokens_per_step: int = option(0, "tokens an iteration, all ranks; 0: by micro-batches", low=0)
    block_size: int = option(1024, "context length in tokens", low=1)
    doc_mask: bool = option(False, "attention stays within documents; false: it crosses them")
    seed: int = option(1337, "of initial weights, batches and dropout", low=0, high=2**63 - 1)

    family: str = option(
        "gpt2", "architecture of the model", group="model", choices=("gpt2", "llama")
    )
    n_layer: int = option(12, "blocks", low=1)
    n_head: int = option(12, "attention heads", low=1)
    n_embd: int = option(768, "width", low=1)
    vocab_size: int = option(0, "tokens in the vocabulary; 0: the dataset's", low=0)
    dropout: float = option(0.0, "probability of dropping an activation", low=0, high=0.99)
    bias: bool = option(False, "gpt2: biases in linear layers and norms")
    n_kv_head: int = option(0, "llama: key-value heads; 0: n_head", low=0)
    head_dim: int = option(0, "llama: size of a head; 0: n_embd / n_head", low=0)
    mlp_dim: int = option(0, "width of the MLP; 0: 4 n_embd for gpt2, 8/3 n_embd for llama", low=0)
    qk_norm: bool = option(False, "llama: normalise queries and keys, as Qwen3")
    qkv_bias: bool = option(False, "llama: biases of queries, keys and values, as Qwen2")
    rope_theta: float = option(10000.0, "llama: base of the rotary wavelengths", low=1)
    tie_embeddings: bool = option(False, "llama: the head is the embedding (gpt2: always)")
    norm_eps: float = option(1e-5, "epsilon of the norms", low=0, high=1)
    gelu_approximate: str = option(
        "none", "gpt2: tanh is what OpenAI's weights were trained with", choices=("none", "tanh")
    )
    lora_rank: int = option(
        0, "train matrices of this rank beside init_from's weights; 0: train all weights", low=0
    )

    optimizer: str = option(
        "adamw", "muon: for the blocks' matrices, AdamW for the rest",
        group="optimizer", choices=("adamw", "muon"),
    )  # fmt: skip
    learning_rate: float = option(6e-4, "peak rate of AdamW", low=0)
    max_iters: int = option(600000, "iterations of the whole run", low=0)
    epochs: float = option(
        0.0, "times through the training text, which set max_iters and an evaluation an epoch; 0: "
        "max_iters says", low=0,
    )  # fmt: skip
    weight_decay: float = option(0.1, "decoupled decay; with muon of the blocks' matrices", low=0)
    beta1: float = option(0.9, "AdamW's decay of the mean gradient", low=0, high=0.9999999)
    beta2: float = option(0.95, "AdamW's decay of the squared gradient", low=0, high=0.9999999)
    muon_lr: float = option(0.02, "peak rate of Muon", low=0)
    muon_momentum: float = option(0.95, "Muon's momentum", low=0, high=0.9999999)
    objective: str = option(
        "lm", "lm: the next token; dpo: which of two answers is preferred, on pairs of them",
        choices=("lm", "dpo"),
    )  # fmt: skip
    dpo_beta: float = option(
        0.1, "dpo: the larger, the nearer to the model that it begins from", low=1e-6, high=1000
    )
    distill_from: str = option(
        "", "finished runs, separated by commas, whose predictions the run learns too"
    )
    distill_weight: float = option(0.7, "their share of the loss", low=0, high=1)
    distill_temperature: float = option(
        1.0, "both sides' logits are divided by it", low=0.01, high=100
    )
    stages: int = option(1, "runs in a chain: each learns from the one before", low=1, high=100)
    stage_iters: int = option(0, "iterations of each stage after the first; 0: max_iters", low=0)
    stage_options: str = option("", "of single stages: '3: distill_from=1,2 max_iters=900; 4: ...'")
    grad_clip: float = option(1.0, "largest norm of the gradient; 0: never clip", low=0)

    decay_lr: bool = option(True, "false: a constant rate", group="learning rate")
    schedule: str = option("cosine", "shape of the decay", choices=("cosine", "trapezoid"))
    warmup_iters: int = option(2000, "iterations of linear warmup", low=0)
    lr_decay_iters: int = option(0, "iteration at which min_lr is reached; 0: max_iters", low=0)
    min_lr: float = option(6e-5, "rate at the end of the decay", low=0)
    cooldown_frac: float = option(0.5, "trapezoid: part of the run that decays", low=0, high=1)

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", group="machine")
    dtype: str = option(
        "auto", "number format of activations",
        choices=("auto", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    tf32: str | bool = option(
        "auto", "GPU: multiply float32 in TF32, faster and rounded to 10 bits; auto: in bfloat16 "
        "runs only", choices=("auto", True, False),
    )  # fmt: skip
    compile: str | bool = option(
        "auto", "torch.compile; auto: where it pays back within the run",
        choices=("auto", True, False),
    )  # fmt: skip
    deterministic: bool = option(False, "bit for bit on a GPU too, slower; a CPU always is")
    shard: str = option(
        "none", "weights, gradients and moments shared out; full: among all processes; node: "
        "among those of a node", choices=("none", "full", "node"),
    )  # fmt: skip
    recompute: str = option("none", "block: less memory, more work", choices=("none", "block"))
    offload: bool = option(False, "GPU: the optimizer's state rests in main memory between steps")
    backend: str = option("auto", "of torch.distributed", choices=("auto", "gloo", "nccl"))
    ddp_timeout: float = option(600.0, "seconds of waiting for a process that end the run", low=1)

    @property
    def sequences_per_iter(self) -> int:
        """Sequences in one iteration of all processes together."""
        by_tokens = self.tokens_per_step // self.block_size
        return by_tokens or self.batch_size * self.gradient_accumulation_steps


class Auto(int):
    """A batch_size given as "auto": where trials start from (training/auto_batch.py)."""


FIELDS = {f.name: f for f in dataclasses.fields(TrainConfig)}


def resolve(layers: Sequence[tuple[str, Mapping[str, object]]]) -> TrainConfig:
    """Merge layers of options, later ones over earlier ones, into a checked configuration.

    Each layer is where it came from, for messages, and names with values: text as on a command
    line, or typed as in a file. Raises UsageError naming every problem of every layer at once.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for origin, layer in layers:
        for name, value in layer.items():
            if (name, value) == ("batch_size", "auto"):
                values[name] = Auto(values.get(name, TrainConfig.batch_size))
                continue
            try:
                values[name] = coerce(name, value)
            except ValueError as error:
                problems.append(f"{origin}: {error}")
    config = TrainConfig(**values)
    problems += contradictions(config)
    if problems:
        raise UsageError("; ".join(problems), "`bardlet train --help` lists every option")
    steps = -(-config.sequences_per_iter // config.batch_size)
    return dataclasses.replace(config, gradient_accumulation_steps=steps)


def coerce(name: str, value: object) -> Value:
    """The value of option `name` in its type and bounds; ValueError says what is wrong with it."""
    if name not in FIELDS:
        raise ValueError(unknown_option(name, FIELDS))
    kind, allowed = FIELDS[name].type, FIELDS[name].metadata
    text = str(value).strip()
    result: Value = text
    if kind == "bool" or (kind == "str | bool" and text.lower() != "auto"):
        if text.lower() not in TRUTH:
            raise ValueError(f"{name}={value} is not true or false")
        result = TRUTH[text.lower()]
    elif kind in ("int", "float"):
        try:
            number = math.nan if isinstance(value, bool) else float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (kind == "int" and number != int(number)):
            wanted = "an integer" if kind == "int" else "a number"
            raise ValueError(f"{name}={value} is not {wanted}")
        # 5e3 is a fine way to write an integer, and a long one must not pass through a float
        result = number if kind == "float" else int(text if text.isdecimal() else number)
    elif (not text and FIELDS[name].default) or "\0" in text:
        raise ValueError(f"{name} is empty" if not text else f"{name} has a NUL in it")
    elif kind == "str" and not allowed["choices"]:
        result = str(value)  # spaces around a text belong to it
    if allowed["choices"] and result not in allowed["choices"]:
        raise ValueError(f"{name}={value} is not one of {', '.join(map(str, allowed['choices']))}")
    low, high = allowed["low"], allowed["high"]
    below = low is not None and result < low  # only numbers have bounds
    if below or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}={value} is out of range, it must be {bounds}")
    if isinstance(result, int) and result >= 1 << 63:
        raise ValueError(f"{name}={value} is out of range, it must fit 64 bits")
    return result


def unknown_option(name: str, options: Iterable[str]) -> str:
    """What to say of an option that is not one of `options`."""
    return f"unknown option {name}{did_you_mean(name, options, ', did you mean {}?')}"


def contradictions(c: TrainConfig) -> list[str]:
    """What is wrong between options that are each right alone."""
    problems = []
    if c.n_embd % c.n_head and not c.head_dim:
        problems.append(f"n_embd={c.n_embd} is not divisible by n_head={c.n_head}")
    if rest := c.tokens_per_step % c.block_size:
        near = f"{c.tokens_per_step - rest} or {c.tokens_per_step - rest + c.block_size}"
        problems.append(f"tokens_per_step={c.tokens_per_step}: multiples of block_size are {near}")
    if not c.learning_rate:
        problems.append("learning_rate=0 trains nothing")
    if c.min_lr > c.learning_rate and c.decay_lr:
        problems.append(f"min_lr={c.min_lr} is above learning_rate={c.learning_rate}")
    if c.lora_rank and c.optimizer == "muon":
        problems.append("lora_rank trains no whole matrices, which optimizer=muon is for")
    if c.objective == "dpo" and c.init_from == "scratch":
        problems.append("objective=dpo goes on from a model: init_from names it")
    for name in ("distill_from", "stages", "shard") if c.objective == "dpo" else ("dpo_beta",):
        if getattr(c, name) != FIELDS[name].default:
            problems.append(f"{name}={getattr(c, name)} does not go with objective={c.objective}")
    for name in ("distill_weight", "distill_temperature"):
        if c.stages == 1 and not c.distill_from and getattr(c, name) != FIELDS[name].default:
            problems.append(f"{name}={getattr(c, name)} needs distill_from, or stages")
    if c.stages == 1:
        problems += [f"{n} needs stages" for n in ("stage_iters", "stage_options") if getattr(c, n)]
    if c.fresh and c.init_from == "resume":
        problems.append("fresh starts anew and resume continues: give one of them")
    if c.family == "llama":
        size = c.head_dim or c.n_embd // c.n_head
        if size % 2 or not size:
            problems.append(f"rotary positions need an even head size, this one is {size}")
        if c.n_kv_head and c.n_head % c.n_kv_head:
            problems.append(f"n_head={c.n_head} is not divisible by n_kv_head={c.n_kv_head}")
        if c.qk_norm and c.qkv_bias:
            problems.append("qk_norm is Qwen3's and qkv_bias Qwen2's: give one of them")
        if c.bias:
            problems.append("bias=True belongs to family gpt2, llama has none")
    else:
        for name in ("n_kv_head", "head_dim", "qk_norm", "qkv_bias", "tie_embeddings"):
            if value := getattr(c, name):
                problems.append(f"{name}={value} belongs to family llama")
    return problems


def to_toml(config: TrainConfig) -> str:
    """The resolved configuration as TOML, whose values are JSON's; `resolve` reads an equal one."""
    lines = (f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in vars(config).items())
    return "# every option of this run, resolved\n" + "".join(lines).replace("\x7f", "\\u007f")
