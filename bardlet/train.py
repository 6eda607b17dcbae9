"""The training loop, in the order in which things happen.

    dataset -> model -> optimizers -> [ evaluate and save -> batch -> loss -> gradients -> step ]

Every random choice is a function of (seed, iteration, rank), so a run that is stopped and resumed
goes on exactly as it would have; there is no generator whose state could be lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from bardlet.config import BUILTIN_INIT, TrainConfig, to_toml
from bardlet.data.dataset import mixture
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import Prefetcher, batches_of, dropout_seed, first_seen
from bardlet.errors import UsageError
from bardlet.evaluate import EvalInterrupted, evaluate
from bardlet.io.atomic import write_text
from bardlet.model import GPT, GPTConfig
from bardlet.optim import build_optimizers, learning_rate, set_learning_rate
from bardlet.run import checkpoint, run_folder
from bardlet.system import device, distributed
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.system.memory import MicroBatcher
from bardlet.system.signals import stop_signals
from bardlet.training import auto_batch, backend, resume
from bardlet.training.guards import Guards
from bardlet.training.log import Log, check_tracker
from bardlet.training.saver import Saver, check_room


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    out_dir: str
    iter: int  # iterations done, over all its sessions
    val_loss: float  # the last evaluation's
    best_val_loss: float
    train_s: float  # of this session: optimisation only, evaluations left out
    stopped: bool  # by a signal, before its end


Begin = Callable[[TrainConfig, Dataset], GPT]


def train(
    config: TrainConfig, begin: Begin | None = None, make_log: Callable[..., Log] = Log
) -> Result:  # fmt: skip
    """Train as `config` says, on this process or as one of torchrun's, and return how it ended.

    `begin` gives the model that `init_from` names, for runs that begin from one; `make_log` is for
    those who watch the run (planning/trial.py). Raises BardletError children where the
    configuration, the data, a checkpoint or the numbers do not allow it.
    """
    group = distributed.here()
    device.tune_process(config.deterministic)
    machine = device.choose(config.device, config.dtype, group.local_rank, config.tf32)
    writes = group.main and not config.eval_only
    with (
        distributed.joined(group, config.backend, machine.device),
        run_folder.locked(Path(config.out_dir)) if writes else contextlib.nullcontext(),
    ):
        return run(config, group, machine, begin, make_log)


def run(
    config: TrainConfig, group: Group, machine: Machine, begin: Begin | None,
    make_log: Callable[..., Log],
) -> Result:  # fmt: skip
    """Train inside the process group."""
    # --- what is trained on
    dataset = mixture.opened(config.dataset)
    resume.check_data(config, dataset)
    check_tracker(config)

    # --- the model, and how far it has come
    out = Path(config.out_dir)
    model, config, start, state, changed = beginning(config, group, dataset, begin)
    resumed = start >= 0
    model.to(machine.device)
    known = config.init_from not in BUILTIN_INIT  # a model that can do something already
    scores: dict[str, float] = state.get("eval", {})
    best = min(state.get("best_val_loss") or math.inf, scores.get("val_loss", math.inf))

    # --- what moves it
    optimizers = build_optimizers(model, config, machine.device.type, machine.dtype)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
    if resumed:
        checkpoint.load_optimizers(
            out / "checkpoints" / run_folder.name_of(start), model, optimizers
        )
        scaler.load_state_dict(state["scaler"])

    # --- where its batches come from: one an iteration, shared out among the processes
    sequences = config.batch_size * config.gradient_accumulation_steps
    if sequences < group.world_size:
        raise UsageError(f"{sequences} sequences an iteration are too few for all processes")
    batches = batches_of(
        dataset.parts, block_size=config.block_size, batch_size=sequences,
        seed=config.seed, rank=group.rank, world_size=group.world_size,
    )  # fmt: skip
    ahead = Prefetcher(batches, pin=machine.device.type == "cuda")
    tokens_per_iter = sequences * config.block_size
    masked = any(stream.masked for stream, _ in dataset.parts)  # not all of them count
    end_of_text = dataset.end_of_text if config.doc_mask else None  # what attention stops at
    flops_per_iter = model.flops_per_token() * tokens_per_iter

    # --- how it runs on this machine
    way = backend.select(
        config, model, machine, sequences=min(config.batch_size, len(batches.mine)),
        flops=flops_per_iter, before=state.get("computes", state),  # format 1 had it outside
    )  # fmt: skip
    changed += resume.changed_numerics(state.get("computes", {}), way.computes)
    forward = distributed.wrap(way.forward, group, machine.device)
    peak_flops = way.peak_flops() * group.world_size if group.main else 0.0

    # --- what is written of it
    writes = group.main and not config.eval_only
    if writes:
        check_room(config, checkpoint.size_bytes(model, optimizers))
        if not resumed:
            resume.create_run_folder(out)
        write_text(out / "config.toml", to_toml(config))
    log = make_log(config, main=group.main, start=max(start, 0), evaluated="eval" in state)
    saver = Saver(config, log, model, optimizers, dataset.tokenizer, main=writes)
    guards = Guards(config, log, model.config.vocab_size, {**state.get("guards", {}), **scores})
    introduce(log, config, machine, model, dataset, way, start, tokens_per_iter)
    if resumed:
        saver.resume_at(start)
        log.say(f"resuming {out} at iteration {start}")
    if changed:
        log.say(f"changed since the checkpoint, and so the results: {'; '.join(changed)}")

    def facts() -> dict[str, Any]:
        """What else than tensors makes the state after `it` iterations."""
        return {
            "tokens": it * tokens_per_iter,
            "best_val_loss": best if math.isfinite(best) else None,
            "guards": guards.state(),
            "computes": way.computes,
            "dataset": {
                "name": config.dataset,
                "hash": dataset.hash,
                "end_of_text": dataset.end_of_text,
            },
            "scaler": scaler.state_dict(),
            "config": dataclasses.asdict(config),
            "versions": device.versions(),
        }

    def gradients(size: int) -> float:
        """Leave the gradient of the mean over the `counted` targets, `size` sequences at a time."""
        model.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed(config.seed, it, group.rank))
        mean_loss = torch.zeros((), device=machine.device)
        for first in range(0, len(idx), size):
            x, y = idx[first : first + size], targets[first : first + size]
            last = first + size >= len(idx)
            with machine.autocast(), distributed.synced(forward, last):
                _, loss = forward(x, y, first=first_seen(x, end_of_text))
            loss = loss * (sum(counts[first : first + size]) / counted)
            mean_loss += loss.detach()
            # DDP takes the mean over the processes, and this is a part of the whole
            scaler.scale(loss * group.world_size).backward()
        return mean_loss.item()

    def halved(size: int) -> None:
        """Note that memory holds no more than `size` sequences at once."""
        log.record(type="event", event="memory", iter=it, batch_size=size)

    # --- the loop
    batcher = MicroBatcher(config.batch_size, can_retry=group.world_size == 1, on_shrink=halved)
    train_s, interval, waits = 0.0, [], []  # seconds of each iteration since the last log line
    stopped = False
    it = max(start, 0)
    model.train()
    log.start_progress(it)
    with contextlib.closing(log), saver, stop_signals() as asked_to_stop:
        while True:
            final = it >= config.max_iters or config.eval_only or guards.out_of_patience
            due = final or (it % config.eval_interval == 0 and (it > 0 or known))
            if due and not (it == start and "eval" in state and not config.eval_only):
                # What is kept in any case is saved before evaluating can fail.
                if final or config.always_save_checkpoint:
                    saver.save(it, facts())
                try:
                    scores = losses(config, model, dataset, machine, group, asked_to_stop)
                except EvalInterrupted:
                    stopped = True
                    saver.save(it, facts(), must=True)
                    break
                log.evaluation(it, **scores)
                improved = scores["val_loss"] < best
                best = min(best, scores["val_loss"])
                scores["since_best"] = guards.update_patience(it, improved)
                final = final or guards.out_of_patience
                saver.attach_scores(it, facts(), scores, best=improved, keep=final)
            if final:
                break
            if saver.due(it):
                saver.save(it, facts())

            # forward and backward, and the true mean loss over all micro-batches and processes
            began = time.perf_counter()
            idx, targets = ahead.batch(it)
            waits.append(time.perf_counter() - began)
            lr = learning_rate(config, it)
            set_learning_rate(optimizers, lr / config.learning_rate)
            counts = (targets >= 0).sum(1).tolist()  # in the loss, of each sequence
            counted = tokens_per_iter
            if masked:
                counted = max(1, group.sum([sum(counts)], machine.device)[0])
            idx, targets = (t.to(machine.device, non_blocking=True) for t in (idx, targets))
            loss_now, stops = group.sum([batcher.run(gradients), asked_to_stop()], machine.device)

            # the gradient's norm, and a step of every optimizer unless something is wrong
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            limit = config.grad_clip or math.inf
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item()
            guards.stop_if_not_finite(it, loss_now, 0.0 if scaler.is_enabled() else grad_norm)
            guards.stop_if_dead(it, loss_now, grad_norm)
            if guards.should_step(it, loss_now):
                for optimizer in optimizers:
                    scaler.step(optimizer)
                scaler.update()
            model.zero_grad(set_to_none=True)

            interval.append(time.perf_counter() - began)
            train_s += interval[-1]
            if it % config.log_interval == 0:
                log.iteration(
                    it, loss=loss_now, seconds=fmean(interval), waiting=fmean(waits), lr=lr,
                    flops=flops_per_iter, peak_flops=peak_flops, grad_norm=grad_norm,
                    tokens=tokens_per_iter, tokens_seen=(it + 1) * tokens_per_iter,
                )  # fmt: skip
                interval.clear()
                waits.clear()
            log.advance(it, loss_now)
            it += 1
            if stops and it < config.max_iters:
                stopped = True
                saver.save(it, facts(), must=True)
                break
    if stopped:
        log.say(f"stopped after {it} iterations; go on with --resume --out_dir={out}")
    group.wait()
    return Result(
        out_dir=config.out_dir, iter=it, val_loss=scores.get("val_loss", math.nan),
        best_val_loss=best, train_s=train_s, stopped=stopped,
    )  # fmt: skip


def beginning(
    config: TrainConfig, group: Group, dataset: Dataset, begin: Begin | None
) -> tuple[GPT, TrainConfig, int, dict[str, Any], list[str]]:
    """The model, new, from elsewhere, or as the last checkpoint left it.

    With it the options as they then are, the iteration it stands at (-1: a new run), the state
    that the checkpoint has beside it, and what has changed since.
    """
    start = group.agree(resume.resume_iteration(config) if group.main else 0)
    config = auto_batch.resolve_auto_batch_size(config, group, start)
    if start >= 0:
        folder = Path(config.out_dir) / "checkpoints" / run_folder.name_of(start)
        model, _, state = checkpoint.load(folder)
        config = resume.with_model_shape(config, model.config)
        return model, config, start, state, resume.check_resume(config, model, state, dataset)
    if config.init_from not in BUILTIN_INIT:
        assert begin, "init_from names a model"
        model = begin(config, dataset)
        return model, resume.with_model_shape(config, model.config), start, {}, []
    torch.manual_seed(config.seed)
    return GPT(model_config(config, dataset.vocab_size)), config, start, {}, []


def losses(
    config: TrainConfig, model: GPT, dataset: Dataset, machine: Machine, group: Group,
    stop: Callable[[], bool],
) -> dict[str, float]:  # fmt: skip
    """The sampled estimate on train, and validation: the whole split unless told otherwise."""
    options: dict[str, Any] = {
        "batch_size": config.batch_size, "machine": machine, "group": group,
        "seed": config.seed, "stop": stop, "doc_mask": config.doc_mask,
    }  # fmt: skip
    val_batches = 0 if config.eval_full else config.eval_iters
    on_train = evaluate(model, dataset, "train", sampled=config.eval_iters, **options)
    on_val = evaluate(model, dataset, "val", sampled=val_batches, **options)
    return {
        "train_loss": on_train.loss,
        "val_loss": on_val.loss,
        "bits_per_byte": on_val.bits_per_byte,
    }


def introduce(
    log: Log, config: TrainConfig, machine: Machine, model: GPT, dataset: Dataset,
    way: backend.Backend,
    start: int, tokens_per_iter: int,
) -> None:  # fmt: skip
    """Say what is about to be trained, on what."""
    params, train_tokens = model.num_params(), len(dataset.splits["train"])
    epochs = config.max_iters * tokens_per_iter / train_tokens
    log.say(machine.describe() + (f", {way.name}" if way.name else ""))
    log.say(f"number of parameters: {params / 1e6:.2f}M")
    log.say(
        f"tokens per iteration: {tokens_per_iter:,}; {config.max_iters:,} iterations: "
        f"{epochs:.2f} epochs"
    )
    log.record(
        type="start", iter=max(start, 0), params=params, max_iters=config.max_iters,
        vocab_size=dataset.vocab_size, train_tokens=train_tokens, tokens_per_iter=tokens_per_iter,
        model_vocab_size=model.config.vocab_size, **way.computes,
    )  # fmt: skip


def model_config(config: TrainConfig, vocab_size: int) -> GPTConfig:
    """The shape of the model that a run trains: the options that both configurations have."""
    if config.lora_rank:
        raise UsageError(
            f"lora_rank={config.lora_rank} trains beside weights that are there already",
            "Name them with --init_from",
        )
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(GPTConfig)}
    return GPTConfig(**{**shared, "vocab_size": config.vocab_size or vocab_size})
