"""Several processes as one: who this one is, and what they compute together.

Started by `torchrun`, which says so in the environment. On a single process every function here
does nothing, so the training loop has no second way.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bardlet.errors import TrainingError, UsageError
from bardlet.system import sharding
from bardlet.system.signals import stop_with_parent

# what gloo and NCCL say where another process is not there any more
PEER_LOST = ("by peer", "broken pipe", "pair closure", "gloo/transport", "remote process exited")
LET_GO_S = 1.0  # of exchanges under way, which fail in their own threads


@dataclass(frozen=True, kw_only=True)
class Group:
    """The place of this process among all."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that logs and saves."""
        return self.rank == 0

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """The sums over all processes, in float64 where the device has it."""
        if self.world_size == 1:
            return values
        return self.total(torch.tensor(values, dtype=wide(device), device=device)).tolist()

    def total(self, values: Tensor) -> Tensor:
        """The sums of each process's values, as `sum` but left on the device."""
        values = values.to(wide(values.device))
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: int) -> int:
        """The main process's value, on all of them."""
        return round(self.sum([float(value) if self.main else 0.0], exchange_device())[0])

    def first(self, flag: bool) -> int:
        """The first process whose flag is set, or -1 where none is."""
        flags = [float(flag and rank == self.rank) for rank in range(self.world_size)]
        total = self.sum(flags, exchange_device())
        return next((rank for rank, count in enumerate(total) if count), -1)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """What each process has given, by rank: tensors of one shape and dtype."""
        if self.world_size == 1:
            return [tensor]
        received = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(received, tensor)
        return received

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world_size > 1:
            dist.barrier()


def wide(device: torch.device) -> torch.dtype:
    """The widest dtype that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def exchange_device() -> torch.device:
    """Where numbers are that the processes exchange."""
    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda" if nccl else "cpu")


def here() -> Group:
    """This process's place, from torchrun's environment."""
    try:
        return Group(
            rank=int(os.environ.get("RANK", 0)),
            local_rank=int(os.environ.get("LOCAL_RANK", 0)),
            world_size=int(os.environ.get("WORLD_SIZE", 1)),
        )
    except ValueError as error:
        raise UsageError(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}") from None


@contextlib.contextmanager
def joined(group: Group, backend: str, device: torch.device) -> Iterator[None]:
    """Run the body as part of the process group; "auto" is nccl on CUDA and gloo elsewhere."""
    if group.world_size == 1:
        yield
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's workers are for it
        stop_with_parent()
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # DDP imports this one late, and the defaults of its functions then keep the group beyond its
    # end: a thread of gloo that lets go of a tensor while the interpreter ends aborts the process
    importlib.import_module("torch.distributed.nn")
    try:
        dist.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        if is_peer_lost(error):
            raise peer_lost(group) from None
        raise UsageError(f"backend={backend} cannot be used: {error}", "Try auto") from None
    try:
        yield
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        # Without it the process hung at its end: exchanges under way hold tensors of Python's, and
        # their threads let go of them while the interpreter is free.
        time.sleep(LET_GO_S)
        raise peer_lost(group) from None
    finally:
        dist.destroy_process_group()


def is_peer_lost(error: Exception) -> bool:
    """Whether an error of torch.distributed says that another process is not there any more."""
    return any(phrase in str(error).lower() for phrase in PEER_LOST)


def peer_lost(group: Group) -> TrainingError:
    """What a process says that goes on no further because another one has ended."""
    return TrainingError(
        f"another of the {group.world_size} processes has ended, so process {group.rank} stops",
        "Its own message says why; started again, all go on with the last checkpoint",
    )


def wrap(model: torch.nn.Module, group: Group, device: torch.device) -> torch.nn.Module:
    """The model with its gradients averaged over the processes after a backward pass."""
    if group.world_size == 1 or sharding.root(model):  # which sees to that itself
        return model
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def synced(model: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """A context for a micro-batch's forward pass: only the last one's gradients are averaged."""
    if sharded := sharding.root(model):
        sharded.set_requires_gradient_sync(last)
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
