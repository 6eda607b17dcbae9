"""Models in GGUF, the format of llama.cpp and Ollama: what its keys and tensors mean to a GPT.

Three things differ from our checkpoints. llama.cpp rotates neighbouring pairs of llama's queries
and keys where we rotate halves, so their rows are stored in another order. Its gpt2 has biases
throughout, so a model without them gets zeros. Its vocabularies need an end-of-text token, so a
model without one gets a row for it (end_of_text.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bardlet.data.tokenizers import base as tokenizers
from bardlet.data.tokenizers.base import Tokenizer
from bardlet.errors import CheckpointError
from bardlet.interop import end_of_text, tensor_names
from bardlet.interop.chat_template import PASS_ON
from bardlet.interop.gguf import file as gguf_file
from bardlet.interop.gguf import vocab as gguf_vocab
from bardlet.interop.gguf.file import GGUF
from bardlet.interop.gguf.quant import QUANT_TYPES
from bardlet.interop.tensor_names import EMBEDDING, HEAD, architecture
from bardlet.model import GPT, GPTConfig

ARCHITECTURES = ("gpt2", "llama", "qwen3", "qwen2")
ROWS = "bardlet.vocab_size"  # our key: the model's own rows, where the file has one more
CHAT_TEMPLATE = "tokenizer.chat_template"
MAX_SIZE = 1 << 20  # of any dimension: rotary tables are made for every position
FILE_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "Q6_K": 18, "BF16": 32}
# keys that change what a model computes, with the values that do not
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (),
    "attention.sliding_window": (0,),
    "embedding_scale": (),
    "expert_count": (0,),
    "logit_scale": (),
    "residual_scale": (),
    "rope.scale_linear": (0.0, 1.0),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.type": ("none",),
    "use_parallel_residual": (False,),
}


def read(path: Path) -> tuple[GPT, Tokenizer]:
    """The model in a GGUF file, in float32, and its tokenizer.

    Raises CheckpointError, naming keys and tensors, or DataError for what is damaged or not
    supported.
    """
    file = gguf_file.read(path)
    config = read_config(file)
    theirs = {name: torch.from_numpy(file.tensor(name)) for name in file.tensors}
    for name in filter(is_interleaved, theirs if architecture(config) == "llama" else ()):
        if len(theirs[name]) % config.head_size == 0:  # otherwise `join` reports the shape
            theirs[name] = interleave(theirs[name], config.head_size, back=True)
    weights = tensor_names.join(config, theirs, "gguf", path)
    rows = file.metadata.get(ROWS, config.vocab_size)
    if not isinstance(rows, int) or not 0 < rows <= config.vocab_size:
        raise CheckpointError(f"{path} has {ROWS}={rows} and {config.vocab_size} rows")
    for name in weights.keys() & {EMBEDDING, HEAD}:
        weights[name] = weights[name][:rows]
    biases = [name for name in weights if name.endswith(".bias")]
    if not any(weights[name].any() for name in biases):  # the same as none
        weights = {name: w for name, w in weights.items() if name not in biases}
        config = dataclasses.replace(config, bias=False, qkv_bias=False)
    config = dataclasses.replace(config, vocab_size=rows)
    tokenizer = tokenizers.from_json(gguf_vocab.from_metadata(file.metadata, str(path)), str(path))
    if tokenizer.vocab_size > rows:
        raise CheckpointError(f"{path} has {tokenizer.vocab_size} tokens and {rows} rows for them")
    return tensor_names.build(config, weights), tokenizer


def chat_template(path: Path) -> str:
    """The chat template in a GGUF file, in Jinja; empty where it has none."""
    template = gguf_file.read(path).metadata.get(CHAT_TEMPLATE)
    return template if isinstance(template, str) else ""


def read_config(file: GGUF) -> GPTConfig:
    """The configuration of the model of a file, with biases if it is a gpt2."""
    arch = file.metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path} is of the architecture {arch!r}", f"Known are {', '.join(ARCHITECTURES)}"
        )
    keys = {key.removeprefix(f"{arch}."): value for key, value in file.metadata.items()}
    problems = [
        f"{arch}.{key}={keys[key]} is not supported"
        for key, harmless in UNSUPPORTED.items()
        if key in keys and keys[key] not in harmless
    ]

    def size(key: str, default: object = None) -> int:
        value = keys.get(key, default)
        if type(value) is int and 0 < value <= MAX_SIZE:
            return value
        problems.append(f"invalid value {arch}.{key}={value}")
        return 1

    def number(key: str, default: float | None = None) -> float:
        value = keys.get(key, default)
        if isinstance(value, float) and value > 0:
            return float(str(np.float32(value)))  # the shortest decimal of this float32
        problems.append(f"invalid value {arch}.{key}={value}")
        return 1.0

    llama = arch != "gpt2"
    n_embd, n_head = size("embedding_length"), size("attention.head_count")
    values: dict[str, Any] = {
        "block_size": size("context_length"), "n_layer": size("block_count"), "n_head": n_head,
        "n_embd": n_embd, "mlp_dim": size("feed_forward_length"),
    }  # fmt: skip
    if llama:
        head = size("attention.key_length", n_embd // n_head)
        for key in ("attention.value_length", "rope.dimension_count"):
            if size(key, head) != head:
                problems.append(f"{arch}.{key}={keys[key]} is not supported, only {head}")
        values |= {
            "family": "llama", "qk_norm": arch == "qwen3", "qkv_bias": arch == "qwen2",
            "head_dim": head,
            "n_kv_head": size("attention.head_count_kv", n_head),
            "rope_theta": number("rope.freq_base", 10000.0),
            "norm_eps": number("attention.layer_norm_rms_epsilon"),
            "tie_embeddings": "output.weight" not in file.tensors,
        }  # fmt: skip
    else:
        values |= {"bias": True, "norm_eps": number("attention.layer_norm_epsilon"),
                   "gelu_approximate": "tanh"}  # fmt: skip
    rows = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 1
    config = GPTConfig(vocab_size=rows, **values)
    problems += tensor_names.contradictions(config)
    if problems:
        raise CheckpointError(f"{file.path} cannot be read as {arch}: {'; '.join(problems)}")
    return config


def is_interleaved(name: str) -> bool:
    """Whether rotary pairs are neighbours in this tensor of llama's, not of qwen3's."""
    return name.endswith((".attn_q.weight", ".attn_k.weight"))


def interleave(rows: Tensor, head_size: int, *, back: bool = False) -> Tensor:
    """The rows (H D, C) of each head so that i and i + D/2 become neighbours, or `back`."""
    pairs = (head_size // 2, 2) if back else (2, head_size // 2)
    return rows.unflatten(0, (-1, *pairs)).transpose(1, 2).flatten(0, 2)


def write(
    path: Path, model: GPT, tokenizer: Tokenizer, dtype: str, template: str = PASS_ON,
    end_of_turn: int | None = None,
) -> None:  # fmt: skip
    """Write a model and its tokenizer to a GGUF file, matrices in `dtype`, with a chat template and
    the token that ends an answer in it.

    Raises CheckpointError for what GGUF or llama.cpp cannot hold, OSError of the disk.
    """
    weights = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    config, weights = tensor_names.with_zero_biases(model.config, weights)
    metadata = {**write_config(config, dtype), CHAT_TEMPLATE: template}
    if tokenizer.end_of_text is None and tokenizer.vocab_size == config.vocab_size:
        metadata[ROWS] = config.vocab_size
        config, weights = end_of_text.add_row(config, weights)
    metadata |= gguf_vocab.to_metadata(tokenizer, config.vocab_size)
    if end_of_turn is not None:
        metadata["tokenizer.ggml.eot_token_id"] = end_of_turn
    tensors = {}
    for name, piece in tensor_names.split(config, weights, "gguf").items():
        if architecture(config) == "llama" and is_interleaved(name):
            piece = interleave(piece, config.head_size)
        tensors[name] = dtype_of(name, piece, dtype, config.n_layer), piece.numpy()
    gguf_file.write(path, metadata, tensors)


def write_config(config: GPTConfig, dtype: str) -> dict[str, Any]:
    """The keys of a file for the model's shape."""
    arch, head = architecture(config), config.head_size
    shape: Mapping[str, Any] = {
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.mlp_size,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.kv_heads,
    }
    if config.llama:
        shape |= {
            "attention.key_length": head,
            "attention.value_length": head,
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "rope.dimension_count": head,
            "rope.freq_base": config.rope_theta,
        }
    else:
        shape |= {"attention.layer_norm_epsilon": config.norm_eps}
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.file_type": FILE_TYPE[dtype],
        "general.quantization_version": 2,
        **{f"{arch}.{key}": value for key, value in shape.items()},
    }


def dtype_of(name: str, weights: Tensor, dtype: str, layers: int) -> str:
    """The dtype of one tensor: vectors and learned positions stay float32.

    The vocabulary's matrices lose most by few bits and keep eight, in K-quants six, as there some
    of the values and of the MLP's last matrices do. Rows that are not whole blocks of 256 keep
    eight bits, not of 32 sixteen. CheckpointError for weights that are not finite or do not fit
    float16.
    """
    if not weights.isfinite().all():
        raise CheckpointError(f"{name} has weights that are not finite")
    if weights.dim() < 2 or name == "position_embd.weight":
        return "F32"
    if dtype == "Q4_0" and name in ("token_embd.weight", "output.weight"):
        dtype = "Q8_0"
    if dtype == "Q4_K_M":
        dtype = "Q6_K" if keeps_six_bits(name, layers) else "Q4_K"
    if dtype.endswith("_K") and weights.size(-1) % QUANT_TYPES[dtype].block:
        dtype = "Q8_0"
    if weights.size(-1) % QUANT_TYPES[dtype].block:
        dtype = "F16"
    if dtype == "F16" and weights.abs().max() > torch.finfo(torch.float16).max:
        raise CheckpointError(f"{name} has weights beyond float16", "Export as BF16")
    return dtype


def keeps_six_bits(name: str, layers: int) -> bool:
    """Whether a matrix has six bits in Q4_K_M, as llama.cpp chooses them."""
    if name in ("token_embd.weight", "output.weight"):
        return True
    block = re.fullmatch(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.weight", name)
    if not block:
        return False
    i, eighth = int(block[1]), layers // 8
    return i < eighth or i >= 7 * layers // 8 or (i - eighth) % 3 == 2
