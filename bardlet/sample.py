"""Text out of a model: prefill and decode with the KV cache, and the choice of each token.

All samples continue one prompt as one batch. Each has random numbers of its own, so a sample does
not depend on how many are drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bardlet.errors import UsageError
from bardlet.model import GPT, KVCache


@torch.inference_mode()
def generate(
    model: GPT, prompt: Tensor, *, num_samples: int = 1, max_new_tokens: int = 500,
    temperature: float = 0.8, top_k: int = 200, seed: int = 1337, use_cache: bool = True,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the next token of every sample, (num_samples,) int64, max_new_tokens times.

    prompt (P,) int64, at least one token, on the model's device. temperature 0 takes the likeliest
    token; top_k 0 considers all. A text longer than the context goes on with its newest part: as
    often as the context is full, the oldest quarter is forgotten. Without the cache the context
    is computed anew for every token, which gives the same text slowly.
    """
    check(num_samples, max_new_tokens, temperature, top_k, seed)
    assert len(prompt), "an empty prompt"
    model.eval()
    config, device = model.config, prompt.device
    dtype = model.lm_head.weight.dtype
    uniform = uniform_numbers(num_samples, max_new_tokens, seed).to(device)  # (N, B)
    tokens = prompt.repeat(num_samples, 1)  # (B, P) and growing
    begin = 0  # where in tokens the context starts
    cache = None
    for step in range(max_new_tokens):
        total = tokens.size(1)
        if total - begin > config.block_size:
            begin = total - max(1, config.block_size - config.block_size // 4)
            cache = None
        if not use_cache:
            logits, _ = model(tokens[:, begin:])  # (B, 1, V)
        elif cache is None:
            cache = KVCache(config, num_samples, device, dtype)
            logits, _ = model(tokens[:, begin:], cache=cache)  # (B, 1, V)
        else:
            logits, _ = model(tokens[:, -1:], cache=cache)  # (B, 1, V)
        chosen = choose(logits[:, -1].float(), uniform[step], temperature, top_k)  # (B,)
        tokens = torch.cat((tokens, chosen[:, None]), dim=1)  # (B, total + 1)
        yield chosen


def check(num_samples: int, max_new_tokens: int, temperature: float, top_k: int, seed: int) -> None:
    """Raise UsageError for what cannot be sampled with."""
    problems = []
    if num_samples < 1:
        problems.append(f"num_samples={num_samples} must be at least 1")
    if max_new_tokens < 0:
        problems.append(f"max_new_tokens={max_new_tokens} must be at least 0")
    if not 0 <= temperature < float("inf"):
        problems.append(f"temperature={temperature} must be at least 0 (0 is greedy)")
    if top_k < 0:
        problems.append(f"top_k={top_k} must be at least 0 (0 is all tokens)")
    if num_samples * max_new_tokens > 10**8:
        problems.append(f"num_samples={num_samples} of max_new_tokens={max_new_tokens} is too much")
    if not 0 <= seed < 2**32:
        problems.append(f"seed={seed} must be from 0 to {2**32 - 1}")
    if problems:
        raise UsageError("; ".join(problems))


def uniform_numbers(num_samples: int, count: int, seed: int) -> Tensor:
    """Random numbers in [0, 1): (count, num_samples) float32, a column for each sample.

    Column i depends on seed and i alone.
    """
    columns = []
    for i in range(num_samples):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        columns.append(torch.rand(count, generator=generator))
    return torch.stack(columns, dim=1)


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_k: int) -> Tensor:
    """One token of each row: logits (B, V) float32, uniform (B,) in [0, 1) -> (B,) int64."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    return pick(keep_top_k(logits / temperature, top_k), uniform)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (B, V) with all but the k largest of each row at -inf, ties with the k-th kept."""
    if not 0 < k < logits.size(-1):
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < least, float("-inf"))


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from softmax(logits) (B, V) by inverting its cumulative sum at uniform (B,): (B,)."""
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)  # (B, V), float64: it ends at 1
    # scaled by the real end, so that rounding never points past the last likely token
    threshold = uniform[:, None].double() * cumulative[:, -1:]  # (B, 1)
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
