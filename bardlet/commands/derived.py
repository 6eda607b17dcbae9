"""What options follow from others, from the dataset, or from the model that a run begins from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from bardlet.config import TrainConfig
from bardlet.errors import UsageError

Flags = Mapping[str, object]
Layer = tuple[str, Flags]  # their source and values


def without_chain(layers: Sequence[Layer], flags: Flags) -> list[Layer]:
    """The options of presets and files for a run of one stage, without those of their chains."""
    taught = any("distill_from" in options for options in (flags, *(layer for _, layer in layers)))
    dropped = {"stage_iters", "stage_options"}
    if not taught:
        dropped |= {"distill_weight", "distill_temperature"}
    return [(name, {k: v for k, v in own.items() if k not in dropped}) for name, own in layers]


def with_epochs(config: TrainConfig, flags: Flags, say: Callable[[str], None]) -> TrainConfig:
    """The configuration with the iterations that `epochs` asks for, where it does."""
    if not config.epochs or "max_iters" in flags:
        return dataclasses.replace(config, epochs=0.0)
    if config.stream:
        raise UsageError(
            f"epochs={config.epochs:g}: a stream is one pass over its text", "Give --max_iters"
        )
    from bardlet.data.dataset import mixture
    from bardlet.data.dataset.pairs import Pairs

    dataset = mixture.opened(config.dataset)
    windows = max(1, (len(dataset.splits["train"]) - 1) // config.block_size - 1)
    what = f"{windows:,} windows of {config.block_size} tokens"
    if config.objective == "dpo" and dataset.preferences:
        windows = len(Pairs(dataset, "train", config.block_size))
        what = f"{windows:,} pair{'s' * (windows != 1)}"
    epoch = windows / config.sequences_per_iter
    iters = math.ceil(config.epochs * epoch)
    say(f"{config.epochs:g} epochs of {what} are {iters:,} iterations")
    changed = {"max_iters": iters, "warmup_iters": min(config.warmup_iters, iters // 10)}
    if "eval_interval" not in flags:
        changed["eval_interval"] = max(1, round(epoch))
    if config.sample_interval and "sample_interval" not in flags:
        changed["sample_interval"] = changed.get("eval_interval", config.eval_interval)
    return dataclasses.replace(config, epochs=0.0, **changed)


def with_context(
    config: TrainConfig, flags: Flags, layers: Sequence[Layer],
    say: Callable[[str], None],
) -> TrainConfig:  # fmt: skip
    """The configuration with the context of the model that init_from names, unless it has one.

    One of a preset or file that is longer than the model's gives way to it; one of the command line
    is what was asked for, and refused where the model is read. Where nobody says one, it is no
    longer than the documents want.
    """
    from bardlet.interop.pretrained_init import context_of
    from bardlet.planning.finetuning import window

    if "block_size" in flags or not (size := context_of(config.init_from)):
        return config
    if any("block_size" in layer for _, layer in layers):
        if config.block_size <= size:
            return config
        source = config.init_from
        say(f"block_size={config.block_size} is above the {size} of {source}: taking {size}")
    elif config.objective == "lm":
        size = window(config.dataset, size, say)
    return dataclasses.replace(config, block_size=size)
