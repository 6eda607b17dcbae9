"""Weights & Biases, where `wandb_log` asks for it: one run there for one here, resumed or not."""

from __future__ import annotations

import dataclasses
from typing import Any

from bardlet.config import TrainConfig
from bardlet.errors import UsageError
from bardlet.system.optional_deps import need, reason


def check(config: TrainConfig) -> None:
    """Raise UsageError where the tracker is asked for and not installed."""
    if config.wandb_log:
        need("wandb", "wandb", "wandb_log=True")


def start(config: TrainConfig, run_id: str | None) -> Any:
    """A run of Weights & Biases, as nanoGPT's wandb_log starts one; None where none is asked for.

    `run_id` is that of the run to go on with. UsageError where it cannot be started.
    """
    if not config.wandb_log:
        return None
    wandb = need("wandb", "wandb", "wandb_log=True")
    again = {"id": run_id, "resume": "allow"} if run_id else {}
    try:
        return wandb.init(
            project=config.wandb_project, name=config.wandb_run_name,
            config=dataclasses.asdict(config), **again,
        )  # fmt: skip
    except Exception as error:  # its own, of a key or a network that is not there
        raise UsageError(
            f"wandb_log=True: Weights & Biases cannot be used: {reason(error)}",
            "Run `wandb login`, set WANDB_MODE=offline, or leave wandb_log out",
        ) from None
