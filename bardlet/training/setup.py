"""A run before its first step: data, model, optimizers, batches and log, new or resumed."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bardlet.config import TrainConfig, to_toml
from bardlet.data.dataset import mixture
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.loader import Prefetcher
from bardlet.io.atomic import write_text
from bardlet.io.terminal import say
from bardlet.model import GPT
from bardlet.optim import build_optimizers
from bardlet.run import checkpoint, run_folder
from bardlet.run.branch import set_aside
from bardlet.run.state import DatasetRef, RunState, Scores
from bardlet.system import device, distributed, exchanges, meeting, offload, sharding
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.system.memory import MicroBatcher
from bardlet.training import agreement, expected, resume, tracker
from bardlet.training.agreement import shares
from bardlet.training.backend import Backend, place, select
from bardlet.training.consumer import Consumer
from bardlet.training.distillation import load_teachers
from bardlet.training.extension import extend
from bardlet.training.feed import feed_of
from bardlet.training.guards import Guards
from bardlet.training.log import Log
from bardlet.training.pair_scores import both_pair_losses
from bardlet.training.preferences import Preferences, Reference, load_reference, said_of_pairs
from bardlet.training.samples import Samples, WriteSamples
from bardlet.training.saver import Saver, check_room
from bardlet.training.scoring import both_losses


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run that is set up: what its loop works with."""

    config: TrainConfig
    group: Group
    machine: Machine
    dataset: Dataset
    model: GPT
    backend: Backend
    forward: torch.nn.Module  # the model as the backend computes it, on all processes
    optimizers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    batches: Prefetcher
    stream: Consumer | None  # where the text comes while it is trained on
    micro_batcher: MicroBatcher
    log: Log
    saver: Saver
    samples: Samples
    guards: Guards
    start: RunState  # where the run goes on from
    wandb_id: str | None  # of the run of Weights & Biases
    teachers: Sequence[str]  # the hashes of their weights
    reference: Reference  # of a run on pairs
    sequences_per_iter: int
    tokens_per_sequence: float  # of pairs the mean
    flops_per_iter: float
    peak_flops: float  # of all processes

    @functools.cached_property
    def params(self) -> list[torch.nn.Parameter]:  # found once: a model takes long to search
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def late(self) -> bool:
        """Whether an iteration is read while the next one computes, one that is never skipped."""
        skips = self.config.skip_spikes or self.scaler.is_enabled()  # known before the step only
        return self.machine.device.type == "cuda" and not skips

    @property
    def tokens_per_iter(self) -> int:
        return round(self.sequences_per_iter * self.tokens_per_sequence)

    def sequences(self, it: int) -> int:
        """The sequences trained on after `it` iterations, in all sessions."""
        before = self.start.consumed(self.sequences_per_iter)
        return before + (it - self.start.iter) * self.sequences_per_iter

    def tokens(self, it: int) -> int:
        """The tokens trained on after `it` iterations, in all sessions."""
        return self.start.tokens + (it - self.start.iter) * self.tokens_per_iter

    def say_expected_time(self) -> None:
        """Say how long the run will take, where that is more than a minute or two."""
        left = self.config.max_iters - self.start.iter
        if not self.group.main or self.flops_per_iter * left < expected.LARGE:
            return
        if sharding.is_sharded(self.model):  # the main process computes nothing alone
            return
        # those of a model alone that cost as much: pairs and teachers cost more, short pairs less
        of_one = self.model.flops_per_token() * self.config.block_size
        sequences = math.ceil(round(self.flops_per_iter / of_one, 6) / self.group.world_size)
        # a compiled model would be compiled again for these shapes
        forward = self.model if self.backend.numerics["compiled"] else self.backend.forward
        measure = functools.partial(
            expected.iteration_s, forward, self.machine,
            block_size=self.config.block_size, sequences=sequences,
        )  # fmt: skip
        self.log.expected(lambda: left * measure(), self.machine.device.type)

    def losses(self, *, stop: Callable[[], bool]) -> Scores:
        """What an evaluation measures of the model as it is. EvalInterrupted where `stop` says."""
        config, on = self.config, (self.dataset, self.machine, self.group)
        if self.dataset.preferences:
            return both_pair_losses(config, self.model, self.reference, *on, stop=stop)
        return both_losses(config, self.model, *on, stop=stop)

    def replanned(self, config: TrainConfig, it: int) -> Training:
        """The same run with other numbers of iterations, from iteration `it` on."""
        if self.group.main:
            write_text(Path(config.out_dir) / "config.toml", to_toml(config))
        self.log.replanned(config, it)
        return dataclasses.replace(self, config=config)

    def state(self, it: int, best: float) -> RunState:
        """What else than tensors makes the run after `it` iterations."""
        dataset = self.dataset
        return RunState(
            iter=it, tokens=self.tokens(it), sequences=self.sequences(it),
            best_val_loss=best if math.isfinite(best) else None,
            guards=self.guards.state(), numerics=self.backend.numerics,
            dataset=DatasetRef(
                name=self.config.dataset, hash=dataset.hash, end_of_text=dataset.end_of_text,
                pairs=dataset.pairs, chat_template=dataset.chat_template,
            ),
            scaler=self.scaler.state_dict(), config=dataclasses.asdict(self.config),
            versions=device.versions(), wandb_id=self.wandb_id, teachers=self.teachers,
            reference=self.reference.hash,
        )  # fmt: skip


def setup(
    config: TrainConfig, group: Group, machine: Machine, init_model: resume.InitModel | None,
    make_log: Callable[..., Log], checkpoint_name: str, write_samples: WriteSamples | None,
) -> Training:  # fmt: skip
    """All that a run needs before its first step, new or as a checkpoint left it."""
    # --- what is trained on
    dataset = mixture.opened(config.dataset)
    agreement.check(config, group, machine, dataset)
    resume.check_data(config, dataset)
    tracker.check(config)

    # --- the model, and how far it has come
    out = Path(config.out_dir)
    model, config, saved, changed = resume.init_or_resume(
        config, group, dataset, init_model, checkpoint_name
    )
    saved, notes = extend(config, saved) if saved and not config.eval_only else (saved, [])
    nothing = DatasetRef(name=config.dataset, hash=dataset.hash)
    start = saved or RunState(iter=0, tokens=0, dataset=nothing, scaler={})
    reference = load_reference(model, config, dataset, saved, init_model)
    place(model, config, group, machine)
    teachers = load_teachers(config, dataset, model.config.vocab_size, saved)

    # --- what moves it
    optimizers = build_optimizers(model, config, machine.device.type, machine.dtype, group)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)
    if saved:
        name = run_folder.name_of(saved.iter)
        checkpoint.load_optimizers(out / "checkpoints" / name, model, optimizers)
        if saved.scaler:  # empty where the dtype was another
            scaler.load_state_dict(dict(saved.scaler))

    # --- where its batches come from: one an iteration, shared out among the processes
    sequences, shared_out = config.sequences_per_iter, shares(config, group.world_size)
    feed = feed_of(config, dataset, group, start, sequences)
    tokens_per_iter = round(sequences * feed.tokens_per_sequence)
    flops_per_token = model.flops_per_token() * feed.passes + teachers.flops_per_token
    flops_per_iter = flops_per_token * tokens_per_iter

    # --- how it is computed on this machine
    backend = select(
        config, model, machine, sequences=min(config.batch_size, len(feed.batches.mine)),
        flops=flops_per_iter, processes=group.world_size, before=start.numerics,
    )  # fmt: skip
    changed += resume.changed_numerics(start.numerics, backend.numerics)
    forward = teachers.taught(backend.forward, config, machine)
    if dataset.preferences:
        forward = Preferences(forward, model, reference, config, machine)

    # --- what is written of it
    writes = group.main and not config.eval_only
    tracked = open_folder(config, model, optimizers, saved, checkpoint_name) if writes else None
    resumed = {"start": start.iter, "evaluated": start.scores is not None}
    log = make_log(config, main=group.main, tracker=tracked, **resumed)
    saver = Saver(config, log, model, optimizers, dataset.tokenizer, group, feed.stream)
    log.introduction(
        machine=machine.describe(), backend=backend.name, iter=start.iter,
        params=model.num_params(), vocab_size=dataset.vocab_size,
        model_vocab_size=model.config.vocab_size, train_tokens=feed.tokens,
        tokens_per_iter=tokens_per_iter, tokens=start.tokens,
        counted_windows=feed.counted_windows, **backend.numerics,
    )  # fmt: skip
    if saved:
        saver.resume_at(saved.iter)
        notes = [f"resuming {out} at iteration {saved.iter}", *said_of(changed), *notes]
    shared_out += offload.said(config.offload, machine.device, optimizers)
    for line in (*shared_out, *said_of_pairs(dataset, config, reference), *notes):
        log.say(line)
    return Training(
        config=config, group=group, machine=machine, dataset=dataset, model=model, backend=backend,
        forward=distributed.wrap(forward, group, machine.device), optimizers=optimizers,
        scaler=scaler, batches=Prefetcher(feed.batches, pin=machine.device.type == "cuda"),
        micro_batcher=exchanges.micro_batcher(config.batch_size, model, group, machine.device),
        samples=Samples(config, log, write_samples, main=writes, start=start.iter),
        log=log, saver=saver, start=start, wandb_id=tracked.wandb_id if tracked else start.wandb_id,
        guards=Guards(config, log, model.config.vocab_size, start.guards), teachers=teachers.hashes,
        reference=reference, stream=feed.stream, tokens_per_sequence=feed.tokens_per_sequence,
        sequences_per_iter=sequences, flops_per_iter=flops_per_iter,
        peak_flops=backend.peak_flops() * group.world_size if group.main else 0.0,
    )  # fmt: skip


def said_of(changed: Sequence[str]) -> list[str]:
    """What to say of options and settings that have changed since the checkpoint."""
    what = "; ".join(changed)
    return [f"changed since the checkpoint, and so the results: {what}"] if changed else []


def open_folder(
    config: TrainConfig, model: GPT, optimizers: Sequence[torch.optim.Optimizer],
    saved: RunState | None, checkpoint_name: str,
) -> tracker.Trackers | None:  # fmt: skip
    """Make a run's folder ready for its checkpoints; return its trackers.

    What can be refused is before what is written.
    """
    out = Path(config.out_dir)
    check_room(config, checkpoint.size_bytes(model, optimizers))
    tracked = tracker.start(config, saved)
    if not saved:
        resume.create_run_folder(out)
    elif checkpoint_name and not meeting.restarted() and (branch := set_aside(out, saved.iter)):
        say(f"what came after iteration {saved.iter} is kept as the run {branch}")
    write_text(out / "config.toml", to_toml(config))
    return tracked
