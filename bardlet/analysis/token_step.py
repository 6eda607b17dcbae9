"""One token step through a model, with the numbers at every station: what `explain` shows.

The model computes as ever; hooks on its modules write down what passes, so that there is no second
copy of the maths to keep equal.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bardlet.analysis import attention
from bardlet.model import GPT


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one block does to the newest position's vector; all (C,) float32 but for the heads."""

    before: Tensor  # the residual stream as it comes in
    normed: Tensor  # what attention reads
    heads: Tensor  # (H, T): how much each head takes from each position
    attention: Tensor  # what attention adds
    mlp: Tensor  # what the MLP adds
    after: Tensor
    lens: Tensor  # (V,): the logits if no block came after


@dataclass(frozen=True, kw_only=True)
class TokenStep:
    """The way of some ids through a model to the logits of the next one."""

    ids: list[int]
    tokens: Tensor  # (T, C): their rows of wte
    positions: Tensor | None  # (T, C): rows of wpe, gpt2's alone
    layers: list[Layer]
    final: Tensor  # (C,): the last norm's result
    logits: Tensor  # (V,)


def follow(model: GPT, ids: list[int]) -> TokenStep:
    """Follow ids (T,), from one to a context of them, through a model in float32 on the CPU."""
    blocks: Any = model.transformer["h"]
    watched = {name: model.transformer[name] for name in ("wte", "wpe", "ln_f")
               if name in model.transformer}  # fmt: skip
    for i, block in enumerate(blocks):
        watched |= {f"{i}.{name}": getattr(block, name) for name in ("ln_1", "attn", "mlp")}
    passed: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        def record(module: Any, inputs: Any, output: Tensor) -> None:
            # (B, T, C); positions have no batch
            passed[name] = (output[0] if output.dim() == 3 else output).float()

        return record

    with ExitStack() as hooks:
        for name, module in watched.items():
            hooks.callback(module.register_forward_hook(recorder(name)).remove)
        traced = attention.trace(model, ids)
    stream = traced.residual[:, -1]  # (L + 1, C)
    lens = attention.lens(model, stream)  # (L + 1, V)
    layers = [
        Layer(
            before=stream[i], normed=passed[f"{i}.ln_1"][-1], heads=traced.attention[i, :, -1],
            attention=passed[f"{i}.attn"][-1], mlp=passed[f"{i}.mlp"][-1], after=stream[i + 1],
            lens=lens[i + 1],
        )
        for i in range(len(blocks))
    ]  # fmt: skip
    return TokenStep(
        ids=ids, tokens=passed["wte"], positions=passed.get("wpe"), layers=layers,
        final=passed["ln_f"][-1], logits=traced.logits[-1],
    )  # fmt: skip
