"""What a run will take, before it runs: memory, time, disk, and whether this machine has them.

Sizes are computed; times and the peak of memory come from trials of the run on this machine.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.data.dataset import mixture
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import DataError
from bardlet.io.terminal import say
from bardlet.model import GPT, GPTConfig
from bardlet.optim import build_optimizers
from bardlet.planning import chain
from bardlet.planning.from_model import new_model, of_shape
from bardlet.planning.pairs import PairSizes, of_longest, pair_sizes
from bardlet.run import checkpoint
from bardlet.system import memory
from bardlet.system.distributed import Group
from bardlet.system.offload import offloads
from bardlet.training import auto_batch, saver, trial_process
from bardlet.training.distillation import Teachers, load_teachers
from bardlet.training.feed import PASSES
from bardlet.training.preferences import check_objective
from bardlet.training.trial_process import CompileLateError, TrialProcess

ASSUMED_VOCAB = 256  # where neither an option nor a dataset says it
STEPS = 3  # micro-batches in a trial: what each adds is the same from the second on
COMPILE_S = 90.0  # that a plan waits for torch.compile


def plan(config: TrainConfig, seconds: float, shape: GPTConfig | None = None) -> dict[str, Any]:
    """What the run of a configuration will take, as JSON values; null is what cannot be known.

    Trials take some `seconds` each, and longer where an iteration does. `shape` is that of the
    model that init_from names; trials are of random weights in it.
    """
    unknown: list[str] = []
    dataset = None
    try:
        dataset = mixture.opened(config.dataset)
        check_objective(config, dataset)
    except DataError as error:
        unknown.append(f"epochs, and the time of validation: {error.message}")
    if shape is not None:
        config = of_shape(config, shape, dataset)
        unknown.append(f"how long {config.init_from} takes to read")
    vocab_size = config.vocab_size or (dataset.vocab_size if dataset else ASSUMED_VOCAB)
    if dataset is None and not config.vocab_size:
        unknown.append(f"the vocabulary: {vocab_size} tokens are assumed, --vocab_size says it")
    config = auto_batch.resolve_auto_batch_size(config, Group(), -1, 0 if dataset else vocab_size)
    with torch.device("meta"):
        model = new_model(config, vocab_size)
    optimizers = build_optimizers(model, config, "meta", torch.float32)
    teachers = load_teachers(config, dataset, vocab_size, None) if dataset else Teachers()
    taught_flops, taught_bytes = teachers.flops_per_token, teachers.weight_bytes
    del teachers  # the trials have their own, and need the room
    if config.stages > 1:
        unknown.append(
            f"the other stages but for their time: this is of the first of {config.stages}"
        )
    pairs = pair_sizes(config, dataset, model)
    measured = measured_within(
        config, 0 if dataset else vocab_size, seconds, unknown, shaped=shape is not None
    )
    reference = pairs.reference_bytes if pairs else 0
    frozen = {"teachers": taught_bytes, "reference": reference}
    if pairs and "failed" not in measured:
        fixed = sum(sizes_of(model, optimizers).values()) + reference + process_bytes(measured)
        tried = config.batch_size * min(config.gradient_accumulation_steps, STEPS)
        measured = of_longest(measured, pairs, config, tried, fixed)
    if "failed" in measured:
        unknown.append("times and the peak of memory: the run does not fit into memory")
    of_each = pairs.train.tokens if pairs else config.block_size
    tokens_per_iter = round(config.sequences_per_iter * of_each)
    tokens = tokens_per_iter * config.max_iters
    train_tokens = len(dataset.splits["train"]) if dataset else None
    if pairs:
        train_tokens = round(len(pairs.train) * of_each)
    passes = PASSES if pairs else 1.0
    times = time_of(config, dataset, measured, pairs)
    if times["total_s"] is not None and config.stages > 1:
        times["chain_s"] = times["total_s"] * chain.in_runs_of_the_first(config)
    computes = ("device", "dtype", "threads", "core", "compiled")
    return {
        **{key: measured[key] for key in computes if key in measured},
        "parameters": model.num_params(), "vocab_size": vocab_size,
        "batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "iterations": config.max_iters, "tokens_per_iter": tokens_per_iter, "tokens": tokens,
        "train_tokens": train_tokens, "epochs": tokens / train_tokens if train_tokens else None,
        "flops": (model.flops_per_token() * passes + taught_flops) * tokens,
        "memory": memory_of(config, model, optimizers, measured, frozen, pairs),
        "time": times,
        "disk": disk_of(config, checkpoint.size_bytes(model, optimizers), measured),
        "unknown": unknown,
    }  # fmt: skip


def measured_within(
    config: TrainConfig, vocab_size: int, seconds: float, unknown: list[str], *, shaped: bool
) -> dict[str, Any]:
    """What `measure` finds, without torch.compile where that takes longer than COMPILE_S."""
    try:
        with TrialProcess(config, vocab_size, shaped=shaped) as trials:
            trials.compile_s = COMPILE_S
            return measure(trials, config, seconds)
    except CompileLateError:
        pass
    say("that takes longer: measuring without torch.compile")
    unknown.append("what torch.compile gains: times are without it, compiling took too long")
    plain = dataclasses.replace(config, compile=False)
    with TrialProcess(plain, vocab_size, shaped=shaped) as trials:
        return measure(trials, plain, seconds)


def measure(trials: TrialProcess, config: TrainConfig, seconds: float) -> dict[str, Any]:
    """An iteration's time, the peak of memory, and what else a run does; "failed" without room."""
    accumulated = config.gradient_accumulation_steps
    steps = min(accumulated, STEPS)
    measured = trials.iterations(config.batch_size, steps, seconds)
    if "failed" in measured:
        return measured
    if steps < accumulated:
        once = trials.iterations(config.batch_size, 1, seconds)
        each = (measured["iter_s"] - once["iter_s"]) / (steps - 1)
        measured["iter_s"] += (accumulated - steps) * max(0.0, each)
    rest = trials.rest_of_run()
    if "failed" in rest:
        return rest
    peak = max(measured["peak_bytes"], rest.pop("peak_bytes"))
    launch = rest.pop("ready") - rest.pop("launched")
    return {**measured, **rest, "peak_bytes": peak, "start_s": launch + measured["start_s"]}


def memory_of(
    config: TrainConfig, model: GPT, optimizers: list[torch.optim.Optimizer],
    measured: dict[str, Any], frozen: dict[str, int], pairs: PairSizes | None,
) -> dict[str, Any]:  # fmt: skip
    """The peak of memory in bytes, by what it is for; `frozen` has the sizes of other weights.

    The compiled core sums gradients in each thread, and never has all logits at once.
    """
    parts: dict[str, Any] = {**sizes_of(model, optimizers), **frozen}
    away = parts["optimizer"] if offloads(measured.get("device", ""), config.offload) else 0
    parts["optimizer"] -= away
    if "failed" in measured:
        return {
            **parts,
            "offloaded": away,
            "total": None,
            "available": known(memory.available()),
            "fits": False,
        }
    core, logits = measured["core"], 0
    if core:
        threads = min(measured["threads"], config.batch_size)
        parts["gradients"] *= threads + (config.gradient_accumulation_steps > 1)
    else:
        width = 4 if measured["dtype"] == "float32" else 2
        positions = 2 * pairs.positions if pairs else config.block_size
        logits = config.batch_size * positions * model.config.vocab_size * width
    parts["logits"] = logits
    parts["process"] = process_bytes(measured)
    total = measured["peak_bytes"]
    parts["activations"] = max(0, total - sum(parts.values()))
    available = measured["available_bytes"]
    parts["offloaded"] = away
    return {**parts, "total": total, "available": known(available), "fits": total <= available}


def process_bytes(measured: dict[str, Any]) -> int:
    """What the process takes of the same memory before a run begins in it."""
    return measured["base_bytes"] if measured["device"] != "cuda" else 0


def sizes_of(model: GPT, optimizers: list[torch.optim.Optimizer]) -> dict[str, int]:
    """Bytes of the weights, of the gradients of those that are trained, and of their moments."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    return {
        "weights": sum(size for size, _ in sizes),
        "gradients": sum(size for size, trained in sizes if trained),
        "optimizer": checkpoint.optimizer_bytes(optimizers),
    }


def time_of(
    config: TrainConfig, dataset: Dataset | None, measured: dict[str, Any],
    pairs: PairSizes | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Seconds of the whole run, from its launch, by what they go into."""
    if "failed" in measured:
        return {"total_s": None}
    evaluations = math.ceil(config.max_iters / config.eval_interval) or 1
    evaluations += config.init_from not in BUILTIN_INIT  # what a model can do before
    batches = 2 * config.eval_iters
    if pairs:
        batches = pairs.eval_batches(config)
    elif config.eval_full and dataset is not None:
        windows = math.ceil((len(dataset.splits["val"]) - 1) / config.block_size)
        batches = config.eval_iters + math.ceil(windows / config.batch_size)
    iterations_s = config.max_iters * measured["iter_s"]
    evaluations_s = evaluations * batches * measured["eval_batch_s"]
    between = config.max_iters // config.save_interval if config.save_interval else 0
    by_time = iterations_s / 60 / config.save_minutes if config.save_minutes else 0
    saves = evaluations + int(max(between, by_time - evaluations, 0))
    parts = {
        "start_s": measured["start_s"], "iterations_s": iterations_s,
        "evaluations_s": evaluations_s, "saves_s": saves * measured["save_s"],
    }  # fmt: skip
    return {
        **parts, "total_s": sum(parts.values()), "iteration_s": measured["iter_s"],
        "evaluations": evaluations, "saves": saves,
    }  # fmt: skip


def disk_of(config: TrainConfig, size: int, measured: dict[str, Any]) -> dict[str, Any]:
    """Bytes of a checkpoint and of all that a run keeps at once, as a trial wrote one."""
    if "files" in measured:
        size = sum(measured["files"].values())
    # `best`, and the one being written
    count = config.keep_checkpoints + 2
    free = saver.free_bytes(trial_process.existing(Path(config.out_dir)))
    return {
        "checkpoint": size, "checkpoints": count, "total": count * size, "free": known(free),
        "fits": count * size <= free, "files": measured.get("files"),
    }  # fmt: skip


def known(size: float) -> float | None:
    """A number that JSON has, or null where the system does not tell."""
    return size if math.isfinite(size) else None


def fits(planned: dict[str, Any]) -> bool:
    """Whether the machine has what the run takes."""
    return planned["memory"]["fits"] and planned["disk"]["fits"]
