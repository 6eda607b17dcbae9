"""A safetensors file that many processes write at once, each its own rows of every tensor.

Rows lie one behind another there, so each process puts its own where they belong: the file is what
one process would have written, nothing is gathered, and no process holds more than its shard.
Files of torch.distributed.checkpoint have a pickle among them, which nothing here opens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bardlet.system import sharding

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
ALIGNED = 8  # bytes that the header is a multiple of


def layout(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int], int]:
    """What the file begins with, where in it each tensor's bytes begin, and its size."""
    entries, position = {}, 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        tensor = tensors[name]
        end = position + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }  # fmt: skip
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    begin = ALIGNED + len(text)
    starts = {name: begin + entry["data_offsets"][0] for name, entry in entries.items()}
    return len(text).to_bytes(ALIGNED, "little") + text, starts, begin + position


def create(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the header, and take the room for the rest. OSError where the disk has not got it."""
    header, _, size = layout(tensors)
    with path.open("xb") as file:
        file.write(header)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def fill(path: Path, tensors: Mapping[str, Tensor], *, main: bool, elsewhere: bool) -> None:
    """Write this process's part; the `main` one writes what is not shared out.

    `elsewhere`: on another computer than the main process, whose flush does not reach what is
    written here.
    """
    _, starts, _ = layout(tensors)
    with path.open("r+b") as file:
        for name, tensor in tensors.items():
            part = sharding.own_part(tensor, main)
            if part is not None and part[1].numel():
                before, own = part
                file.seek(starts[name] + before * tensor.element_size())
                flat = own.detach().cpu().contiguous().flatten()
                file.write(flat.view(torch.uint8).numpy().data)
        if elsewhere:
            file.flush()
            os.fsync(file.fileno())
