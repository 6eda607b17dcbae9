"""Several processes as one: who this one is, and what they compute together.

Started by `torchrun`, which says so in the environment. On a single process every function here
does nothing, so the training loop has no second way.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bardlet.errors import BardletError, TrainingError, UsageError
from bardlet.system import sharding
from bardlet.system.meeting import START_S, connect, end_launcher, launcher, place, shared
from bardlet.system.peers import NEXT, Peers
from bardlet.system.signals import stop_with_launcher

# what gloo and NCCL say where another process is not there any more
PEER_LOST = ("by peer", "broken pipe", "pair closure", "gloo/transport", "remote process exited")
BUCKET = 1 << 23  # gradients that are exchanged at once
SLACK_S = 60.0  # that an exchange waits longer than the watch over the processes
joins = itertools.count()  # of one process, so that each has keys of its own
wrapped: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()
LET_GO_S = 1.0  # of exchanges under way, which fail in their own threads


class Progress:
    """How often this process has begun to wait for the others."""

    waits = 0


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

    def overlaps(self, device: torch.device) -> bool:
        """Whether gradients are exchanged while they are computed: a GPU does both at once."""
        return self.world_size > 1 and device.type == "cuda"

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """The sums over all processes, in float64 where the device has it."""
        if self.world_size == 1:
            return values
        return self.total(torch.tensor(values, dtype=wide(device), device=device)).tolist()

    def total(self, values: Tensor) -> Tensor:
        """The sums of each process's values, as `sum` but left on the device."""
        values = values.to(wide(values.device))
        if self.world_size > 1:
            Progress.waits += 1
            dist.all_reduce(values)
        return values

    def smallest(self, value: int, device: torch.device) -> int:
        """The smallest of the values of all processes."""
        if self.world_size == 1:
            return value
        least = torch.tensor(value, device=device)
        Progress.waits += 1
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)

    def agree(self, value: int) -> int:
        """The main process's value, on all of them."""
        return round(self.of_main(value))

    def of_main(self, value: float) -> float:
        """The main process's value, on all of them."""
        return self.sum([float(value) if self.main else 0.0], exchange_device())[0]

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
        Progress.waits += 1
        dist.all_gather(received, tensor)
        return received

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world_size > 1:
            Progress.waits += 1
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
    rank, local_rank, world_size = place()
    return Group(rank=rank, local_rank=local_rank, world_size=world_size)


@contextlib.contextmanager
def joined(
    group: Group, backend: str, device: torch.device, limit_s: float = START_S
) -> Iterator[None]:
    """Run the body as part of the process group; "auto" is nccl on CUDA and gloo elsewhere.

    Where a process ends, hangs, or is waited for longer than `limit_s`, all end with its name.
    """
    if group.world_size == 1:
        yield
        return
    stop_with_launcher()
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # DDP imports this one late, and the defaults of its functions then keep the group beyond its
    # end: a thread of gloo that lets go of a tensor while the interpreter ends aborts the process
    importlib.import_module("torch.distributed.nn")
    shared()
    name = f"group/{next(joins)}"
    watch = Peers(
        functools.partial(connect, name), group.rank, group.world_size, limit_s,
        lambda: Progress.waits, speaker=group.local_rank == 0, keeper=launcher(),
        on_cut=end_launcher,
    )  # fmt: skip
    with watch:
        try:
            dist.init_process_group(
                backend, store=dist.PrefixStore(name, shared()), rank=group.rank,
                world_size=group.world_size, timeout=timedelta(seconds=limit_s + SLACK_S),
            )  # fmt: skip
        except (ValueError, RuntimeError) as error:
            if is_peer_lost(error):
                raise peer_lost(group, watch) from None
            raise UsageError(f"backend={backend} cannot be used: {error}", "Try auto") from None
        try:
            yield
        except BardletError as error:
            error.quiet = error.quiet or watch.last_words(error.message)
            raise
        except RuntimeError as error:
            if not is_peer_lost(error):
                watch.last_words(str(error).splitlines()[0])
                raise
            # Without it the process hung at its end: exchanges under way hold tensors of Python's,
            # and their threads let go of them while the interpreter is free.
            time.sleep(LET_GO_S)
            raise peer_lost(group, watch) from None
        except BaseException as error:
            watch.last_words(f"{type(error).__name__} {error}".strip())
            raise
        finally:
            release_wrapped()
            dist.destroy_process_group()


def is_peer_lost(error: Exception) -> bool:
    """Whether an error of torch.distributed says that another process is not there any more."""
    return any(phrase in str(error).lower() for phrase in PEER_LOST)


def peer_lost(group: Group, watch: Peers) -> TrainingError:
    """What a process says that goes on no further because another one has ended."""
    why = watch.why()
    error = TrainingError(
        why or f"another of the {group.world_size} processes has ended, so this one stops", NEXT
    )
    error.quiet = bool(why) and not watch.speaks
    return error


def wrap(model: torch.nn.Module, group: Group, device: torch.device) -> torch.nn.Module:
    """The model with its gradients averaged over the processes after a backward pass."""
    if group.world_size == 1 or sharding.root(model):  # which sees to that itself
        return model
    # Buffers are constants; where a first forward pass runs out of memory they would be sent twice.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, [name for name, _ in model.named_buffers()]
    )
    ids = [device.index] if device.type == "cuda" else None
    wrapped.add(ddp := DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True))
    return ddp


def release_wrapped() -> None:
    """Let wrapped models go of the process group, while Python holds it too: the last to let go
    waits for gloo's threads, a reducer with Python's lock, which those need for a gradient's end.
    """
    for fields in map(vars, wrapped):
        fields.pop("logger", None)
        fields.pop("reducer", None)


@torch.no_grad()
def average(model: torch.nn.Module, group: Group) -> None:
    """Bring a model's gradients to their mean over the processes, where no backward pass did."""
    if group.world_size == 1:
        return
    params = [p for p in model.parameters() if p.requires_grad]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
    while grads:
        part, size = [grads.pop(0)], 0
        while grads and (size := size + part[-1].numel()) < BUCKET:
            part.append(grads.pop(0))
        flat = torch.cat([g.reshape(-1) for g in part]).div_(group.world_size)
        Progress.waits += 1
        dist.all_reduce(flat)
        for grad, mean in zip(part, flat.split([g.numel() for g in part]), strict=True):
            grad.copy_(mean.view_as(grad))


def synced(model: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """A context for a micro-batch's forward pass: only the last one's gradients are averaged."""
    if dist.is_initialized() and (sharded := sharding.root(model)):
        sharded.set_requires_gradient_sync(last)
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()
