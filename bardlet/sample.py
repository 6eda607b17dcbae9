"""Text out of a model: prefill and decode with the KV cache, and the choice of each token.

All samples continue one prompt as one batch. Each has random numbers of its own, so a sample does
not depend on how many are drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bardlet import native
from bardlet.errors import UsageError
from bardlet.model import GPT, KVCache
from bardlet.native.decoding import Decoder

# Below it a temperature is 0: logits divided by it pass float32's end, while any two that differ
# are so far apart that the likeliest alone is left.
COLDEST = 1e-30


@torch.inference_mode()
def generate(
    model: GPT, prompt: Tensor, *, num_samples: int = 1, max_new_tokens: int = 500,
    temperature: float = 0.8, top_k: int = 200, seed: int = 1337, use_cache: bool = True,
    dtype: torch.dtype = torch.float32, first: int = 0,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the next token of every sample, (num_samples,) int64 on CPU, max_new_tokens times.

    prompt (P,) int64, at least one token. temperature 0 takes the likeliest token, and so does one
    below COLDEST; top_k 0 considers all. A text longer than the context goes on with its newest
    part: as often as the context is full, the oldest quarter is forgotten. Without the cache the
    context is computed anew for every token by the model as it is: the same text, slowly, in
    float32. `dtype` is what the compiled core keeps weights in, where it can run the model. `first`
    is the number of the first of these samples, where they are a part of more.
    """
    check(num_samples, max_new_tokens, temperature, top_k, seed)
    assert len(prompt), "an empty prompt"
    temperature = temperature if temperature >= COLDEST else 0.0
    model.eval()
    length, size = len(prompt), model.config.block_size
    uniform = uniform_numbers(num_samples, max_new_tokens, seed, first)  # (N, B)
    tokens = torch.empty(num_samples, length + max_new_tokens, dtype=torch.int64)  # (B, P + N)
    tokens[:, :length] = prompt
    compiled = use_cache and native.runs(model)
    writer = Decoder(model, num_samples, dtype) if compiled else TorchDecoder(model, use_cache)
    begin, total = 0, length  # where in tokens the context starts, and where the next one goes
    end = length + max_new_tokens
    while total < end:
        if total - begin > size:
            begin = total - max(1, size - size // 4)
            writer.forget()
        # as many at once as fit the context, few enough to be read as they come
        after = min(end, begin + size + 1, total + (16 if compiled else 1))
        writer.step(
            tokens[:, begin:after], total - begin, uniform[total - length : after - length],
            temperature, top_k,
        )  # fmt: skip
        yield from tokens[:, total:after].unbind(1)
        total = after


class TorchDecoder:
    """Token steps through the model as it is, on any device; native.decoding.Decoder's twin."""

    def __init__(self, model: GPT, use_cache: bool) -> None:
        self.model, self.use_cache = model, use_cache
        self.cache: KVCache | None = None

    def forget(self) -> None:
        """Empty the cache: the next step's context begins anew."""
        self.cache = None

    def step(
        self, tokens: Tensor, known: int, uniform: Tensor, temperature: float, top_k: int
    ) -> None:
        """Write the next token of each row: tokens (B, known + 1) int64, uniform (1, B)."""
        weight = self.model.lm_head.weight
        if self.use_cache and self.cache is None:
            self.cache = KVCache(self.model.config, len(tokens), weight.device, weight.dtype)
        past = self.cache.length if self.cache else 0
        idx = tokens[:, past:known].to(weight.device)  # (B, T)
        logits, _ = self.model(idx, cache=self.cache)  # (B, 1, V)
        uniform = uniform[0].to(weight.device)  # (B,)
        tokens[:, known] = choose(logits[:, -1].float(), uniform, temperature, top_k).cpu()


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
        problems.append(f"num_samples={num_samples} * max_new_tokens={max_new_tokens} > {10**8}")
    if not 0 <= seed < 2**32:
        problems.append(f"seed={seed} must be from 0 to {2**32 - 1}")
    if problems:
        raise UsageError("; ".join(problems))


def uniform_numbers(num_samples: int, count: int, seed: int, first: int = 0) -> Tensor:
    """Random numbers in [0, 1): (count, num_samples) float32, a column for each sample.

    Column i depends on seed and first + i alone.
    """
    columns = []
    for i in range(first, first + num_samples):
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
    cutoff = logits.topk(k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < cutoff, float("-inf"))


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw from softmax(logits) (B, V) by inverting its cumulative sum at uniform (B,): (B,)."""
    cumulative = logits.softmax(dim=-1).double().cumsum(dim=-1)  # (B, V), float64: it ends at 1
    # scaled by the real end, so that rounding never points past the last likely token
    threshold = uniform[:, None].double() * cumulative[:, -1:]  # (B, 1)
    chosen = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return chosen.clamp_max(logits.size(-1) - 1)  # NaN from diverged weights is after all others
