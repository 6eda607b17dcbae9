"""An optimizer's state that rests in main memory, and is on the device in parts while it steps.

The state is read and written in steps alone. The device computes them, with the bits that they have
without offloading; steps on the CPU (ZeRO-Offload, arXiv:2101.06840) would round otherwise. AdamW
sends 16 bytes of each weight there and back in a step, Muon 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from bardlet.system.sharding import local, on_device, wrapped

PART = 1 << 25  # bytes of weights whose state is on the device at once
MEGABYTE = 1e6


class Offload:
    """The state of one optimizer. A parameter's entries of its own shape rest; counters do not."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.resting: dict[tuple[Tensor, str], Tensor] = {}  # this process's rows, as in `state`

    def step(self, move: Callable[[], object]) -> None:
        """Call `move`, which takes a step of the optimizer's groups, for one part after another."""
        groups = self.optimizer.param_groups
        try:
            for params in self.parts():
                part = set(params)
                self.optimizer.param_groups = [
                    {**group, "params": [p for p in group["params"] if p in part]}
                    for group in groups
                ]
                self.fetch(params)
                move()
                self.rest(params)
        finally:
            self.optimizer.param_groups = groups

    def parts(self) -> Iterator[list[Tensor]]:
        """The parameters, so many at a time as PART allows, and at least one."""
        part: list[Tensor] = []
        size = 0
        for p in (p for group in self.optimizer.param_groups for p in group["params"]):
            size += local(p).nbytes
            if part and size > PART:
                yield part
                part, size = [], local(p).nbytes
            part.append(p)
        if part:
            yield part

    def fetch(self, params: Sequence[Tensor]) -> None:
        """Bring the state of some parameters to their device."""
        for p in params:
            for what, value in self.optimizer.state[p].items():
                if (p, what) in self.resting:
                    there = local(value).to(local(p).device, non_blocking=True, copy=True)
                    self.optimizer.state[p][what] = wrapped(there, p)

    def rest(self, params: Sequence[Tensor]) -> None:
        """Bring the state of some parameters to main memory."""
        entries = [
            (p, what, local(value))
            for p in params
            for what, value in self.optimizer.state[p].items()
            if value.dim()
        ]
        new = [entry for entry in entries if entry[:2] not in self.resting]
        if new:
            # pinned memory comes in powers of two: one piece for all wastes least
            pinned = any(local(p).is_cuda for p in params)
            sizes = [value.numel() for *_, value in new]
            room = torch.empty(sum(sizes), dtype=new[0][2].dtype, pin_memory=pinned)
            for (p, what, value), piece in zip(new, room.split(sizes), strict=True):
                self.resting[p, what] = piece.view(value.shape)
        for p, what, value in entries:
            self.resting[p, what].copy_(value, non_blocking=True)
            self.optimizer.state[p][what] = wrapped(self.resting[p, what], p)


def of(optimizer: torch.optim.Optimizer) -> Offload | None:
    """Where the state of an optimizer rests, if it is offloaded."""
    return getattr(optimizer, "offload", None)


def put_state(
    optimizer: torch.optim.Optimizer, saved: Mapping[Tensor, Mapping[str, Tensor]]
) -> None:  # fmt: skip
    """Give an optimizer the state of its parameters, on their device or where it is to rest."""
    offload = of(optimizer)
    counted_here = optimizer.param_groups[0].get("fused")  # else steps are counted on the CPU
    for part in offload.parts() if offload else [[*saved]]:
        for p in part if saved else []:
            optimizer.state[p] = {
                what: value if what == "step" and not counted_here else on_device(value, p)
                for what, value in saved[p].items()
            }
        if offload:
            offload.rest(part)


def put_updates(
    momenta: Callable[[list[Tensor]], list[Tensor]], optimizer: torch.optim.Optimizer
) -> None:  # fmt: skip
    """Move Muon's momenta, and put what is to be orthogonalised in place of the gradients."""
    for group in optimizer.param_groups:
        params = [p for p in group["params"] if p.grad is not None]
        for p, buffer in zip(params, map(local, momenta(params)), strict=True):
            grad = local(p.grad)  # pyright: ignore
            buffer.lerp_(grad, 1 - group["momentum"])
            torch.lerp(grad, buffer, group["momentum"], out=grad)


def wait(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Return when state that was brought to main memory is there, for others than the device."""
    resting = [value for o in optimizers if (rest := of(o)) for value in rest.resting.values()]
    if any(value.is_pinned() for value in resting):
        torch.cuda.synchronize()


def offloads(device_type: str, wanted: bool) -> bool:
    """Whether an optimizer's state has another place to rest than the device's own memory."""
    return wanted and device_type == "cuda"


def said(
    wanted: bool, device: torch.device, optimizers: Iterable[torch.optim.Optimizer]
) -> list[str]:  # fmt: skip
    """What offloading means on this process, in a line, where it is wanted."""
    size = 0
    for optimizer in filter(of, optimizers):
        entries = 2 if isinstance(optimizer, torch.optim.AdamW) else 1
        size += entries * sum(
            local(p).nbytes for group in optimizer.param_groups for p in group["params"]
        )
    if size:
        return [
            f"offload: {size / MEGABYTE:,.0f} MB of the optimizer's state are in main memory, and "
            f"{2 * size / MEGABYTE:,.0f} MB cross the bus in each step"
        ]
    return [f"offload: no effect, device={device.type} has no other memory"] if wanted else []
