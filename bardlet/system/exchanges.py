"""Memory that runs out in one process of a sharded model, for which the others wait in every block.

Each part of such a model gathers its weights before it computes and shares its gradients out behind
it, in one order on all processes. A process that cannot go on makes the exchanges that are left of
its pass with a single sequence, whose results count for nothing: so the others come to the end of
theirs, and all compute the batch again with half as many sequences at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bardlet.errors import is_out_of_memory
from bardlet.system import distributed, memory, sharding
from bardlet.system.distributed import Group
from bardlet.system.memory import MicroBatcher

T = TypeVar("T")


class Exchange:
    """An exchange of a part of a model, as FSDP2 calls it, counted in each pass."""

    def __init__(
        self, make: Callable[..., Any], on_left_out: Callable[[], object] = lambda: None
    ) -> None:
        self.make, self.on_left_out = make, on_left_out
        self.made = 0  # in this pass
        self.left_out = 0  # the next ones that were made already, before memory ran out

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer for what is sent or received."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, **options: Any
    ) -> Any:  # fmt: skip
        """What to wait for, if anything: the exchange, or nothing where it is left out."""
        if self.left_out:
            self.left_out -= 1
            self.on_left_out()
            output_tensor.zero_()
            return None
        work = self.make(output_tensor, input_tensor, group=group, **options)
        self.made += 1
        return work


class Part:
    """A module whose weights are gathered together, and its exchanges."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.gather = Exchange(dist.all_gather_single, self.match_nodes)
        self.reduce = Exchange(dist.reduce_scatter_single)
        module.set_custom_all_gather(self.gather)
        module.set_custom_reduce_scatter(self.reduce)

    def match_nodes(self) -> None:
        """Average gradients over nodes where that has not been done: right behind `reduce`."""
        self.module.set_requires_all_reduce(not self.reduce.left_out, recurse=False)


class Parts:
    """Those of a sharded model."""

    def __init__(self, root: Any) -> None:
        self.root, root.parts_in_step = root, self
        modules = (m for m in root.modules() if hasattr(m, "set_custom_all_gather"))
        self.exchanges = [e for part in map(Part, modules) for e in (part.gather, part.reduce)]

    def begin(self) -> None:
        """Count from here on, with this process's rows only, as at every pass's begin."""
        self.root.reshard()
        for exchange in self.exchanges:
            exchange.made = exchange.left_out = 0

    def leave_out_made(self) -> None:
        """Let a pass begin again whose first exchanges have been made."""
        self.root.reset_iter_state()
        for exchange in self.exchanges:
            exchange.left_out = exchange.made


class SharedMicroBatcher(MicroBatcher):
    """The number of sequences that every process of a sharded model computes at once."""

    def __init__(self, size: int, root: Any, group: Group, device: torch.device) -> None:
        super().__init__(size, overlap=group.overlaps(device))
        self.group, self.device = group, device
        self.parts: Parts = getattr(root, "parts_in_step", None) or Parts(root)
        self.half = 0  # to go on with, where memory has run out here since the work began

    @property
    def settled(self) -> bool:
        return True

    def run(self, work: Callable[[int], T]) -> T:
        """The result of work(size), which all begin again where memory has run out on one."""
        while True:
            size, self.half = self.size, 0
            result = work(size)
            if self.proven:
                return result
            if self.half:
                self.parts.root.reset_iter_state()
            self.settle(self.group.smallest(self.half or size, self.device))
            if self.size == size:
                return result

    def part(self, work: Callable[..., T], *batch: Tensor) -> T:
        """The result of work(*batch), a pass; once memory has run out, that of one sequence."""
        self.parts.begin()
        while True:
            try:
                return work(*(x[:1] if self.half else x for x in batch))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.half or self.size == 1 or self.proven:
                    raise memory.too_many(self.size) from None
            # outside the handler, whose traceback holds what is to be freed
            self.half = memory.halved(self.size)
            self.parts.leave_out_made()


def settle(
    batcher: MicroBatcher, model: nn.Module, group: Group, device: torch.device
) -> None:  # fmt: skip
    """Bring gradients to their mean over all processes, and sizes to the smallest, after a batch
    whose last pass has not done so.
    """
    if not batcher.settled:
        distributed.average(model, group)
        batcher.settle(group.smallest(batcher.size, device))


def micro_batcher(
    size: int, model: nn.Module, group: Group, device: torch.device
) -> MicroBatcher:  # fmt: skip
    """How many of `size` sequences are computed at once, and what happens where memory runs out."""
    root = sharding.root(model)
    if root is None:
        return MicroBatcher(size, overlap=group.overlaps(device))
    if not hasattr(root, "reset_iter_state"):  # before PyTorch 2.13
        return MicroBatcher(size, can_retry=False)
    return SharedMicroBatcher(size, root, group, device)
