"""Work shared out among the processes: each item done once, by its owner, the results gathered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bardlet.system.distributed import Group
from bardlet.system.sharding import local, span

ROUND = 1 << 24  # numbers that are gathered in a round: 64 MB in float32
# Ways to share matrices out: to owners, with exchanges of bounded size or in a single one; or to
# nobody, so that all processes compute all. The bits are the same, but for products
# that round otherwise in batches of another size: on GPUs, and in torch on some CPUs.
ROUNDS, ONCE = "exchanged in rounds", "exchanged at once"
EVERYWHERE = "computed by every process"


@functools.lru_cache(maxsize=16)
def owners(costs: tuple[float, ...], world_size: int) -> tuple[int, ...]:
    """The process that does each item: the dearest first, each to whom has least to do so far.

    Where items are fewer than processes, some have none.
    """
    loads = [0.0] * world_size
    ranks = [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        ranks[item] = loads.index(min(loads))
        loads[ranks[item]] += costs[item]
    return tuple(ranks)


def gather(
    tensors: Sequence[Tensor], ranks: Sequence[int], group: Group, way: str = ROUNDS
) -> None:  # fmt: skip
    """Give each tensor, in place on all processes, the values that it has on its owner.

    Every process calls this with tensors of the same shapes and one dtype, contiguous or not.
    """
    if group.world_size == 1:
        return
    sizes = [t.numel() for t in tensors]
    room = sum(sizes) if way == ONCE else ROUND // group.world_size
    for parts in rounds(sizes, ranks, group.world_size, room):
        size = max(sum(sizes[i] for i in part) for part in parts)
        sent = tensors[0].new_zeros(size)
        mine = [tensors[i].reshape(-1) for i in parts[group.rank]]
        if mine:
            torch.cat(mine, out=sent[: sum(map(len, mine))])
        for rank, (part, values) in enumerate(zip(parts, group.gather(sent), strict=True)):
            if rank != group.rank and part:
                pieces = values[: sum(sizes[i] for i in part)].split([sizes[i] for i in part])
                for i, piece in zip(part, pieces, strict=True):
                    tensors[i].copy_(piece.view_as(tensors[i]))


def rounds(
    sizes: Sequence[int], ranks: Sequence[int], world_size: int, room: int
) -> Iterator[list[list[int]]]:
    """The items that each process sends at once: as many as there is room for, and at least one."""
    left = [[i for i, rank in enumerate(ranks) if rank == owner] for owner in range(world_size)]
    while any(left):
        parts: list[list[int]] = [[] for _ in left]
        for part, items in zip(parts, left, strict=True):
            free = room
            while items and (not part or sizes[items[0]] <= free):
                free -= sizes[items[0]]
                part.append(items.pop(0))
        yield parts


def move_rows(
    move: Callable[..., None], weights: Sequence[Tensor], grads: Sequence[Tensor],
    buffers: Sequence[Tensor], rows: Sequence[list[int]], way: str, *, rate: float,
    momentum: float, decay: float,
) -> None:  # fmt: skip
    """Take the step of sharded matrices, in place, as `move` (optim.Muon's) does for whole ones.

    Momenta and weights need their own rows only; each update is gathered by one process of those
    that share it, or by all, where `move` makes a step of it.
    """
    own, grads, buffers = ([local(t) for t in ts] for ts in (weights, grads, buffers))
    torch._foreach_lerp_(buffers, grads, 1 - momentum)
    torch._foreach_mul_(own, decay)
    for part in parts_of(weights, way):
        whole = Matrices([weights[i] for i in part], everywhere=way == EVERYWHERE)
        updates = whole.gather([torch.lerp(grads[i], buffers[i], momentum) for i in part])
        steps, past = ([torch.zeros_like(update) for update in updates] for _ in range(2))
        if updates:
            stacked = [rows[part[i]] for i in whole.mine]
            move(steps, updates, past, stacked, EVERYWHERE, rate=rate, momentum=0.0, decay=1.0)
        torch._foreach_add_([own[i] for i in part], whole.scatter(steps))


def parts_of(matrices: Sequence[Any], way: str) -> list[list[int]]:
    """The sharded matrices that are exchanged together: all, or so many that ROUND bounds what a
    process has of them.
    """
    if way != ROUNDS:
        return [[*range(len(matrices))]]
    parts: list[list[int]] = []
    left = 0
    for i, matrix in enumerate(matrices):
        if not parts or matrix.numel() > left:
            parts.append([])
            left = ROUND * matrix.device_mesh.size(-1)
        parts[-1].append(i)
        left -= matrix.numel()
    return parts


class Matrices:
    """Sharded matrices of which each is computed as a whole, by its owner or everywhere.

    One exchange brings all rows to the owners and one brings results back, so that each process
    sends and receives about what it holds of them.
    """

    def __init__(self, tensors: Sequence[Any], *, everywhere: bool = False) -> None:
        """The matrices (m, n), sharded alike."""
        self.everywhere = everywhere
        self.tensors, mesh = tensors, tensors[0].device_mesh
        self.group = mesh.get_group(mesh.ndim - 1)
        self.rank, self.size = mesh.get_coordinate()[-1], mesh.size(-1)
        ranks = owners(tuple(float(t.numel() * min(t.shape)) for t in tensors), self.size)
        self.owned = [[i for i, owner in enumerate(ranks) if everywhere or owner == rank]
                      for rank in range(self.size)]  # fmt: skip
        # of each rank: the rows of what it owns that are here, and of what is owned here
        self.here = [[self.shape(i, self.rank) for i in part] for part in self.owned]
        self.there = [[self.shape(i, rank) for i in self.mine] for rank in range(self.size)]

    @property
    def mine(self) -> list[int]:
        """The numbers of the matrices that this process owns; there may be none."""
        return self.owned[self.rank]

    def shape(self, i: int, rank: int) -> tuple[int, int]:
        """(rows, columns) of the part of matrix `i` that a rank has."""
        part = span(self.tensors[i], rank)
        return part.stop - part.start, self.tensors[i].size(1)

    def gather(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Whole matrices, those of `mine`, from every process's rows of all."""
        flat = [[parts[i] for i in part] for part in self.owned]
        received = self.exchange(flat, self.there)
        return [torch.cat(rows) for rows in zip(*received, strict=True)]

    def scatter(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """This process's rows of all matrices, from every process's whole ones."""
        if self.everywhere:
            return [t[span(self.tensors[i], self.rank)] for i, t in enumerate(whole)]
        cut = [[t[span(self.tensors[i], rank)] for i, t in zip(self.mine, whole, strict=True)]
               for rank in range(self.size)]  # fmt: skip
        received = self.exchange(cut, self.here)
        by_number = {i: rows for part, got in zip(self.owned, received, strict=True)
                     for i, rows in zip(part, got, strict=True)}  # fmt: skip
        return [by_number[i] for i in range(len(self.tensors))]

    def exchange(
        self, parts: list[list[Tensor]], shapes: list[list[tuple[int, int]]]
    ) -> list[list[Tensor]]:
        """Send parts[r] to each rank r, and receive tensors of shapes[r] from it."""
        example = local(self.tensors[0])
        sent = torch.cat([example.new_empty(0), *(t.flatten() for part in parts for t in part)])
        sizes = [sum(t.numel() for t in part) for part in parts]
        counts = [[rows * columns for rows, columns in part] for part in shapes]
        totals = [sum(part) for part in counts]
        got = example.new_empty(sum(totals))
        dist.all_to_all_single(got, sent, totals, sizes, group=self.group)
        return [
            [flat.view(shape) for flat, shape in zip(block.split(count), part, strict=True)]
            for block, count, part in zip(got.split(totals), counts, shapes, strict=True)
        ]
