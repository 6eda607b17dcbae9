"""The files of a model of transformers, read: its JSON and the tensors of its safetensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bardlet.errors import CheckpointError
from bardlet.interop import tensor_names
from bardlet.io import safe_read
from bardlet.run.state import corrupt

INDEX = "model.safetensors.index.json"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder by name, without its buffers."""
    return {plain_name(n): t for n, t in read_shards(folder).items() if not is_buffer(n)}


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file of transformers', which may be a link into the hub's cache."""
    try:
        document = safe_read.parse_json(safe_read.read_text(path))
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise corrupt(path, error) from None
    return document


def chat_template(folder: Path) -> str:
    """The chat template of a folder, in Jinja; empty where it has none, or several."""
    alone, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        if alone.is_file():
            return safe_read.read_text(alone)
    except (OSError, ValueError) as error:
        raise corrupt(alone, error) from None
    template = read_json(config).get("chat_template") if config.is_file() else None
    return template if isinstance(template, str) else ""


def plain_name(name: str) -> str:
    """A tensor's name without the prefix of wrappers of transformers."""
    return name.removeprefix("model.") if name.startswith("model.transformer.") else name


def is_buffer(name: str) -> bool:
    """Whether this is attention's mask or the rotary frequencies, which old files have."""
    return re.search(r"h\.\d+\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$", name) is not None


def read_shards(folder: Path) -> dict[str, Tensor]:
    """All tensors of the safetensors of a folder, one file or those that an index names."""
    if (folder / INDEX).is_file():
        files = read_json(folder / INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
            raise CheckpointError(f"{folder / INDEX} is damaged: it has no weight_map")
        for file in files.values():
            if Path(file).name != file:
                raise CheckpointError(f"{folder / INDEX} names a file of another folder: {file}")
        shards = {name: read_safetensors(folder / name) for name in sorted(set(files.values()))}
        if missing := [name for name, file in files.items() if name not in shards[file]]:
            raise CheckpointError(
                f"{folder / INDEX} names tensors that are not in their files: "
                f"{tensor_names.listed(missing)}"
            )
        return {name: tensor for shard in shards.values() for name, tensor in shard.items()}
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(
            f"{folder} has no model.safetensors",
            "Other files of weights can run code: save it again with save_pretrained",
        )
    return read_safetensors(folder / "model.safetensors")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", "Fetch it again") from None
