"""What a checkpoint says beside its tensors: its JSON files as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bardlet.errors import CheckpointError
from bardlet.io import safe_read, schema

FORMAT_VERSION = 2
T = TypeVar("T")
Plain = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class DatasetRef:
    """The dataset that a model was trained on."""

    name: str  # empty for a model that was not trained here
    hash: str  # of its tokens
    end_of_text: int | None = None  # the token after each document
    pairs: bool | None = None  # whether it is of prompts with responses; None: not known
    chat_template: str = ""  # of its conversations, in Jinja


@dataclass(frozen=True, kw_only=True)
class Scores:
    """eval.json: losses in nats per token, and bits per byte of validation text."""

    train_loss: float
    val_loss: float
    bits_per_byte: float
    since_best: int = 0  # consecutive evaluations without progress
    val_batches: int = 0  # that val_loss is an estimate of; 0: the whole split
    # the estimate that the run compared itself by, where the whole split was scored after it
    sampled_val_loss: float | None = None
    # of a run on pairs, whose losses are those of preferences
    reward_margin: float | None = None
    accuracy: float | None = None  # share of the pairs whose chosen answer has the higher reward

    @property
    def compared(self) -> float:
        """The validation loss that other evaluations of the run compare with."""
        return self.val_loss if self.sampled_val_loss is None else self.sampled_val_loss

    def logged(self) -> dict[str, float]:
        """What metrics.jsonl and trackers have of an evaluation."""
        pairs = {"reward_margin": self.reward_margin, "accuracy": self.accuracy}
        return {
            "train_loss": self.train_loss, "val_loss": self.val_loss,
            "bits_per_byte": self.bits_per_byte, "val_batches": self.val_batches,
            **{name: value for name, value in pairs.items() if value is not None},
        }  # fmt: skip

    @property
    def val(self) -> str:
        """The validation loss as text; an estimate says of how many batches it is."""
        if not self.val_batches:
            return f"{self.val_loss:.4f}{self.of_pairs}"
        of = f"{self.val_batches} batch{'es' * (self.val_batches > 1)}"
        return f"~{self.val_loss:.4f} ({of}){self.of_pairs}"

    @property
    def of_pairs(self) -> str:
        """What is said of pairs behind the loss."""
        if self.reward_margin is None or self.accuracy is None:
            return ""
        return f", reward margin {self.reward_margin:.4f}, accuracy {self.accuracy:.1%}"


@dataclass(frozen=True, kw_only=True)
class CollapseState:
    """What tells that a run has stopped learning (training/collapse.py)."""

    lowest: float | None = None  # loss
    highest: float = 0.0  # loss since the lowest
    count: int = 0  # consecutive iterations without learning
    since: int = 0  # the first of them


@dataclass(frozen=True, kw_only=True)
class GuardState:
    """What the guards of a run have seen so far (training/guards.py)."""

    losses: Sequence[float] = ()  # the newest
    skipped: int = 0  # consecutive iterations
    since_best: int = 0  # consecutive evaluations without progress
    collapse: CollapseState = CollapseState()


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Where a model came from that was not trained here."""

    source: str
    token_ids: Mapping[str, int | Sequence[int] | None] = field(default_factory=dict)
    dataset: str = ""  # its name there, as nanoGPT's checkpoints have it
    chat_template: str = ""  # in Jinja


@dataclass(frozen=True, kw_only=True)
class RunState:
    """state.json, with eval.json as `scores`: what else than tensors a run goes on from."""

    iter: int  # iterations done
    tokens: int  # trained on
    sequences: int | None = None  # trained on; None where an early bardlet saved it
    best_val_loss: float | None = None
    guards: GuardState = GuardState()
    # settings of the machine that change rounding
    numerics: Mapping[str, Plain] = field(default_factory=dict, metadata={"key": "computes"})
    dataset: DatasetRef
    scaler: Mapping[str, Plain]  # of float16's gradients
    config: Mapping[str, Plain] = field(default_factory=dict)  # the run's options
    versions: Mapping[str, str] = field(default_factory=dict)
    imported: Imported | None = None
    teachers: Sequence[str] = ()  # the sha256 of the weights of each that it learns from
    reference: str = (
        ""  # the sha256 of the weights that rewards of a run on pairs are measured from
    )
    wandb_id: str | None = None  # of the run of Weights & Biases that it is logged to
    compiled: bool | None = None  # format 1 had it here, and no numerics
    scores: Scores | None = field(default=None, metadata={"key": None})  # where it was evaluated

    def __post_init__(self) -> None:
        for name in ("max_iters", "patience"):
            schema.check(self.config.get(name, 0), int, f"config.{name}")

    def consumed(self, per_iter: int) -> int:
        """The sequences trained on; where the file does not say, by its options, or else by
        `per_iter` of an iteration.
        """
        if self.sequences is not None:
            return self.sequences
        size, steps = map(self.config.get, ("batch_size", "gradient_accumulation_steps"))
        if isinstance(size, int) and isinstance(steps, int):
            return self.iter * size * steps
        return self.iter * per_iter

    def option(self, name: str, default: float) -> float:
        """A number among the run's options, or `default` where it is not known."""
        value = self.config.get(name)
        return value if isinstance(value, int | float) else default


@dataclass(frozen=True, kw_only=True)
class FileSum:
    """The size and hash of a file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Checksums:
    """checksums.json: every file of a checkpoint but itself."""

    files: Mapping[str, FileSum]


def read_as(cls: type[T], path: Path) -> T:
    """A JSON file of a checkpoint as its class. CheckpointError where it is not of its shape."""
    document = read_json(path)
    try:
        return schema.read(cls, document)
    except ValueError as error:
        raise corrupt(path, error) from None


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of a checkpoint, its format checked."""
    try:
        document = safe_read.read_json(path)
        schema.check(document, schema.VERSIONED)
    except (OSError, ValueError) as error:
        raise corrupt(path, error) from None
    version = document.get("format_version", 1)
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, this bardlet reads up to {FORMAT_VERSION}",
            "A newer bardlet wrote it: upgrade with pip install -U bardlet",
        )
    return document


def corrupt(path: Path, why: object) -> CheckpointError:
    """What to say of a file that cannot be used."""
    first = (str(why).splitlines() or [""])[0]
    return CheckpointError(
        f"{path} is missing or damaged: {first}", "`--checkpoint last` or `best` may name another"
    )
