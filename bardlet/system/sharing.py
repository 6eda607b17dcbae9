"""Work shared out among the processes: each item done once, by its owner, the results gathered."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bardlet.system.distributed import Group

ROUND = 1 << 24  # numbers that are gathered at once: 64 MB in float32


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


def gather(tensors: Sequence[Tensor], ranks: Sequence[int], group: Group) -> None:
    """Give each tensor, in place on all processes, the values that it has on its owner.

    Every process calls this with tensors of the same shapes and one dtype, contiguous or not.
    """
    if group.world_size == 1:
        return
    sizes = [t.numel() for t in tensors]
    for parts in rounds(sizes, ranks, group.world_size):
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
    sizes: Sequence[int], ranks: Sequence[int], world_size: int
) -> Iterator[list[list[int]]]:
    """The items that each process sends at once, at least one and else up to its part of ROUND."""
    left = [[i for i, rank in enumerate(ranks) if rank == owner] for owner in range(world_size)]
    while any(left):
        parts: list[list[int]] = [[] for _ in left]
        for part, items in zip(parts, left, strict=True):
            room = ROUND // world_size
            while items and (not part or sizes[items[0]] <= room):
                room -= sizes[items[0]]
                part.append(items.pop(0))
        yield parts
