"""A checkpoint's tensors, and the model that they fit: checked by the header before any memory.

A config.json of a few bytes can ask for a terabyte, and a safetensors file can hold other shapes
than its config.json says; the file's header alone shows both.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bardlet import lora
from bardlet.config import resolve
from bardlet.errors import UsageError
from bardlet.io.safe_read import regular
from bardlet.model import GPT, GPTConfig
from bardlet.run.state import corrupt, read_json

DTYPES = {"F64", "F32", "F16", "BF16"}  # in the header's words
LARGEST_TABLE = 1 << 28  # numbers of rotary angles, which no file holds


def untrained(folder: Path) -> GPT:
    """The model of a checkpoint's config.json, with weights that are still to be read.

    CheckpointError where the config cannot be right, or the weights' header shows other tensors.
    """
    path = folder / "config.json"
    try:
        config = config_of(read_json(path))
    except (UsageError, ValueError) as error:
        raise corrupt(path, getattr(error, "message", error)) from None
    path = folder / "model.safetensors"
    have = shapes_of(path)
    try:
        want = shapes_for(config, max_layers=len(have))
    except (ValueError, RuntimeError) as error:  # which torch raises for sizes beyond 64 bits
        raise corrupt(folder / "config.json", error) from None
    for name in sorted(want.keys() | have.keys()):
        problem = ""
        if name not in have:
            problem = f"missing tensor {name}"
        elif name not in want:
            problem = f"unexpected tensor {name[:100]}"
        elif have[name] != want[name]:
            problem = f"{name} is {have[name]}, not {want[name]}"
        if problem:
            raise corrupt(path, f"its tensors do not fit config.json: {problem}")
    with Unfilled():
        return lora.build_model(config)


def config_of(document: dict[str, Any]) -> GPTConfig:
    """The shape of a model from config.json, each value in the bounds of the option of its name.

    UsageError or ValueError where one is not, or where they contradict each other.
    """
    names = [f.name for f in dataclasses.fields(GPTConfig)]
    checked = resolve([("it", {name: document[name] for name in names if name in document})])
    config = GPTConfig(**{name: getattr(checked, name) for name in names})
    if not config.vocab_size:
        raise ValueError("it has no vocab_size")
    if config.llama and 2 * config.block_size * config.head_size > LARGEST_TABLE:
        raise ValueError(f"block_size={config.block_size} asks for too large a table of angles")
    return config


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a safetensors file by name, from its header alone."""
    try:
        with safe_open(regular(path, path.parent), framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            strange = [n for n, part in slices.items() if part.get_dtype() not in DTYPES]
            if strange:
                dtype = slices[strange[0]].get_dtype()
                raise ValueError(f"{strange[0][:100]} holds {dtype}, which weights are not")
            return {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise corrupt(path, error) from None


class Unfilled(TorchFunctionMode):
    """Leaves new weights as they are: those of GPT-2 take a second to draw, before they are read
    from a file, and on the meta device what draws them takes a second to import.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            return args[0] if args else options["tensor"]
        if func is torch.arange:  # of the rotary angles, which are not weights
            options["device"] = "cpu"
        return func(*args, **options)


def shapes_for(config: GPTConfig, max_layers: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters by name, without the memory for any.

    ValueError where it has more than `max_layers` layers, and so more than there are weights for.
    """
    if config.n_layer > max_layers:
        raise ValueError(f"n_layer={config.n_layer}, and the weights are {max_layers} tensors")
    # of llama's weights none has the length of the context
    context = 1 if config.llama else config.block_size
    with torch.device("meta"), Unfilled():
        single = lora.build_model(dataclasses.replace(config, n_layer=1, block_size=context))
    shapes = {}
    for name, p in single.named_parameters():  # tied ones once
        inner = re.sub(r"^transformer\.h\.0\.", "", name)
        layers = range(config.n_layer) if inner != name else [0]
        names = [f"transformer.h.{i}.{inner}" if inner != name else name for i in layers]
        shapes |= dict.fromkeys(names, tuple(p.shape))
    return shapes


def load_into(model: GPT, path: Path) -> None:
    """Give a model the weights of a file; warn where some are not finite, as after divergence."""
    own = dict(model.named_parameters())  # tied ones once
    with torch.no_grad():
        for name, value in mapped(path):
            own[name].copy_(value)  # in place: the memory never holds them twice
    strange = [name for name, p in own.items() if not p.isfinite().all()]
    if strange:
        warnings.warn(f"{path}: {strange[0]} has values that are not finite", stacklevel=2)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return {name: value.clone() for name, value in mapped(path)}


def mapped(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The names and tensors of a safetensors file, which are the file itself, mapped into memory.

    CheckpointError where it is corrupt.
    """
    names = shapes_of(path)
    try:
        with safe_open(path, framework="pt") as file:
            for name in names:
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError, ValueError) as error:
        raise corrupt(path, error) from None
