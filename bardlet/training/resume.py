"""The checkpoint that a run goes on from, and whether its options and data allow it."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bardlet.config import BUILTIN_INIT, FIELDS, TrainConfig
from bardlet.data.dataset.folder import Dataset
from bardlet.data.dataset.pairs import Pairs
from bardlet.data.tokenizers.base import Tokenizer, fingerprint
from bardlet.errors import CheckpointError, DataError, UsageError
from bardlet.model import GPT, GPTConfig
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import RunState
from bardlet.system import meeting
from bardlet.system.distributed import Group
from bardlet.training import auto_batch
from bardlet.training.preferences import check_objective

InitModel = Callable[[TrainConfig, Dataset], GPT]

# what may change between the parts of a run without changing what it computes
MAY_CHANGE = {
    "out_dir", "dataset", "init_from", "fresh", "eval_only", "eval_interval", "log_interval",
    "always_save_checkpoint", "save_interval", "save_minutes", "keep_checkpoints", "save_failure",
    "wandb_log", "wandb_project", "wandb_run_name", "backend", "vocab_size", "guard_dead",
    "eval_on_start", "distill_from", "stages", "stage_iters", "stage_options", "recompute",
    "offload", "sample_interval", "sample_start", "tensorboard", "trackio", "ddp_timeout",
}  # fmt: skip
# what a checkpoint's tensors have the shape of
MUST_MATCH = {f.name for f in dataclasses.fields(GPTConfig)} - {"vocab_size"} | {
    "optimizer", "objective",
}  # fmt: skip


def check_data(config: TrainConfig, dataset: Dataset) -> None:
    """Raise where the dataset is damaged or too small, or its vocabulary too large."""
    dataset.verify()
    check_objective(config, dataset)
    if dataset.preferences:
        for split in dataset.splits:
            Pairs(dataset, split, config.block_size)  # which says why there are none
        return
    for split, needed in (("train", config.block_size + 1), ("val", 2)):
        tokens = len(dataset.splits[split])
        if split == "val" and not config.eval_full:
            needed = config.block_size + 1
        if tokens < needed:
            raise DataError(
                f"the {split} split of {dataset.folder} has {tokens} tokens, "
                f"block_size={config.block_size} needs at least {needed}",
                "Lower block_size or prepare more text",
            )
    shortest = min(len(stream) for stream, _ in dataset.parts)
    if shortest <= config.block_size:
        raise DataError(
            f"a dataset of the mixture has {shortest} training tokens, "
            f"block_size={config.block_size} needs more",
            "Lower block_size or prepare more text",
        )
    for split, stream in dataset.splits.items():
        if all(mask is not None and not mask.any() for mask in stream.masks):
            raise DataError(
                f"no token of the {split} split of {dataset.folder} counts in the loss",
                "Prepare it with --response_key, or without --prompt_key",
            )
    if config.doc_mask and dataset.end_of_text is None:
        raise UsageError(
            f"doc_mask has nothing to go by: {dataset.folder} has no token between documents",
            "Leave it out for a single text; prepare several documents again",
        )
    if config.vocab_size and config.vocab_size < dataset.vocab_size:
        raise UsageError(
            f"vocab_size={config.vocab_size} is below the dataset's {dataset.vocab_size}"
        )


def init_or_resume(
    config: TrainConfig,
    group: Group,
    dataset: Dataset,
    init_model: InitModel | None,
    checkpoint_name: str = "",
) -> tuple[GPT, TrainConfig, RunState | None, list[str]]:
    """The model, new, from elsewhere, or as the last checkpoint left it.

    With it the options as they then are, the state of the checkpoint it goes on from, None for a
    new run, and what has changed since.
    """
    start = group.agree(resume_iteration(config, checkpoint_name) if group.main else 0)
    config = auto_batch.resolve_auto_batch_size(config, group, start)
    if start >= 0:
        folder = Path(config.out_dir) / "checkpoints" / run_folder.name_of(start)
        model, tokenizer, state = checkpoint.load(folder)
        config = with_model_shape(config, model.config)
        # what the run began from, which the command that goes on with it does not say
        begun = str(state.config.get("init_from", config.init_from))
        config = dataclasses.replace(config, init_from=begun)
        if state.imported and not state.dataset.hash:  # of a dataset that is not known
            check_tokenizer(config, tokenizer, dataset)
            known = dataclasses.replace(state.dataset, hash=dataset.hash)
            state = dataclasses.replace(state, dataset=known)
        return model, config, state, check_resume(config, model, state, dataset)
    if config.init_from not in BUILTIN_INIT:
        assert init_model, "init_from names a model"
        model = init_model(config, dataset)
        return model, with_model_shape(config, model.config), None, []
    torch.manual_seed(config.seed)
    return GPT(model_config(config, dataset.vocab_size)), config, None, []


def model_config(config: TrainConfig, vocab_size: int) -> GPTConfig:
    """The shape of the model that a run trains: the options that both configurations have."""
    if config.lora_rank:
        raise UsageError(
            f"lora_rank={config.lora_rank} trains beside weights that are there already",
            "Name them with --init_from",
        )
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(GPTConfig)}
    return GPTConfig(**{**shared, "vocab_size": config.vocab_size or vocab_size})


def resume_iteration(config: TrainConfig, checkpoint_name: str = "") -> int:
    """The iterations of the checkpoint that a run goes on from, or -1 where it begins.

    An unfinished run in out_dir is continued, unless `fresh` starts over. The newest checkpoint
    counts that is as it was written, or the one that is named. What torchrun has started again goes
    on, however it was begun. CheckpointError where a finished
    run would be overwritten.
    """
    run = Path(config.out_dir)
    if meeting.restarted() and run_folder.checkpoints(run):
        return run_folder.iter_of(newest_valid(run))
    wanted = config.init_from == "resume"
    if checkpoint_name:
        if not wanted:
            raise UsageError(
                f"checkpoint={checkpoint_name} is where a run goes on from", "Add --resume"
            )
        folder = run_folder.find(run, checkpoint_name)
        run_folder.verify(folder)
        return run_folder.iter_of(folder)
    if config.fresh or (config.eval_only and not wanted):
        return -1
    if not run_folder.checkpoints(run):
        if wanted:
            run_folder.find(run, "last")  # which says what is missing
        return -1
    folder = newest_valid(run)
    if not wanted and run_folder.finished(folder):
        raise CheckpointError(
            f"{run} already holds a run, finished after {run_folder.iter_of(folder)} iterations",
            "Train it on with --resume --max_iters=MORE or --budget=TIME, start over with --fresh, "
            "or name another --out_dir",
        )
    return run_folder.iter_of(folder)


def newest_valid(run: Path) -> Path:
    """The newest checkpoint of a run whose files are as they were written; warns of others."""
    problems = []
    for folder in reversed(run_folder.checkpoints(run)):
        try:
            run_folder.verify(folder)
            run_folder.read_state(folder)
        except CheckpointError as error:
            problems.append(error)
            continue
        for error in problems:
            warnings.warn(f"{error.message}: going on from {folder.name}", stacklevel=2)
        return folder
    raise problems[0]


def with_model_shape(config: TrainConfig, model: GPTConfig) -> TrainConfig:
    """The options of a run that begins from a model: those that make its shape are the model's."""
    if config.init_from in BUILTIN_INIT:
        return config
    chosen = ("block_size", "dropout", "lora_rank")  # by the run
    shape = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    return dataclasses.replace(config, **{k: v for k, v in shape.items() if k not in chosen})


def check_resume(config: TrainConfig, model: GPT, state: RunState, dataset: Dataset) -> list[str]:
    """Raise where a checkpoint cannot go on under `config`; return what else has changed.

    Each entry names an option that moves the results from those of an undisturbed run.
    """
    before = state.config
    have = {"objective": "lm", **before, **dataclasses.asdict(model.config)}
    differ = [
        f"{name}={getattr(config, name)}, not {have[name]}"
        for name in FIELDS
        if name in MUST_MATCH and name in have and getattr(config, name) != have[name]
    ]
    if config.vocab_size not in (0, model.config.vocab_size):
        differ.append(f"vocab_size={config.vocab_size}, not {model.config.vocab_size}")
    if differ:
        raise CheckpointError(
            f"{config.out_dir} holds another model than asked for: {'; '.join(differ)}",
            "Leave these options out, or start anew with --fresh or in another out_dir",
        )
    if state.dataset.hash != dataset.hash:
        raise CheckpointError(
            f"{config.out_dir} was trained on other tokens than {dataset.folder} has now",
            "Prepare the same text again, or start anew in another out_dir",
        )
    return [
        f"{name}={getattr(config, name)}, was {before[name]}"
        for name in FIELDS
        if name in before
        and name not in MAY_CHANGE | MUST_MATCH
        and getattr(config, name) != before[name]
    ]


def check_tokenizer(config: TrainConfig, tokenizer: Tokenizer, dataset: Dataset) -> None:
    """Raise where a dataset's tokens are not those of an imported model."""
    if fingerprint(tokenizer) != fingerprint(dataset.tokenizer):
        raise CheckpointError(
            f"{dataset.folder} was prepared with another tokenizer than {config.out_dir} has",
            f"Prepare its text again: bardlet prepare TEXT --tokenizer {config.out_dir}",
        )


def changed_numerics(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of the machine differs from the one that saved a checkpoint: results may be rounded
    elsewhere.
    """
    if before.get("device") == "cuda":
        before = {"tf32": True, **before}  # as it always was where a checkpoint does not say
    return [f"{k}={v}, was {before[k]}" for k, v in here.items() if before.get(k, v) != v]


def create_run_folder(run: Path) -> None:
    """Make the folder of a new run, without what an earlier one left there."""
    try:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        (run / "checkpoints").mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"cannot write to {run}: {error.strerror}") from None
