"""What each tensor of a model is called elsewhere: one table for each family, read both ways.

A row is a layer of ours and the layers that other programs make of it, from its first output row
to its last: where theirs are several, ours is the fused one. `split` takes a model's tensors apart
into theirs and `join` puts theirs together, so no second list of names can drift from the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bardlet.errors import CheckpointError
from bardlet.model import GPT, GPTConfig, rotary_table

Column = Literal["hf", "gguf"]


class Names(NamedTuple):
    """A layer's name in transformers' files and in GGUF; {} is the number of the block."""

    hf: str
    gguf: str


GPT2 = {
    "transformer.wte": (Names("transformer.wte", "token_embd"),),
    "transformer.wpe": (Names("transformer.wpe", "position_embd"),),
    "transformer.h.{}.ln_1": (Names("transformer.h.{}.ln_1", "blk.{}.attn_norm"),),
    "transformer.h.{}.attn.c_attn": (Names("transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv"),),
    "transformer.h.{}.attn.c_proj": (Names("transformer.h.{}.attn.c_proj", "blk.{}.attn_output"),),
    "transformer.h.{}.ln_2": (Names("transformer.h.{}.ln_2", "blk.{}.ffn_norm"),),
    "transformer.h.{}.mlp.c_fc": (Names("transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up"),),
    "transformer.h.{}.mlp.c_proj": (Names("transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),),
    "transformer.ln_f": (Names("transformer.ln_f", "output_norm"),),
    "lm_head": (Names("lm_head", "output"),),
}
LLAMA = {  # and qwen3, which has the norms of queries and keys
    "transformer.wte": (Names("model.embed_tokens", "token_embd"),),
    "transformer.h.{}.ln_1": (Names("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),),
    "transformer.h.{}.attn.c_attn": (
        Names("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
        Names("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
        Names("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    ),
    "transformer.h.{}.attn.c_proj": (
        Names("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    ),
    "transformer.h.{}.attn.q_norm": (
        Names("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    ),
    "transformer.h.{}.attn.k_norm": (
        Names("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    ),
    "transformer.h.{}.ln_2": (
        Names("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    ),
    "transformer.h.{}.mlp.c_fc": (
        Names("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
        Names("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    ),
    "transformer.h.{}.mlp.c_proj": (Names("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),),
    "transformer.ln_f": (Names("model.norm", "output_norm"),),
    "lm_head": (Names("lm_head", "output"),),
}
HEAD = "lm_head.weight"
EMBEDDING = "transformer.wte.weight"
LARGEST, MOST_LAYERS = 1 << 24, 1000  # beyond any model, and little enough to be counted with
# transformers keeps these matrices of GPT-2 turned, as the layers that OpenAI called Conv1D
TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def architecture(config: GPTConfig) -> Literal["gpt2", "llama", "qwen3"]:
    """The name that other programs have for this kind of model."""
    if not config.llama:
        return "gpt2"
    return "qwen3" if config.qk_norm else "llama"


def contradictions(config: GPTConfig) -> list[str]:
    """What no model can be of a configuration that comes from a file."""
    sizes = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
    derived = ("n_kv_head", "head_dim", "mlp_dim")
    problems = [
        f"{name}={getattr(config, name)!r} cannot be"
        for name in (*sizes, *derived)
        if type(getattr(config, name)) is not int
        or not (name in sizes) <= getattr(config, name) <= LARGEST
    ]
    if problems:
        return problems
    if config.n_layer > MOST_LAYERS:
        problems.append(f"n_layer={config.n_layer} is above {MOST_LAYERS}")
    if config.n_embd % config.n_head and not config.head_dim:
        problems.append(f"n_embd={config.n_embd} is not divisible by n_head={config.n_head}")
    if config.n_head % config.kv_heads:
        problems.append(f"n_head={config.n_head} is not divisible by n_kv_head={config.kv_heads}")
    if config.llama and config.head_size % 2:
        problems.append(f"rotary positions need an even head size, not {config.head_size}")
    return problems


def shapes(config: GPTConfig) -> dict[str, torch.Size]:
    """Our tensors and their shapes, tied ones once."""
    with torch.device("meta"):
        model = GPT(config)
    return {name: p.shape for name, p in model.named_parameters()}


def names(config: GPTConfig, ours: str, column: Column) -> list[str]:
    """What our tensor `ours` is elsewhere: its pieces, from its first row to its last."""
    layer, _, kind = ours.rpartition(".")
    words = layer.split(".")
    numbers = [word for word in words if word.isdecimal()]
    row = (LLAMA if config.llama else GPT2)[".".join("{}" if w.isdecimal() else w for w in words)]
    return [f"{getattr(piece, column).format(*numbers)}.{kind}" for piece in row]


def heights(config: GPTConfig, pieces: int, rows: int) -> list[int]:
    """How many of the `rows` of one of our tensors each of its pieces has."""
    if pieces == 3:  # queries, keys and values
        D = config.head_size
        return [config.n_head * D, config.kv_heads * D, config.kv_heads * D]
    return [rows // pieces] * pieces


def turned(config: GPTConfig, ours: str, column: Column) -> bool:
    """Whether the other program keeps this matrix transposed."""
    return column == "hf" and not config.llama and ours.endswith(TURNED)


def expected(config: GPTConfig, column: Column) -> Iterator[tuple[str, str, int, torch.Size]]:
    """Every tensor that a file of the other program has: its name there, the tensor of ours that
    it is a piece of, from which row on, and its shape there."""
    for ours, shape in shapes(config).items():
        theirs = names(config, ours, column)
        start = 0
        for name, height in zip(theirs, heights(config, len(theirs), shape[0]), strict=True):
            piece = torch.Size((height, *shape[1:]))
            yield name, ours, start, piece[::-1] if turned(config, ours, column) else piece
            start += height


def split(config: GPTConfig, weights: Mapping[str, Tensor], column: Column) -> dict[str, Tensor]:
    """The other program's tensors of a model of ours; tied ones once, as in ours."""
    theirs = {}
    for name, ours, start, shape in expected(config, column):
        flip = turned(config, ours, column)
        height = shape[-1] if flip else shape[0]
        piece = weights[ours].detach()[start : start + height]
        theirs[name] = (piece.T if flip else piece).contiguous()
    return theirs


def join(
    config: GPTConfig, theirs: Mapping[str, Tensor], column: Column, source: object
) -> dict[str, Tensor]:
    """Our float32 tensors of the other program's, every one of which must have its place.

    `source` is what they were read from. Raises CheckpointError as `fitting` does.
    """
    wanted = {name: shape for name, _, _, shape in expected(config, column)}
    embedding = names(config, EMBEDDING, column)[0]
    tied = (HEAD_OF[column], embedding) if config.tied else None
    found = fitting(wanted, theirs, tied=tied, source=source)
    weights: dict[str, list[Tensor]] = {}
    for name, ours, _, _ in expected(config, column):
        piece = found[name].T if turned(config, ours, column) else found[name]
        weights.setdefault(ours, []).append(piece.float())
    return {ours: torch.cat(pieces) for ours, pieces in weights.items()}


def fitting(
    wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor], *,
    tied: tuple[str, str] | None, source: object,
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of a file, which must be those that a model has, of floating point.

    The first name of `tied` may be there as well, as long as it equals the second. Raises
    CheckpointError naming the tensors that are missing, left over or of another shape.
    """
    have = dict(found)
    head = have.pop(tied[0], None) if tied else None
    if tied and head is not None and not same(head, have.get(tied[1])):
        raise CheckpointError(f"{source}: {tied[0]} differs from {tied[1]}, which it is tied to")
    wrong = {
        "missing": [name for name in wanted if name not in have],
        "unknown": [name for name in have if name not in wanted],
        "of another shape": [
            f"{name} {tuple(have[name].shape)}, not {tuple(shape)}"
            for name, shape in wanted.items()
            if name in have and have[name].shape != shape
        ],
        "not of floating point": [n for n, t in have.items() if not t.is_floating_point()],
    }
    problems = [f"{what}: {listed(tensors)}" for what, tensors in wrong.items() if tensors]
    if problems:
        raise CheckpointError(
            f"the tensors of {source} do not fit its config; {'; '.join(problems)}"
        )
    return have


HEAD_OF: dict[Column, str] = {"hf": "lm_head.weight", "gguf": "output.weight"}


def same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and torch.equal(a, b)


def listed(names: list[str], most: int = 4) -> str:
    """The first of many names, and how many there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def biased(config: GPTConfig, weights: Mapping[str, Tensor]) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The same function with zeros where gpt2's biases are left out, which others do not know."""
    if config.llama or config.bias:
        return config, dict(weights)
    config = dataclasses.replace(config, bias=True)
    return config, {
        name: weights[name] if name in weights else torch.zeros(shape)
        for name, shape in shapes(config).items()
    }


def build(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    """A model of ours of these weights, which it takes over, on the CPU; no weight is drawn."""
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict(weights, strict=False, assign=True)
    for p in model.parameters():
        p.requires_grad_()
    if config.tied:
        model.lm_head.weight = model.transformer["wte"].weight  # pyright: ignore
    if config.llama:
        model.rotary = rotary_table(config)
    assert not any(p.is_meta for p in model.parameters())
    return model
