"""Distillation: a run that learns from what finished runs predict, beside the text itself.

The loss is (1 - a) CE + a t^2 CE(q, softmax(logits / t)), where q is the mean of the teachers'
softmax(logits / t) (arXiv:1503.02531, section 2). Teachers are frozen, see the windows and the
document mask that the student sees, and are computed on the machine it is computed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers.base import fingerprint
from bardlet.errors import UsageError
from bardlet.model import GPT
from bardlet.native.training import NativeGPT, Soft, fits, rows
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import RunState
from bardlet.system.device import Machine

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """The frozen models that a run learns from; none, and a run is as it is."""

    models: Sequence[GPT] = ()
    hashes: Sequence[str] = ()  # of their weights

    @property
    def flops_per_token(self) -> float:
        """FLOPs of the teachers for one token: forward only, a third of training."""
        return sum(teacher.flops_per_token() / 3 for teacher in self.models)

    @property
    def weight_bytes(self) -> int:
        """The size of the teachers' weights."""
        weights = (p for teacher in self.models for p in teacher.parameters())
        return sum(p.numel() * p.element_size() for p in weights)

    def taught(self, forward: nn.Module, config: TrainConfig, machine: Machine) -> nn.Module:
        """A student, called as before, that learns from them."""
        return Distilled(forward, self.models, config, machine) if self.models else forward


def load_teachers(
    config: TrainConfig, dataset: Dataset, vocab_size: int, saved: RunState | None
) -> Teachers:
    """The best models of the runs that distill_from names.

    `vocab_size` is the student's, and `saved` what it goes on from. Raises BardletError children
    where one is missing or corrupt, cannot teach, or is another than the run has learnt from.
    """
    if config.eval_only:
        return Teachers(hashes=saved.teachers if saved else ())
    models, hashes = [], []
    whole = run_folder.is_run(Path(config.distill_from))  # whose name may have commas
    names = [config.distill_from] if whole else config.distill_from.split(",")
    for name in filter(None, names):
        folder = run_folder.find(Path(name.strip()), "best")
        model, tokenizer, _ = checkpoint.load(folder)
        if fingerprint(tokenizer) != fingerprint(dataset.tokenizer):
            raise UsageError(
                f"{name} cannot teach a run on {dataset.folder}: its tokenizer is another",
                "A teacher is a run on a dataset with the same tokenizer",
            )
        for option, size, fits_it in (
            ("block_size", model.config.block_size, model.config.block_size >= config.block_size),
            ("vocab_size", model.config.vocab_size, model.config.vocab_size == vocab_size),
        ):
            if not fits_it:
                wanted = {"block_size": config.block_size, "vocab_size": vocab_size}[option]
                raise UsageError(
                    f"{name} cannot teach a run with {option}={wanted}: its own is {size}",
                    f"Give --{option}={size}",
                )
        models.append(model.eval().requires_grad_(False))
        hashes.append(run_folder.read_checksums(folder)[WEIGHTS].sha256)
    if saved and list(saved.teachers) != hashes:
        raise UsageError(
            f"{config.out_dir} has learnt from other weights than those of distill_from="
            f"{config.distill_from or 'none'}",
            "Name the runs that it began with, or start anew with --fresh",
        )
    return Teachers(models=models, hashes=hashes)


class Distilled(nn.Module):
    """A student called as a GPT with targets, whose loss has its teachers' distributions in it."""

    def __init__(
        self, student: nn.Module, teachers: Sequence[GPT], config: TrainConfig, machine: Machine
    ) -> None:
        super().__init__()
        self.student = student
        self.weight, self.temperature = config.distill_weight, config.distill_temperature
        self.teachers = [  # in a list, and so not among this module's own parameters
            NativeGPT(teacher, machine.dtype) if fits(teacher, training=False) else teacher
            for teacher in (each.to(machine.device) for each in teachers)
        ]

    def forward(
        self, idx: Tensor, targets: Tensor, first: Tensor | None = None
    ) -> tuple[None, Tensor]:
        """(None, the mean loss of idx (B, T) and targets (B, T)), as GPT.forward has them."""
        q = self.softened(idx, first)  # (B, T, rows(V))
        if isinstance(self.student, NativeGPT):
            soft = Soft(targets=q, weight=self.weight, temperature=self.temperature)
            return self.student(idx, targets, first, soft)
        logits, loss = self.student(idx, targets, first=first)
        counted = targets >= 0  # (B, T)
        t = self.temperature
        log_p = F.log_softmax(logits.float() / t, -1)  # (B, T, V)
        taught = -(q[..., : log_p.size(-1)] * log_p).sum(-1)  # (B, T)
        taught = (taught * counted).sum() / counted.sum().clamp(min=1)
        return None, (1 - self.weight) * loss + self.weight * t * t * taught

    @torch.no_grad()
    def softened(self, idx: Tensor, first: Tensor | None) -> Tensor:
        """The mean of the teachers' distributions: (B, T, rows(V)) float32, zero behind V."""
        total: Tensor | None = None
        for teacher in self.teachers:
            if isinstance(teacher, NativeGPT):
                q = teacher.distributions(idx, first, self.temperature)
            else:
                logits, _ = teacher(idx, idx, first=first)  # targets: for all positions
                q = F.softmax(logits.float() / self.temperature, -1)
                q = F.pad(q, (0, rows(q.size(-1)) - q.size(-1)))
            total = q if total is None else total.add_(q)
        assert total is not None, "there is a teacher"
        return total.div_(len(self.teachers))
