"""What each tensor of a model is called elsewhere: one table for each family, read both ways.

A layer of ours with several rows is the fused one of theirs, in the order of its output. `split`
takes a model's tensors apart into theirs and `join` puts theirs together, by the same table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from bardlet.errors import CheckpointError
from bardlet.model import GPT, GPTConfig, rotary_table

Column = Literal["hf", "gguf"]
# a layer of ours, its name in transformers' files (gpt2: the same) and in GGUF; {} is the block
GPT2 = """
transformer.wte                 =  token_embd
transformer.wpe                 =  position_embd
transformer.h.{}.ln_1           =  blk.{}.attn_norm
transformer.h.{}.attn.c_attn    =  blk.{}.attn_qkv
transformer.h.{}.attn.c_proj    =  blk.{}.attn_output
transformer.h.{}.ln_2           =  blk.{}.ffn_norm
transformer.h.{}.mlp.c_fc       =  blk.{}.ffn_up
transformer.h.{}.mlp.c_proj     =  blk.{}.ffn_down
transformer.ln_f                =  output_norm
lm_head                         =  output
"""
# and of qwen3, which has the norms of queries and keys, and qwen2, which has biases of c_attn
LLAMA = """
transformer.wte               model.embed_tokens                        token_embd
transformer.h.{}.ln_1         model.layers.{}.input_layernorm           blk.{}.attn_norm
transformer.h.{}.attn.c_attn  model.layers.{}.self_attn.q_proj          blk.{}.attn_q
transformer.h.{}.attn.c_attn  model.layers.{}.self_attn.k_proj          blk.{}.attn_k
transformer.h.{}.attn.c_attn  model.layers.{}.self_attn.v_proj          blk.{}.attn_v
transformer.h.{}.attn.c_proj  model.layers.{}.self_attn.o_proj          blk.{}.attn_output
transformer.h.{}.attn.q_norm  model.layers.{}.self_attn.q_norm          blk.{}.attn_q_norm
transformer.h.{}.attn.k_norm  model.layers.{}.self_attn.k_norm          blk.{}.attn_k_norm
transformer.h.{}.ln_2         model.layers.{}.post_attention_layernorm  blk.{}.ffn_norm
transformer.h.{}.mlp.c_fc     model.layers.{}.mlp.gate_proj             blk.{}.ffn_gate
transformer.h.{}.mlp.c_fc     model.layers.{}.mlp.up_proj               blk.{}.ffn_up
transformer.h.{}.mlp.c_proj   model.layers.{}.mlp.down_proj             blk.{}.ffn_down
transformer.ln_f              model.norm                                output_norm
lm_head                       lm_head                                   output
"""
ROWS = {
    family: [line.split() for line in table.split("\n") if line]
    for family, table in (("gpt2", GPT2), ("llama", LLAMA))
}
HEAD = "lm_head.weight"
EMBEDDING = "transformer.wte.weight"
MAX_SIZE, MAX_LAYERS = 1 << 24, 1000  # beyond any model, and small enough to be counted with
# transformers stores these matrices of GPT-2 transposed, as the layers that OpenAI called Conv1D
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def architecture(config: GPTConfig) -> Literal["gpt2", "llama", "qwen2", "qwen3"]:
    """The name that other programs have for this kind of model."""
    if not config.llama:
        return "gpt2"
    if config.qkv_bias:
        return "qwen2"
    return "qwen3" if config.qk_norm else "llama"


def contradictions(config: GPTConfig) -> list[str]:
    """What is invalid in a configuration that comes from a file; empty for a valid one."""
    sizes = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
    derived = ("n_kv_head", "head_dim", "mlp_dim")
    problems = [
        f"invalid value {name}={getattr(config, name)!r}"
        for name in (*sizes, *derived)
        if type(getattr(config, name)) is not int
        or not (name in sizes) <= getattr(config, name) <= MAX_SIZE
    ]
    if problems:
        return problems
    if config.n_layer > MAX_LAYERS:
        problems.append(f"n_layer={config.n_layer} is above {MAX_LAYERS}")
    if config.n_embd % config.n_head and not config.head_dim:
        problems.append(f"n_embd={config.n_embd} is not divisible by n_head={config.n_head}")
    if config.n_head % config.kv_heads:
        problems.append(f"n_head={config.n_head} is not divisible by n_kv_head={config.kv_heads}")
    if config.qk_norm and config.qkv_bias:
        problems.append("norms and biases of queries and keys are not supported together")
    if config.llama and config.head_size % 2:
        problems.append(f"rotary positions need an even head size, not {config.head_size}")
    return problems


def shapes(config: GPTConfig) -> dict[str, torch.Size]:
    """Our tensors and their shapes, tied ones once."""
    with torch.device("meta"):
        model = GPT(config)
    return {name: p.shape for name, p in model.named_parameters()}


def names(config: GPTConfig, ours: str, column: Column) -> list[str]:
    """The names elsewhere of the parts of our tensor `ours`, from its first row to its last."""
    layer, _, kind = ours.rpartition(".")
    number = "".join(word for word in layer.split(".") if word.isdecimal())
    theirs = []
    for name, hf, gguf in ROWS[config.family]:
        if name.format(number) == layer:
            part = gguf if column == "gguf" else name if hf == "=" else hf
            theirs.append(f"{part.format(number)}.{kind}")
    return theirs


def row_splits(config: GPTConfig, parts: int, rows: int) -> list[int]:
    """How many of the `rows` of one of our tensors each of its parts has."""
    if parts == 3:  # queries, keys and values
        D = config.head_size
        return [config.n_head * D, config.kv_heads * D, config.kv_heads * D]
    return [rows // parts] * parts


def is_transposed(config: GPTConfig, ours: str, column: Column) -> bool:
    """Whether the other program keeps this matrix transposed."""
    return column == "hf" and not config.llama and ours.endswith(TRANSPOSED)


def expected(config: GPTConfig, column: Column) -> Iterator[tuple[str, str, int, torch.Size]]:
    """Every tensor that a file of the other program has: its name there, the tensor of ours that
    it is a part of, from which row on, and its shape there."""
    for ours, shape in shapes(config).items():
        theirs = names(config, ours, column)
        start = 0
        for name, rows in zip(theirs, row_splits(config, len(theirs), shape[0]), strict=True):
            part = torch.Size((rows, *shape[1:]))
            yield name, ours, start, part[::-1] if is_transposed(config, ours, column) else part
            start += rows


def split(config: GPTConfig, weights: Mapping[str, Tensor], column: Column) -> dict[str, Tensor]:
    """The other program's tensors of a model of ours; tied ones once, as in ours."""
    theirs = {}
    for name, ours, start, shape in expected(config, column):
        transposed = is_transposed(config, ours, column)
        rows = shape[-1] if transposed else shape[0]
        part = weights[ours].detach()[start : start + rows]
        theirs[name] = (part.T if transposed else part).contiguous()
    return theirs


def join(
    config: GPTConfig, theirs: Mapping[str, Tensor], column: Column, source: object
) -> dict[str, Tensor]:
    """Our float32 tensors, of the other program's, all of which must be used.

    `source` is what they were read from. Raises CheckpointError as `match_tensors` does.
    """
    wanted = {name: shape for name, _, _, shape in expected(config, column)}
    tied = (names(config, HEAD, column)[0], names(config, EMBEDDING, column)[0])
    theirs = match_tensors(wanted, theirs, tied=tied if config.tied else None, source=source)
    weights: dict[str, list[Tensor]] = {}
    for name, ours, _, _ in expected(config, column):
        part = theirs[name].T if is_transposed(config, ours, column) else theirs[name]
        weights.setdefault(ours, []).append(part.float())
    return {ours: torch.cat(parts) for ours, parts in weights.items()}


def match_tensors(
    wanted: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], *,
    tied: tuple[str, str] | None, source: object,
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of a file, which must be those that a model has, of floating point.

    The first name of `tied` may be there as well if it equals the second. Raises CheckpointError
    naming the tensors that are missing, unexpected or of another shape.
    """
    tensors = dict(tensors)
    head = tensors.pop(tied[0], None) if tied else None
    if tied and head is not None:
        other = tensors.get(tied[1])
        if other is None or head.shape != other.shape or not torch.equal(head, other):
            raise CheckpointError(
                f"{source}: {tied[0]} differs from {tied[1]}, which it is tied to"
            )
    wrong = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)}, not {tuple(shape)}"
            for name, shape in wanted.items()
            if name in tensors and tensors[name].shape != shape
        ],
        "not of floating point": [n for n, t in tensors.items() if not t.is_floating_point()],
    }
    problems = [f"{what}: {listed(names)}" for what, names in wrong.items() if names]
    if problems:
        raise CheckpointError(
            f"the tensors of {source} do not fit its config; {'; '.join(problems)}"
        )
    return tensors


def listed(names: list[str], max_names: int = 4) -> str:
    """The first of many names, and how many more there are."""
    rest = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + rest


def with_zero_biases(
    config: GPTConfig, weights: Mapping[str, Tensor]
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The same function with zeros for gpt2's biases where it has none, as others require them."""
    if config.llama or config.bias:
        return config, dict(weights)
    config = dataclasses.replace(config, bias=True)
    return config, {
        name: weights[name] if name in weights else torch.zeros(shape)
        for name, shape in shapes(config).items()
    }


def build(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    """A model of ours with these weights, not copies of them; none is initialised."""
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
