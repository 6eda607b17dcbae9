"""The GPT: two families of decoder-only transformer in one file, and the KV cache they decode with.

gpt2   LayerNorm, learned positions, GELU, optional biases, tied head: the maths of OpenAI's GPT-2
       (Radford et al. 2019) and of nanoGPT, so their weights and recipes carry over.
llama  RMSNorm (arXiv:1910.07467), rotary positions (arXiv:2104.09864), SwiGLU (arXiv:2002.05202),
       optional grouped-query attention (arXiv:2305.13245) and query-key norm (arXiv:2010.04245):
       Llama's, with `qk_norm` Qwen3's and with `qkv_bias` Qwen2's, whose runtimes can run it.

The module knows torch and nothing else of the package: token ids go in, logits come out.

Shapes: B batch, T time (positions), S time with the cached past, C n_embd, H heads, K key-value
heads, D head size, F width of the MLP, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

Mask = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor] | None  # as in `attend`


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a model. Sizes left at 0 are derived; options of the other family are ignored.

    `n_kv_head` 0 is n_head; `head_dim` 0 is n_embd / n_head; `mlp_dim` 0 is 4 n_embd for gpt2, and
    8/3 n_embd rounded up to a multiple of 32 for llama, whose MLP has three matrices to gpt2's two.
    """

    family: Literal["gpt2", "llama"] = "gpt2"
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = False
    n_kv_head: int = 0
    head_dim: int = 0
    mlp_dim: int = 0
    qk_norm: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    norm_eps: float = 1e-5
    gelu_approximate: Literal["none", "tanh"] = "none"  # tanh: OpenAI's GPT-2
    lora_rank: int = 0  # of the matrices that lora.py trains beside the weights; 0: none

    @property
    def llama(self) -> bool:
        return self.family == "llama"

    @property
    def tied(self) -> bool:
        """Whether the output head is the token embedding's own matrix."""
        return self.tie_embeddings or not self.llama

    @property
    def head_size(self) -> int:
        """D, the width of one attention head."""
        return (self.head_dim if self.llama else 0) or self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """K, the number of heads that have keys and values of their own."""
        return (self.n_kv_head if self.llama else 0) or self.n_head

    @property
    def mlp_size(self) -> int:
        """F, the width inside the MLP."""
        gated = 32 * math.ceil(self.n_embd * 8 / 3 / 32)
        return self.mlp_dim or (gated if self.llama else 4 * self.n_embd)


class KVCache:
    """Keys and values of the positions already seen, preallocated for a whole context."""

    def __init__(
        self, config: GPTConfig, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layer, batch_size, config.kv_heads, config.block_size, config.head_size)
        self.k, self.v = (torch.zeros(shape, device=device, dtype=dtype) for _ in "kv")
        self.length = 0  # positions filled so far; GPT.forward moves it on

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, T, D) keys and values of one layer; return all so far, (B, K, S, D)."""
        end = self.length + k.size(2)
        self.k[layer, :, :, self.length : end] = k
        self.v[layer, :, :, self.length : end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


def norm(config: GPTConfig) -> nn.Module:
    """The norm of the config's family over n_embd."""
    if config.llama:
        return RMSNorm(config.n_embd, config.norm_eps)
    return nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.bias)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in float32 as Llama does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).type_as(x)


def rotary_table(config: GPTConfig) -> Tensor:
    """Cosines and signed sines of every position's angles: (2, block_size, D), float32."""
    D = config.head_size
    frequency = config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)
    angle = torch.outer(torch.arange(config.block_size, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()  # (block_size, D / 2) each
    return torch.stack((torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + D/2]) of (B, T, H, D) by their position's angles (2, T, D).

    Pairing halves, not neighbours, is what transformers' Llama does: its weights fit as they are.
    """
    cos, sin = rotary.unsqueeze(2)  # (T, 1, D) each, float32
    return (x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin).type_as(x)  # rounded once


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Mask) -> Tensor:
    """Causal attention of T queries (B, H, T, D) over S >= T keys (B, K, S, D).

    A query sees the S - T positions of the past and, among the T newest, itself and those before
    it, or what `mask` (B, 1, T, S) says. A function in its place attends itself, to q, k and v.
    """
    if callable(mask):
        return mask(q, k, v)
    T, S = q.size(2), k.size(2)
    plain = mask is None and q.device.type == "cpu" and q.dtype == torch.bfloat16
    if plain and 1 < S <= 128 and k.shape == q.shape:  # SDPA takes 1.5 to 2.4 times as long here
        with torch.autocast("cpu", enabled=False):  # scores stay float32, as in SDPA
            future = torch.full((T, T), -math.inf, device=q.device).triu(1)
            scores = (q.float() * q.size(3) ** -0.5) @ k.float().mT + future  # (B, H, T, T)
        return F.dropout(scores.softmax(-1).type_as(v), dropout) @ v  # (B, H, T, D)
    if S > T > 1:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=T > 1 and mask is None,
        enable_gqa=k.size(1) != q.size(1),
    )  # fmt: skip


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        C, D = config.n_embd, config.head_size
        self.sizes = [config.n_head * D, config.kv_heads * D, config.kv_heads * D]  # of q, k, v
        bias = config.bias and not config.llama
        qkv_bias = config.qkv_bias if config.llama else bias
        self.c_attn = nn.Linear(C, sum(self.sizes), bias=qkv_bias)  # of all heads in one product
        self.c_proj = nn.Linear(config.n_head * D, C, bias=bias)
        if config.llama and config.qk_norm:
            self.q_norm = RMSNorm(D, config.norm_eps)
            self.k_norm = RMSNorm(D, config.norm_eps)

    def forward(self, x: Tensor, rope: Tensor | None, cache: KVCache | None, mask: Mask) -> Tensor:
        config = self.config
        parts = self.c_attn(x).split(self.sizes, dim=2)
        q, k, v = (part.unflatten(2, (-1, config.head_size)) for part in parts)  # (B, T, H|K, D)
        if config.llama and config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, T, D), (B, K, T, D) twice
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, D)
        # Attention dropout is part of gpt2's recipe; llama drops out on the residual stream only.
        p = config.dropout if self.training and not config.llama else 0.0
        y = attend(q, k, v, p, mask).transpose(1, 2).flatten(2)  # (B, T, H * D)
        return F.dropout(self.c_proj(y), config.dropout, self.training)  # (B, T, C)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        bias = config.bias and not config.llama
        # llama: the gate's rows, then the rows that it gates
        self.c_fc = nn.Linear(config.n_embd, (1 + config.llama) * config.mlp_size, bias=bias)
        self.c_proj = nn.Linear(config.mlp_size, config.n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)  # (B, T, F), or (B, T, 2F) for llama
        if self.config.llama:
            gate, up = x.chunk(2, dim=-1)  # (B, T, F) each
            x = F.silu(gate) * up
        else:
            x = F.gelu(x, approximate=self.config.gelu_approximate)
        return F.dropout(self.c_proj(x), self.config.dropout, self.training)  # (B, T, C)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: Tensor | None, cache: KVCache | None, mask: Mask) -> Tensor:
        x = x + self.attn(self.ln_1(x), rope, cache, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A decoder-only transformer language model of either family, initialised for training."""

    rotary: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        wte = nn.Embedding(config.vocab_size, config.n_embd)
        parts: dict[str, nn.Module] = {"wte": wte}
        if config.llama:
            self.register_buffer("rotary", rotary_table(config), persistent=False)
        else:
            parts["wpe"] = nn.Embedding(config.block_size, config.n_embd)
        parts["h"] = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        parts["ln_f"] = norm(config)
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = wte.weight
        self.init_weights()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GPT:
        """Move or cast everything but the table of angles, which stays float32."""
        super()._apply(fn, recurse)
        if self.config.llama:
            self.rotary = rotary_table(self.config).to(self.rotary.device)
        return self

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise every matrix from the global generator.

        gpt2: normal, 0.02, and residual projections smaller by sqrt(2 n_layer), as GPT-2.
        llama: normal, 1 / sqrt(fan in), an untied embedding 1; projections into the residual
        stream and an untied head zero: blocks begin as the identity, the loss as ln V.
        """
        config = self.config
        for name, p in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(p)
            elif p.dim() < 2:
                continue  # the norms' weights start at one
            elif not config.llama:
                residual = name.endswith("c_proj.weight")
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)
            elif name.endswith("c_proj.weight") or name == "lm_head.weight":
                nn.init.zeros_(p)
            elif name == "transformer.wte.weight":
                nn.init.normal_(p, std=0.02 if config.tied else 1.0)
            else:
                nn.init.normal_(p, std=p.size(1) ** -0.5)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: KVCache | None = None,
        first: Mask = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Logits for token ids, and their mean cross-entropy where targets are given.

        idx (B, T) int64 ids below vocab_size; targets (B, T) int64 ids, -1 where a position does
        not count. With targets: logits (B, T, V) and the loss, a float32 scalar in nats per
        token, 0 where none counts. Without: logits (B, 1, V) of the last position only, and None.
        With a cache, idx continues what it holds; past and T together must fit block_size.
        Without one, first (B, T) int64 may name the earliest position that each attends to.
        """
        x = self.hidden(idx, cache, first)
        if targets is None:
            wide = torch.promote_types(x.dtype, torch.float32)  # logits of 8 bits would tie
            return F.linear(x[:, -1:].to(wide), self.lm_head.weight.to(wide)), None  # (B, 1, V)
        logits = self.lm_head(x)  # (B, T, V)
        rows, wanted = logits.float().flatten(0, 1), targets.flatten()  # (B * T, V), (B * T,)
        losses = F.cross_entropy(rows, wanted, ignore_index=-1, reduction="sum")
        return logits, losses / (targets >= 0).sum().clamp(min=1)

    def hidden(self, idx: Tensor, cache: KVCache | None = None, first: Mask = None) -> Tensor:
        """The states (B, T, C) that the head makes logits of; the arguments are `forward`'s."""
        assert idx.size(1) <= self.config.block_size, "longer than the context"
        past = cache.length if cache is not None else 0
        at = torch.arange(idx.size(1), device=idx.device) + past  # (T,)
        x = self.transformer["wte"](idx)  # (B, T, C)
        rope = self.rotary[:, at] if self.config.llama else None  # (2, T, D)
        if rope is None:
            x = x + self.transformer["wpe"](at)
        if isinstance(first, Tensor):
            first = ((at >= first.unsqueeze(2)) & (at <= at.unsqueeze(1))).unsqueeze(1)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.transformer["h"]:  # pyright: ignore[reportGeneralTypeIssues]
            x = block(x, rope, cache, first)
        if cache is not None:
            cache.length += idx.size(1)
        return self.transformer["ln_f"](x)

    def num_params(self) -> int:
        """Parameters without the learned positions, as nanoGPT counts them; tied ones once."""
        return sum(p.numel() for n, p in self.named_parameters() if n != "transformer.wpe.weight")

    def flops_per_token(self) -> int:
        """FLOPs of forward and backward for one token at full context.

        6 N + 12 L H D T (PaLM, arXiv:2204.02311, appendix B), N without what is only looked up.
        """
        config = self.config
        looked_up = 0 if config.tied else config.vocab_size * config.n_embd
        attention = config.n_layer * config.n_head * config.head_size * config.block_size
        return 6 * (self.num_params() - looked_up) + 12 * attention
