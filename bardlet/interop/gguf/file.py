"""GGUF files as such: a header, keys with values, the tensors' names and shapes, their bytes.

Counts, lengths and offsets are checked against the file's size before anything is made of them,
and every fault is one CheckpointError that names the file. Version 3, little-endian, is read and
written; version 2 differs in nothing that matters here.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bardlet.errors import CheckpointError
from bardlet.interop.gguf.quant import DTYPE_BY_ID, QUANT_TYPES, QuantType, decode, encode

ALIGNMENT = 32  # bytes, of every tensor's beginning, unless general.alignment says otherwise
# how a value's type is numbered; struct's letter for those of fixed size
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip
STRING, ARRAY = 8, 9
UINT32, INT32, FLOAT32, BOOL = 4, 5, 6, 7


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """A tensor in a file: its dtype, its shape as torch has it, and where it begins."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def quant_type(self) -> QuantType:
        return QUANT_TYPES[self.dtype]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) // self.quant_type.block * self.quant_type.block_bytes


@dataclass(frozen=True, kw_only=True)
class GGUF:
    """An opened file: its keys' values, and its tensors by name."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    data: np.ndarray = field(repr=False)  # the whole file, uint8, memory-mapped

    def tensor(self, name: str) -> np.ndarray:
        """A tensor's weights in its own shape, float32."""
        info = self.tensors[name]
        raw = np.array(self.data[info.offset : info.offset + info.bytes])
        return decode(raw, info.dtype).reshape(info.shape)


class Cursor:
    """A position in a file's bytes, which each read moves on; ValueError at the end."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError(f"it ends within what begins at byte {self.at}")
        raw = self.data[self.at : self.at + count].tobytes()
        self.at += count
        return raw

    def number(self, letter: str) -> Any:
        size = struct.calcsize("<" + letter)
        return struct.unpack("<" + letter, self.take(size))[0]

    def count(self, what: str, min_bytes: int) -> int:
        """The number of things of at least `min_bytes` each that follow; ValueError where the
        file is too short for them."""
        count = self.number("Q")
        if count * min_bytes > len(self.data) - self.at:
            raise ValueError(f"{count:,} {what} do not fit into a file of {len(self.data):,} bytes")
        return count

    def text(self) -> str:
        return self.take(self.count("bytes of text", 1)).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"a value of unknown type {kind}")
        kind = self.number("I")
        if kind in SCALARS:
            letter = SCALARS[kind]
            size = struct.calcsize("<" + letter)
            count = self.count("numbers", size)
            return list(struct.unpack(f"<{count}{letter}", self.take(count * size)))
        if kind != STRING:
            raise ValueError(f"a list of values of type {kind}")
        return [self.text() for _ in range(self.count("strings", 8))]


def read(path: Path) -> GGUF:
    """Open a GGUF file; no tensor is read yet. Raises CheckpointError where it is damaged."""
    try:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        data = np.memmap(path, dtype=np.uint8, mode="r")
        cursor = Cursor(data)
        if cursor.take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = cursor.number("I")
        if version not in (2, 3):
            raise ValueError(f"version {version} of the format is not 2 or 3, little-endian")
        tensor_count = cursor.count("tensors", 24)
        key_count = cursor.count("keys", 13)
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.text()
            metadata[key] = cursor.value(cursor.number("I"))
        tensors = read_infos(cursor, tensor_count, metadata.get("general.alignment", ALIGNMENT))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path} as GGUF: {error}",
            "If it is cut short, fetch or export it again",
        ) from None
    return GGUF(path=path, metadata=metadata, tensors=tensors, data=data)


def read_infos(cursor: Cursor, count: int, alignment: object) -> dict[str, TensorInfo]:
    """The tensors' names, shapes, dtypes and places, which stand before their bytes."""
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment={alignment} is not a power of two")
    infos: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.text()
        dimensions = cursor.number("I")
        if name in infos or not 1 <= dimensions <= 4:
            raise ValueError(f"tensor {name!r} is there twice, or has {dimensions} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]  # theirs is reversed
        kind, offset = cursor.number("I"), cursor.number("Q")
        if kind not in DTYPE_BY_ID:
            raise ValueError(
                f"tensor {name!r} has ggml's dtype {kind}, which is not one of "
                f"{', '.join(QUANT_TYPES)}"
            )
        infos[name] = DTYPE_BY_ID[kind], shape, offset
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (dtype, shape, offset) in infos.items():
        info = TensorInfo(dtype=dtype, shape=shape, offset=start + offset)
        whole = all(shape) and not shape[-1] % info.quant_type.block
        if not whole or info.offset + info.bytes > len(cursor.data):
            raise ValueError(f"tensor {name!r} of shape {shape} reaches past its end")
        tensors[name] = info
    return tensors


def write(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[str, np.ndarray]]
) -> None:
    """Write keys and float32 tensors, each with the dtype to store it in, and wait for the disk.

    Python's bool, int, float, str and lists of one of them become GGUF's bool, uint32, float32,
    string and array (of int32). OSError where the disk does not take it.
    """
    offset, infos = 0, {}
    for name, (dtype, weights) in tensors.items():
        infos[name] = TensorInfo(dtype=dtype, shape=weights.shape, offset=offset)
        offset = aligned(offset + infos[name].bytes)
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(text(key) + b"".join(typed(value)))
        for name, info in infos.items():
            shape = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *info.shape[::-1])
            file.write(text(name) + shape + struct.pack("<IQ", info.quant_type.id, info.offset))
        pad(file)
        for dtype, weights in tensors.values():
            file.write(encode(weights, dtype).data)
            pad(file)
        file.flush()
        os.fsync(file.fileno())


def aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def pad(file: BinaryIO) -> None:
    file.write(bytes(aligned(file.tell()) - file.tell()))


def text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Any) -> Iterator[bytes]:
    """A value's type and then its bytes."""
    if isinstance(value, list):
        inner = STRING if isinstance(value[0], str) else INT32
        yield struct.pack("<IIQ", ARRAY, inner, len(value))
        yield (
            b"".join(map(text, value))
            if inner == STRING
            else struct.pack(f"<{len(value)}i", *value)
        )
    elif isinstance(value, str):
        yield struct.pack("<I", STRING) + text(value)
    else:
        kind = {bool: BOOL, int: UINT32, float: FLOAT32}[type(value)]
        yield struct.pack("<I" + SCALARS[kind], kind, value)
