"""How well a model tells the chosen answer of a pair from the rejected one, over a split."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bardlet.config import TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.pairs import Pairs
from bardlet.errors import DataError
from bardlet.evaluate import EvalInterrupted, Score
from bardlet.model import GPT
from bardlet.run.state import Scores
from bardlet.system.device import Machine
from bardlet.system.distributed import Group
from bardlet.system.memory import MicroBatcher
from bardlet.training.preferences import Preferences, Reference, log_likelihood

# idx and targets (B, 2, T) to log-probabilities and rewards of the answers, (B, 2) each
Rewards = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class PairScore(Score):
    """`loss` is that of the chosen answers' tokens, as text; the other figures are of pairs."""

    pairs: int
    preference_loss: float  # mean of -log sigmoid(margin)
    margin: float  # mean reward of the chosen answer above the rejected one's
    accuracy: float  # share of the pairs whose margin is above 0


def evaluate_pairs(
    model: GPT, rewards: Rewards, pairs: Pairs, numbers: Sequence[int], dataset: Dataset, *,
    batch_size: int, machine: Machine, group: Group, stop: Callable[[], bool] = lambda: False,
) -> PairScore:  # fmt: skip
    """The score of these pairs, whose answers `rewards` judges by `model`.

    It does not depend on batch_size or the number of processes but for rounding. Raises
    EvalInterrupted when `stop` says so and no other process waits for this one.
    """
    token_bytes = torch.from_numpy(dataset.tokenizer.token_bytes())  # (V,)
    alone = group.world_size == 1
    micro_batcher = MicroBatcher(batch_size)
    sums = torch.zeros(7, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        batches = range(0, len(numbers), batch_size)[group.rank :: group.world_size]
        for start in batches:
            if alone and stop():
                raise EvalInterrupted
            idx, targets = pairs.read(list(numbers[start : start + batch_size]))
            judged = functools.partial(summed, rewards, machine, idx, targets)
            counted = targets[:, 0][targets[:, 0] >= 0]  # (predicted tokens of the chosen,)
            sizes = [len(targets), len(counted), int(token_bytes[counted].sum())]
            sums += torch.tensor([*micro_batcher.run(judged), *sizes], dtype=torch.float64)
    finally:
        model.train(was_training)
    loss, margin, right, nats, total, tokens, size = group.sum(sums.tolist(), machine.device)
    if not tokens:
        raise DataError("no token of a chosen answer counts", "Prepare the pairs again")
    return PairScore(
        loss=nats / tokens, tokens=int(tokens), bits_per_byte=nats / math.log(2) / max(size, 1),
        pairs=int(total), preference_loss=loss / total, margin=margin / total,
        accuracy=right / total,
    )  # fmt: skip


@torch.no_grad()
def summed(
    rewards: Rewards, machine: Machine, idx: Tensor, targets: Tensor, size: int
) -> list[float]:
    """Losses, margins, pairs in the right order and nats of chosen answers, summed over a batch
    that is computed `size` pairs at a time.
    """
    total = torch.zeros(4, dtype=torch.float64)
    for x, y in zip(idx.split(size), targets.split(size), strict=True):
        with machine.autocast():
            logp, reward = rewards(x.to(machine.device), y.to(machine.device))
        margins = (reward[:, 0] - reward[:, 1]).double().cpu()  # (B,)
        parts = (
            -F.logsigmoid(margins),
            margins,
            (margins > 0).double(),
            -logp[:, 0].double().cpu(),
        )
        total += torch.stack([part.sum() for part in parts])
    return total.tolist()


def both_pair_losses(
    config: TrainConfig, model: GPT, reference: Reference, dataset: Dataset, machine: Machine,
    group: Group, *, stop: Callable[[], bool],
) -> Scores:  # fmt: skip
    """DPO's loss on pairs from everywhere in train, and on validation: all of it, or as many
    batches (`eval_full`). Bits per byte are those of the chosen answers.
    """
    judge = Preferences(model, model, reference, config, machine)
    by_split: dict[str, PairScore] = {}
    for split in ("train", "val"):
        pairs = Pairs(dataset, split, config.block_size)
        count = min(len(pairs), config.eval_iters * config.batch_size)
        if split == "val" and config.eval_full:
            count = len(pairs)
        numbers = [i * len(pairs) // count for i in range(count)]
        by_split[split] = evaluate_pairs(
            model, judge.rewards, pairs, numbers, dataset, batch_size=config.batch_size,
            machine=machine, group=group, stop=stop,
        )  # fmt: skip
    val = by_split["val"]
    return Scores(
        train_loss=by_split["train"].preference_loss, val_loss=val.preference_loss,
        bits_per_byte=val.bits_per_byte, val_batches=0 if config.eval_full else config.eval_iters,
        reward_margin=val.margin, accuracy=val.accuracy,
    )  # fmt: skip


def by_likelihood(
    model: GPT, dataset: Dataset, split: str, *, batch_size: int, machine: Machine, group: Group,
    stop: Callable[[], bool] = lambda: False,
) -> PairScore:  # fmt: skip
    """The score of all pairs of a split where an answer's reward is its log-probability."""

    def rewards(idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logp = log_likelihood(model, idx.flatten(0, 1), targets.flatten(0, 1)).view(-1, 2)
        return logp, logp

    pairs = Pairs(dataset, split, model.config.block_size)
    return evaluate_pairs(
        model, rewards, pairs, range(len(pairs)), dataset, batch_size=batch_size, machine=machine,
        group=group, stop=stop,
    )  # fmt: skip
