"""A model whose weights, gradients and moments are shared out among processes (FSDP2).

Each process keeps some rows of every parameter (ZeRO stage 3, arXiv:1910.02054): a block's weights
are gathered before it computes and dropped behind it, and gradients are summed to the process that
has their rows. Parameters are then torch's DTensors; what is not asked for is not imported, since
that takes a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bardlet.errors import UsageError


def shard(
    model: nn.Module, blocks: Iterable[nn.Module], how: str, world_size: int, device: torch.device
) -> None:
    """Share out the parameters of each block, and then what is left of the model, in place.

    `how` is "full", among all `world_size` processes, or "node", among those of each node, whose
    gradients are then averaged over the nodes. Every process must hold the same weights before.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    size = per_node(world_size) if how == "node" else world_size
    nodes = world_size // size
    shape = (nodes, size) if nodes > 1 else (size,)
    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh)


def per_node(world_size: int) -> int:
    """The processes of each node, as torchrun says; all of them where it does not.

    UsageError where nodes have different numbers.
    """
    try:
        size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    except ValueError as error:
        raise UsageError(f"LOCAL_WORLD_SIZE must be a number: {error}") from None
    if size < 1 or world_size % size:
        raise UsageError(
            f"shard=node needs as many processes on each node: {world_size} are not a multiple of "
            f"the {size} of this one",
            "Give every torchrun the same --nproc_per_node, or take --shard=full",
        )
    return size


def is_sharded(of: Tensor | nn.Module) -> bool:
    """Whether a tensor, or a module's parameters, are shared out among processes."""
    return hasattr(of, "device_mesh") if isinstance(of, Tensor) else root(of) is not None


def root(module: nn.Module) -> Any | None:
    """The outermost module in `module` that `shard` was given, where there is one."""
    shards = (part for part in module.modules() if hasattr(part, "set_requires_gradient_sync"))
    return next(shards, None)


def release(module: nn.Module) -> None:
    """Keep this process's rows only, after a forward pass that no backward pass follows."""
    if (sharded := root(module)) is not None:
        sharded.reshard()


def summed_over_all(norm: Tensor) -> Tensor:
    """The norm of gradients of which each process knows that of its rows; (,) as `norm`."""
    return norm.full_tensor() if is_sharded(norm) else norm  # pyright: ignore


def span(tensor: Any, rank: int | None = None) -> slice:
    """The rows of a sharded tensor that a process has, this one or one of those it shares with.

    The last ones may have fewer than the others, or none.
    """
    mesh = tensor.device_mesh
    rank = mesh.get_coordinate()[-1] if rank is None else rank
    each = -(-tensor.size(0) // mesh.size(-1))
    first = min(rank * each, tensor.size(0))
    return slice(first, min(first + each, tensor.size(0)))


def local(tensor: Any) -> Tensor:
    """This process's rows of a sharded tensor, which are not copied; any other as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def own_part(tensor: Any, main: bool) -> tuple[int, Tensor] | None:
    """What this process is to save of a tensor: how many elements come before it, and it.

    None where others save all of it: one process of those that have the same rows does.
    """
    if not is_sharded(tensor):
        return (0, tensor) if main else None
    if any(tensor.device_mesh.get_coordinate()[:-1]):
        return None
    row = tensor.numel() // max(1, tensor.size(0))
    return span(tensor).start * row, tensor.to_local()


def like(whole: Tensor, tensor: Any) -> Tensor:
    """A copy of a whole tensor, on its own device; sharded where another of its shape is."""
    if tensor is None or not is_sharded(tensor) or whole.shape != tensor.shape:
        return whole.clone()
    return wrapped(whole[span(tensor)].clone(), tensor)


def wrapped(rows: Tensor, tensor: Any) -> Tensor:
    """This process's rows, on any device, as a tensor that is sharded as another is; where that one
    is not sharded, the rows themselves.
    """
    if not is_sharded(tensor):
        return rows
    from torch.distributed.tensor import DTensor

    # from_local brings rows to the device of the mesh
    return DTensor(rows, tensor._spec, requires_grad=False)  # pyright: ignore


def on_device(value: Tensor, p: Tensor) -> Tensor:
    """An entry of a parameter's optimizer state, on the parameter's device and in its dtype."""
    moved = local(value).to(local(p).device, p.dtype)
    return wrapped(moved, p) if is_sharded(value) else moved
