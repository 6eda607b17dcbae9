"""Direct preference optimisation (arXiv:2305.18290): a run that learns which answer is preferred.

With logp the log-probability of an answer given its prompt, and a reference that stays as it is,
an answer's reward is b (logp - logp of the reference), and a pair's loss -log sigmoid(reward of the
chosen - reward of the rejected), equation 7. The reference is what the run begins from: a copy of
it, or with LoRA the model without its matrices. torch computes all of it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bardlet import lora
from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.pairs import Pairs
from bardlet.errors import BardletError, CheckpointError, UsageError
from bardlet.model import GPT
from bardlet.run.state import RunState
from bardlet.system.device import Machine

DPO = "dpo"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The frozen model that rewards are measured from; None: the policy without its adapters."""

    model: GPT | None = None
    hash: str = ""  # sha256 of its weights

    @property
    def weight_bytes(self) -> int:
        """The size of its weights, beside those of the model that is trained."""
        params = self.model.parameters() if self.model else ()
        return sum(p.numel() * p.element_size() for p in params)


def check_objective(config: TrainConfig, dataset: Dataset) -> None:
    """Raise UsageError where a run's objective and its dataset are of two kinds."""
    if config.objective == DPO and not dataset.preferences:
        raise UsageError(
            f"objective=dpo trains on pairs, and {dataset.folder} has none",
            "Prepare records with chosen and rejected: bardlet prepare PAIRS.jsonl --tokenizer "
            f"{config.init_from if config.init_from not in BUILTIN_INIT else 'RUN'}",
        )
    if config.objective == DPO and len(dataset.parts) > 1:
        raise UsageError("objective=dpo trains on one dataset", "Prepare all pairs as one")
    if config.objective != DPO and dataset.preferences:
        raise UsageError(
            f"{dataset.folder} has pairs of a chosen and a rejected answer",
            "Train on them with --objective=dpo (preset chat-dpo), or prepare the chosen answers "
            "alone with --messages_key chosen",
        )


def said_of_pairs(dataset: Dataset, config: TrainConfig, reference: Reference) -> list[str]:
    """What to say of the pairs that a run trains on; nothing where it is another one."""
    if not dataset.preferences:
        return []
    splits = {split: Pairs(dataset, split, config.block_size) for split in ("train", "val")}
    counts = ", ".join(f"{len(pairs):,} of {split}" for split, pairs in splits.items())
    frozen = "the model without its adapters"
    if reference.model:
        frozen = f"a frozen copy, {reference.weight_bytes / 1e6:,.1f} MB"
    lines = [
        f"pairs: {counts}; torch computes the loss, beta {config.dpo_beta:g}; reference: {frozen}"
    ]
    if left_out := sum(pairs.left_out for pairs in splits.values()):
        what = "pair is" if left_out == 1 else "pairs are"
        lines.append(f"{left_out:,} {what} longer than block_size={config.block_size} and left out")
    return lines


def load_reference(
    model: GPT, config: TrainConfig, dataset: Dataset, saved: RunState | None,
    init_model: Callable[[TrainConfig, Dataset], GPT] | None,
) -> Reference:  # fmt: skip
    """The reference of a run on pairs: of a new one a copy of `model`, of one that goes on from
    `saved` what it began from, which has to be as it was. Another run has none.
    """
    if not dataset.preferences or model.config.lora_rank:
        return Reference()
    if saved is None:
        reference = copy.deepcopy(model)
    elif config.init_from in BUILTIN_INIT or init_model is None:
        raise CheckpointError(f"{config.out_dir} does not say what it began from", "Use --fresh")
    else:
        try:
            reference = init_model(config, dataset)
        except BardletError as error:
            raise CheckpointError(
                f"{config.out_dir} began from {config.init_from}, its reference, which cannot be "
                f"read: {error.message}",
                "Put it back where it was, or start anew with --fresh",
            ) from None
    reference.eval().requires_grad_(False)
    digest = hash_of(reference)
    if saved is not None and saved.reference != digest:
        raise CheckpointError(
            f"{config.init_from} is another model than {config.out_dir} began from, its reference",
            "Put its weights back, or start anew with --fresh",
        )
    return Reference(model=reference, hash=digest)


def hash_of(model: GPT) -> str:
    """The sha256 of a model's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Preferences(nn.Module):
    """A policy called with pairs, whose loss is DPO's."""

    def __init__(
        self, policy: nn.Module, model: GPT, reference: Reference, config: TrainConfig,
        machine: Machine,
    ) -> None:  # fmt: skip
        """`policy` computes what `model` does, by whatever backend."""
        super().__init__()
        self.policy = policy
        self.beta, self.machine = config.dpo_beta, machine
        # in a list, and so not among this module's own parameters
        frozen = reference.model.to(machine.device) if reference.model else model
        self.frozen, self.adapted = [frozen], reference.model is None

    def forward(
        self, idx: Tensor, targets: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reward margins summed and pairs in the right order (2,), and the mean loss.

        idx and targets (B, 2, T) int64, chosen before rejected, -1 what does not count. `first` is
        ignored: a row is one document, whose answer sees all of its prompt.
        """
        _, rewards = self.rewards(idx, targets)
        margins = rewards[:, 0] - rewards[:, 1]  # (B,)
        sums = torch.stack([margins.detach().sum(), (margins > 0).sum()])
        return sums, -F.logsigmoid(margins).mean()

    def rewards(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The answers' log-probabilities and rewards, (B, 2) float32 each."""
        idx, targets = idx.flatten(0, 1), targets.flatten(0, 1)  # (2 B, T)
        logp = log_likelihood(self.policy, idx, targets).view(-1, 2)
        with torch.no_grad(), self.reference() as frozen:
            before = log_likelihood(frozen, idx, targets).view(-1, 2)
        return logp, self.beta * (logp - before)

    @contextlib.contextmanager
    def reference(self) -> Iterator[GPT]:
        """A context with the reference, without dropout and adapters."""
        (model,) = self.frozen
        training = model.training
        model.eval()
        try:
            with lora.without(model) if self.adapted else contextlib.nullcontext():
                yield model
        finally:
            model.train(training)


def log_likelihood(model: nn.Module, idx: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of the targets that count, of each sequence of (B, T): (B,) float32."""
    logits = model(idx, targets)[0]  # (B, T, V)
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
    )  # (B T,)
    return -losses.view(idx.shape).sum(1)
