"""The training loop, in the order in which things happen.

    dataset -> model -> optimizers -> [ evaluate and save -> batch -> loss -> gradients -> step ]

Every random choice is a function of (seed, iteration, rank), so a run that is stopped and resumed
goes on exactly as it would have; there is no generator whose state could be lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bardlet import checkpoint, device, distributed
from bardlet.config import TrainConfig, to_toml
from bardlet.data import dataset as datasets
from bardlet.data.dataset import Dataset
from bardlet.data.loader import Batches, dropout_seed
from bardlet.device import Machine
from bardlet.distributed import Group
from bardlet.errors import CheckpointError, DataError, TrainingError, UsageError
from bardlet.evaluate import evaluate
from bardlet.metrics import Log, check_tracker
from bardlet.model import GPT, GPTConfig
from bardlet.native.training import NativeGPT, fits
from bardlet.optim import build_optimizers, learning_rate, set_learning_rate


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    out_dir: str
    iter: int  # iterations done, over all its sessions
    val_loss: float  # the last evaluation's
    best_val_loss: float
    train_s: float  # of this session: optimisation only, evaluations left out
    stopped: bool  # by a signal, before its end


def train(config: TrainConfig) -> Result:
    """Train as `config` says, on this process or as one of torchrun's, and return how it ended.

    Raises BardletError children where the configuration, the data, a checkpoint or the numbers
    do not allow it.
    """
    group = distributed.here()
    device.tune_process()
    machine = device.choose(config.device, config.dtype, group.local_rank)
    with distributed.joined(group, config.backend, machine.device):
        return run(config, group, machine)


def run(config: TrainConfig, group: Group, machine: Machine) -> Result:
    """Train inside the process group."""
    # --- what is trained on
    dataset = Dataset(datasets.find(config.dataset))
    check_data(config, dataset)
    check_tracker(config)

    # --- the model, new or as the last checkpoint left it
    out = Path(config.out_dir)
    resumed = config.init_from == "resume"
    state: dict[str, Any] = {}
    folder = out / "checkpoints"
    if resumed:
        folder = checkpoint.find(out, "last")
        model, _, state = checkpoint.load(folder)
        check_resume(config, model, state, dataset)
    else:
        if group.main and not config.eval_only:
            refuse_earlier_run(out, config.fresh)
        torch.manual_seed(config.seed)
        model = GPT(model_config(config, dataset.vocab_size))
    model.to(machine.device)
    start = int(state.get("iter", 0))
    scores: dict[str, float] = state.get("eval", {})
    best = min(state.get("best_val_loss") or math.inf, scores.get("val_loss", math.inf))

    # --- what moves it
    optimizers = build_optimizers(model, config, machine.device.type, machine.dtype)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
    if resumed:
        checkpoint.load_optimizers(folder, model, optimizers)
        scaler.load_state_dict(state["scaler"])

    # --- where its batches come from: one an iteration, shared out among the processes
    sequences = config.batch_size * config.gradient_accumulation_steps
    if sequences < group.world_size:
        raise UsageError(f"{sequences} sequences an iteration are too few for all processes")
    batches = Batches(
        dataset.splits["train"], block_size=config.block_size, batch_size=sequences,
        seed=config.seed, rank=group.rank, world_size=group.world_size,
    )  # fmt: skip
    tokens_per_iter = sequences * config.block_size
    flops_per_iter = model.flops_per_token() * tokens_per_iter

    # --- how it runs on this machine
    forward: torch.nn.Module = model
    if wants_compile(config, model, machine, flops_per_iter, state):
        shape = (min(config.batch_size, len(batches.mine)), config.block_size)
        idx = torch.zeros(shape, dtype=torch.int64, device=machine.device)
        forward = device.try_compile(model, idx, machine)
    compiled = forward is not model
    core = None
    if not compiled and fits(model, training=True):
        core = forward = NativeGPT(model, machine.dtype)
    how = ", compiled core" if core else ", compiled" if compiled else ""
    forward = distributed.wrap(forward, group, machine.device)
    peak_flops = 0.0
    if group.main:
        peak_flops = (core or machine).peak_flops() * group.world_size

    if group.main and not resumed and not config.eval_only:
        claim(out)
    log = Log(config, main=group.main, start=start)
    if group.main and not config.eval_only:
        checkpoint.write_text(out / "config.toml", to_toml(config))
    log.say(machine.describe() + how)
    log.say(f"number of parameters: {model.num_params() / 1e6:.2f}M")
    epochs = config.max_iters * tokens_per_iter / len(dataset.splits["train"])
    log.say(
        f"tokens per iteration: {tokens_per_iter:,}; {config.max_iters:,} iterations: "
        f"{epochs:.2f} epochs"
    )
    if resumed:
        log.say(f"resuming {out} at iteration {start}")

    def save(it: int) -> None:
        """Save the state after `it` iterations as the run's last checkpoint."""
        if not group.main or (resumed and it == start):  # which it was loaded from
            return
        log.say(f"saving checkpoint to {out}")
        facts = {
            "tokens": it * tokens_per_iter,
            "best_val_loss": best if math.isfinite(best) else None,
            "compiled": compiled,
            "dataset": {"name": config.dataset, "hash": dataset.hash},
            "scaler": scaler.state_dict(),
            "config": dataclasses.asdict(config),
            "versions": device.versions(),
        }
        saved = checkpoint.save(out, it, model, optimizers, dataset.tokenizer, facts)
        checkpoint.point(out, "last", saved)

    def losses() -> dict[str, float]:
        """The sampled estimate on train, and validation: the whole split unless told otherwise."""
        options: dict[str, Any] = {
            "batch_size": config.batch_size, "machine": machine, "group": group,
            "seed": config.seed,
        }  # fmt: skip
        val_batches = 0 if config.eval_full else config.eval_iters
        on_train = evaluate(model, dataset, "train", sampled=config.eval_iters, **options)
        on_val = evaluate(model, dataset, "val", sampled=val_batches, **options)
        return {
            "train_loss": on_train.loss,
            "val_loss": on_val.loss,
            "bits_per_byte": on_val.bits_per_byte,
        }

    # --- the loop
    train_s, interval = 0.0, []  # seconds of each iteration since the last log line
    stopped = False
    it = start
    model.train()
    log.start_progress(start)
    with contextlib.closing(log), device.stop_signals() as asked_to_stop:
        while True:
            final = it >= config.max_iters
            due = final or (it > 0 and it % config.eval_interval == 0) or config.eval_only
            if due and not (it == start and "eval" in state and not config.eval_only):
                # What is kept in any case is saved before evaluating can fail.
                keep = not config.eval_only and (final or config.always_save_checkpoint)
                if keep:
                    save(it)
                scores = losses()
                log.evaluation(it, **scores)
                improved = scores["val_loss"] < best and not config.eval_only
                if improved:
                    best = scores["val_loss"]
                    if not keep:
                        save(it)
                if group.main and (keep or improved):
                    checkpoint.conclude(out, it, scores, improved)
            if final or config.eval_only:
                break

            # forward and backward, a micro-batch at a time, each weighted by its sequences
            began = time.perf_counter()
            lr = learning_rate(config, it)
            set_learning_rate(optimizers, lr / config.learning_rate)
            torch.manual_seed(dropout_seed(config.seed, it, group.rank))
            idx, targets = (t.to(machine.device, non_blocking=True) for t in batches.batch(it))
            mean_loss = torch.zeros((), device=machine.device)
            for first in range(0, len(idx), config.batch_size):
                x, y = (t[first : first + config.batch_size] for t in (idx, targets))
                last = first + config.batch_size >= len(idx)
                with machine.autocast(), distributed.synced(forward, last):
                    _, loss = forward(x, y)
                loss = loss * (len(x) / sequences)
                mean_loss += loss.detach()
                # DDP takes the mean over the processes, and this is a part of the whole
                scaler.scale(loss * group.world_size).backward()

            # the true mean loss over all micro-batches and processes
            loss_now, stops = group.sum([mean_loss.item(), asked_to_stop()], machine.device)
            if not math.isfinite(loss_now):
                raise TrainingError(
                    f"the loss is {loss_now} at iteration {it}, before its step",
                    f"Lower learning_rate or raise warmup_iters; {out} keeps its last checkpoint",
                )

            # the gradient's norm, and a step of every optimizer
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            logged = it % config.log_interval == 0
            grad_norm = torch.tensor(math.nan)
            if logged or config.grad_clip:
                limit = config.grad_clip or math.inf
                grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad(set_to_none=True)
            scaler.update()

            interval.append(time.perf_counter() - began)
            train_s += interval[-1]
            if logged:
                log.iteration(
                    it, loss=loss_now, seconds=sum(interval) / len(interval), flops=flops_per_iter,
                    peak_flops=peak_flops, lr=lr, grad_norm=grad_norm.item(),
                    tokens=tokens_per_iter, tokens_seen=(it + 1) * tokens_per_iter,
                )  # fmt: skip
                interval.clear()
            log.advance(it, loss_now)
            it += 1
            if stops and it < config.max_iters:
                stopped = True
                save(it)
                log.say(f"stopped after {it} iterations; go on with --resume --out_dir={out}")
                break
    group.wait()
    return Result(
        out_dir=config.out_dir, iter=it, val_loss=scores.get("val_loss", math.nan),
        best_val_loss=best, train_s=train_s, stopped=stopped,
    )  # fmt: skip


def model_config(config: TrainConfig, vocab_size: int) -> GPTConfig:
    """The shape of the model that a run trains: the options that both configurations have."""
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(GPTConfig)}
    return GPTConfig(**{**shared, "vocab_size": config.vocab_size or vocab_size})


def check_data(config: TrainConfig, dataset: Dataset) -> None:
    """Raise where the dataset is too small for the configuration, or its vocabulary too large."""
    for split, least in (("train", config.block_size + 1), ("val", 2)):
        tokens = len(dataset.splits[split])
        if split == "val" and not config.eval_full:
            least = config.block_size + 1
        if tokens < least:
            raise DataError(
                f"the {split} split of {dataset.folder} has {tokens} tokens, "
                f"block_size={config.block_size} needs at least {least}",
                "Lower block_size or prepare more text",
            )
    if config.vocab_size and config.vocab_size < dataset.vocab_size:
        raise UsageError(
            f"vocab_size={config.vocab_size} is below the dataset's {dataset.vocab_size}"
        )


def check_resume(config: TrainConfig, model: GPT, state: dict[str, Any], dataset: Dataset) -> None:
    """Raise where a checkpoint cannot go on under `config`."""
    wanted = dataclasses.asdict(model_config(config, model.config.vocab_size))
    have = dataclasses.asdict(model.config)
    differ = [f"{k}={v}, not {have[k]}" for k, v in wanted.items() if v != have[k]]
    if differ:
        raise CheckpointError(
            f"{config.out_dir} holds another model than asked for: {'; '.join(differ)}",
            "Leave these options out, or start anew in another out_dir",
        )
    if state.get("dataset", {}).get("hash") != dataset.hash:
        raise CheckpointError(
            f"{config.out_dir} was trained on other tokens than {dataset.folder} has now",
            "Prepare the same text again, or start anew in another out_dir",
        )


def refuse_earlier_run(out: Path, fresh: bool) -> None:
    """Raise where a new run's folder holds an earlier one that is not to be given up."""
    if not fresh and any(checkpoint.pointed(out, name) for name in ("last", "best")):
        raise CheckpointError(
            f"{out} already holds a run",
            "Go on with --resume, start over with --fresh, or name another --out_dir",
        )


def claim(out: Path) -> None:
    """Make the folder of a new run, without what an earlier one left there."""
    try:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "checkpoints").mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"cannot write to {out}: {error.strerror}") from None


def wants_compile(
    config: TrainConfig, model: GPT, machine: Machine, flops_per_iter: int, state: dict[str, Any]
) -> bool:
    """Whether to try torch.compile; a resumed run does as it did before, for equal rounding."""
    if config.eval_only:  # evaluation runs the model as it is
        return False
    if isinstance(config.compile, bool):
        return config.compile
    if "compiled" in state:
        return state["compiled"]
    pays = device.compile_pays(machine.device.type, flops_per_iter * config.max_iters)
    return pays and not fits(model, training=True)  # which is faster
