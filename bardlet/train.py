"""The training loop, in the order in which things happen.

    dataset -> model -> optimizers -> [ evaluate and save -> batch -> loss -> gradients -> step ]

Every random choice is a function of (seed, iteration, rank), so a run that is stopped and resumed
goes on exactly as it would have; there is no generator whose state could be lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.data.dataset.loader import dropout_seed, first_seen
from bardlet.evaluate import EvalInterrupted
from bardlet.run import lock
from bardlet.system import device, distributed, exchanges
from bardlet.system.device import seed_generators
from bardlet.system.readback import Readback
from bardlet.system.signals import stop_signals
from bardlet.training import gradients, resume, streaming
from bardlet.training.consumer import Arrival
from bardlet.training.log import Log
from bardlet.training.samples import WriteSamples
from bardlet.training.schedule import learning_rate, make_recordable, set_learning_rate
from bardlet.training.scoring import first_look
from bardlet.training.setup import Training, setup
from bardlet.training.steps import StepResult, Steps

# (options, iterations done, seconds of them) -> the options with other numbers of iterations
Replan = Callable[[TrainConfig, int, float], TrainConfig | None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended."""

    out_dir: str
    iter: int  # iterations done, over all its sessions
    val_loss: float  # the last evaluation's
    best_val_loss: float
    train_s: float  # of this session: optimisation only, evaluations left out
    stopped: bool  # by a signal, before its end

    def __fspath__(self) -> str:
        """The run's folder, so that a result is a path to it."""
        return self.out_dir


def train(
    config: TrainConfig, init_model: resume.InitModel | None = None,
    make_log: Callable[..., Log] = Log, should_stop: Callable[[], bool] = lambda: False,
    checkpoint_name: str = "", replan: Replan = lambda *_: None,
    write_samples: WriteSamples | None = None,
) -> Result:  # fmt: skip
    """Train as `config` says, on this process or as one of torchrun's, and return how it ended.

    `init_model` gives the model that `init_from` names. `make_log` and `should_stop` are for those
    who watch the run (planning/trial.py): asked after each iteration, it ends the run where it is,
    unsaved. `checkpoint_name` is that of the checkpoint that a resumed run goes back to. `replan`,
    asked as `should_stop`, may give the run other numbers of iterations. `write_samples` writes
    those of `sample_interval`. Raises BardletError children where the configuration, the data, a
    checkpoint or the numbers do not allow it.
    """
    group = distributed.here()
    device.tune_process(config.deterministic)
    machine = device.choose(config.device, config.dtype, group.local_rank, config.tf32)
    writes = group.main and not config.eval_only
    with (
        distributed.joined(group, config.backend, machine.device, config.ddp_timeout),
        lock.held(Path(config.out_dir)) if writes else contextlib.nullcontext(),
        streaming.held(config, group),
    ):
        t = setup(
            config, group, machine, init_model, make_log, checkpoint_name, write_samples
        )  # fmt: skip
        return loop(t, should_stop, replan)


def loop(t: Training, should_stop: Callable[[], bool], replan: Replan) -> Result:
    """Train to the end of the run, evaluating and saving on the way."""
    config, log, saver, guards = t.config, t.log, t.saver, t.guards
    it, scores = t.start.iter, t.start.scores
    best = min(t.start.best_val_loss or math.inf, scores.compared if scores else math.inf)
    measured = t.model, t.dataset, t.machine, t.group
    pretrained = config.init_from not in BUILTIN_INIT  # a model that can do something already
    steps, stopped = Steps(t), False
    t.model.train()
    if t.backend.replay:
        make_recordable(t.optimizers)
    t.say_expected_time()
    log.start_progress(it)
    with contextlib.closing(log), saver, stop_signals(log.stopping) as interrupted:
        if config.eval_on_start and it == 0 and not (pretrained or config.eval_only):
            log.evaluation(first_look(config, *measured), 0)
        while True:
            final = it >= config.max_iters or config.eval_only or guards.out_of_patience
            due = final or (it % config.eval_interval == 0 and (it > 0 or pretrained))
            if due and not (it == t.start.iter and t.start.scores and not config.eval_only):
                steps.settle()
                # What is kept in any case is saved before evaluating can fail.
                if final or config.always_save_checkpoint:
                    saver.save(t.state(it, best))
                try:
                    scores = t.losses(stop=interrupted)
                except EvalInterrupted:
                    stopped = True
                    saver.save(t.state(it, best), must=True)
                    break
                log.evaluation(scores, it)
                improved, best = scores.val_loss < best, min(best, scores.val_loss)
                since = guards.update_patience(it, improved)
                final = final or guards.out_of_patience
                scores = dataclasses.replace(scores, since_best=since)
                saver.attach_scores(t.state(it, best), scores, best=improved, keep=final)
            if t.samples.due(it, final=final):
                steps.settle()
                t.samples.take(it, t.model, t.dataset, t.machine)
            if final:
                break
            if saver.due(it):
                steps.settle()
                saver.save(t.state(it, best))

            began = time.perf_counter()
            arrival = t.stream.arrive(it, interrupted) if t.stream else Arrival.HERE
            if arrival is Arrival.ENDED:  # the run is as long as its text
                log.say(f"the text of {t.dataset.folder} ends after {it} iterations")
                config = dataclasses.replace(config, max_iters=it)
                steps.settle()
                steps.t = t = t.replanned(config, it)
                continue
            stop = arrival is Arrival.STOPPED
            if arrival is Arrival.HERE:
                idx, targets = t.batches.batch(it)
                waiting = time.perf_counter() - began
                step = train_step(t, it, idx, targets, stop=interrupted())
                stop = steps.add(step, began, waiting)
                it += 1
            if stop and it < config.max_iters:
                stopped = True
                steps.settle()
                saver.save(t.state(it, best), must=True)
                break
            if should_stop():
                steps.settle()
                break
            if changed := replan(config, it, steps.train_s):
                steps.t = t = t.replanned(changed, it)
                config = changed
        if stopped:
            log.stopped(it, t.group.world_size)
    if t.stream and not stopped:
        t.stream.end()
    t.group.wait()
    return Result(
        out_dir=config.out_dir, iter=it, val_loss=scores.val_loss if scores else math.nan,
        best_val_loss=best, train_s=steps.train_s, stopped=stopped,
    )  # fmt: skip


def train_step(
    t: Training, it: int, idx: Tensor, targets: Tensor, *, stop: bool = False
) -> StepResult:
    """Move the weights by one batch: forward, backward, the gradient's norm, a step.

    idx and targets (B, T) int64 are this process's part of iteration `it`; -1 is a target that
    does not count. Of pairs they are (B, 2, T), and each pair counts as one. Where nothing of the
    batch counts, there is nothing to learn or to judge, and no step is taken. Raises TrainingError
    where a guard does, of those that are not late.
    """
    config, device = t.config, t.machine.device
    lr = learning_rate(config, it)
    set_learning_rate(t.optimizers, lr / config.learning_rate)
    of_pairs = targets.dim() == 3
    masked = any(stream.masked for stream, _ in t.dataset.parts)
    counts = [1 if of_pairs else targets.size(1)] * len(targets)  # in the loss, of each sequence
    if masked and not of_pairs:
        counts = (targets >= 0).sum(1).tolist()
    counted = t.group.sum([sum(counts)], device)[0] if masked else t.tokens_per_iter
    if not counted:
        stops = t.group.sum([stop], device)[0]
        nothing = math.nan, math.nan, stops
        return StepResult(iter=it, lr=lr, read=lambda: nothing, counted=False)
    whole = t.micro_batcher.size >= len(idx)  # in one micro-batch
    if (replay := t.backend.replay) and whole and replay.ready():
        work, state = functools.partial(whole_step, t), functools.partial(moving, t)
        seed = dropout_seed(config.seed, it, t.group.rank)
        seen_later = Readback(replay(work, state, seed, idx, targets))
        return StepResult(iter=it, lr=lr, read=lambda: [*seen_later.read(), stop])
    idx, targets = (x.to(device, non_blocking=True) for x in (idx, targets))

    def accumulated(size: int) -> Tensor:
        """Leave the gradient of the mean over the `counted` targets, `size` sequences at a time.

        Returns the mean, (1,), and of pairs behind it margins and pairs in order summed, (3,).
        """
        clear_gradients(t)
        parts = []
        for number, first in enumerate(range(0, len(idx), size)):
            place = t.group.rank + number * t.group.world_size  # among the micro-batches of all
            seed_generators(dropout_seed(config.seed, it, place), device)
            x, y = idx[first : first + size], targets[first : first + size]
            last = first + size >= len(idx) and t.micro_batcher.settled
            share = sum(counts[first : first + size]) / counted
            work = functools.partial(backward, t, share=share, last=last)
            parts.append(t.micro_batcher.part(work, x, y))
        return functools.reduce(torch.add, parts)

    size = t.micro_batcher.size
    part = t.micro_batcher.run(accumulated)
    exchanges.settle(t.micro_batcher, t.model, t.group, device)
    totals = t.group.total(torch.cat((part, part.new_full((1,), stop))))  # (2,) or (4,)
    while (size := size // 2) >= t.micro_batcher.size:  # each halving
        t.log.record(type="event", event="memory", iter=it, batch_size=size)
    norm = unscaled_norm(t)
    values = torch.cat((totals, norm.view(1)))  # (3,) or (5,)
    if t.late:
        later = Readback(values)
        read, step = (lambda: arranged(later.read(), counted)), True
    else:
        seen = arranged(values.tolist(), counted)  # waits for the device
        read, step = (lambda: seen), may_step(t, it, *seen[:2])
    if step:
        step_optimizers(t, norm)
    t.scaler.update()
    clear_gradients(t)
    return StepResult(iter=it, lr=lr, read=read)


def arranged(values: Sequence[float], counted: float) -> list[float]:
    """The loss, the gradient's norm, whether to stop, and of pairs the mean margin and accuracy;
    `values` has the norm last, and sums over the `counted` pairs.
    """
    loss, *sums, stop, norm = values
    return [loss, norm, stop, *(each / counted for each in sums)]


def backward(
    t: Training, idx: Tensor, targets: Tensor, share: float, *, last: bool = True
) -> Tensor:
    """Add to the gradient that of a micro-batch's loss, which is a `share` of the whole batch's.

    Returns that part of the loss, (1,), and of pairs behind it margins and pairs in order summed,
    (3,). With the `last` one, processes exchange gradients.
    """
    end_of_text = t.dataset.end_of_text if t.config.doc_mask else None  # where attention stops
    with t.machine.autocast(), distributed.synced(t.forward, last):
        more, loss = t.forward(idx, targets, first=first_seen(idx, end_of_text))
    loss = loss * share
    # DDP takes the mean over the processes, and this is a part of the whole
    processes = t.group.world_size
    t.scaler.scale(loss * processes if processes > 1 else loss).backward()
    part = loss.detach().view(1)
    return torch.cat((part, more)) if targets.dim() == 3 else part


def whole_step(t: Training, idx: Tensor, targets: Tensor) -> Tensor:
    """Move the weights by a batch in one micro-batch, all of it on the device: what a GPU replays.

    Returns the loss and the norm of its gradient, (2,).
    """
    clear_gradients(t)
    loss = backward(t, idx, targets, 1.0)
    norm = unscaled_norm(t)
    step_optimizers(t, norm)
    clear_gradients(t)
    return torch.cat((loss, norm.view(1))).double()


def moving(t: Training) -> list[Tensor]:
    """All tensors that a step moves: the weights, and the optimizers' state."""
    states = (state for optimizer in t.optimizers for state in optimizer.state.values())
    return [p.detach() for p in t.params] + [
        tensor for state in states for tensor in state.values()
    ]


def clear_gradients(t: Training) -> None:
    """Let go of the gradients."""
    for p in t.params:
        p.grad = None


def unscaled_norm(t: Training) -> Tensor:
    """Take float16's scale out of the gradients; their norm, a scalar on the device."""
    for optimizer in t.optimizers:
        t.scaler.unscale_(optimizer)
    return gradients.total_norm(t.params)


def may_step(t: Training, it: int, loss: float, grad_norm: float) -> bool:
    """Whether to take a step; raises TrainingError where a guard does."""
    # float16: the scaled gradient overflows now and then; the scaler then lowers its scale
    overflow = t.scaler.is_enabled() and not math.isfinite(grad_norm) and t.scaler.get_scale() > 1
    t.guards.stop_if_not_finite(it, loss, 0.0 if overflow else grad_norm)
    t.guards.stop_if_dead(it, loss, grad_norm)
    return t.guards.should_step(it, loss) and not overflow


def step_optimizers(t: Training, norm: Tensor) -> None:
    """Clip the gradients, whose norm is `norm`, and let every optimizer take its step."""
    if t.config.grad_clip:
        gradients.clip(t.params, t.optimizers, t.config.grad_clip, norm)
    for optimizer in t.optimizers:
        t.scaler.step(optimizer)
