"""A GPT as a GPU computes its loss: in chunks where logits are many, in blocks where masks are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bardlet.gpu import attention, loss
from bardlet.gpu.attention import Kernel
from bardlet.model import GPT, Mask


class GPUModel(nn.Module):
    """A GPT that is called as one with targets; the logits are None where they were in chunks."""

    def __init__(self, model: GPT, *, chunked: bool, blocks: Kernel | None) -> None:
        """`chunked`: the loss in chunks. `blocks`: document masks by FlexAttention, which only a
        compiler makes fast.
        """
        super().__init__()
        self.model, self.chunked, self.blocks = model, chunked, blocks

    def forward(
        self, idx: Tensor, targets: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """(Logits (B, T, V) or None, the loss), of what GPT.forward takes."""
        mask: Mask = first
        if self.blocks and first is not None:
            mask = attention.within_documents(first, self.blocks)
        if not self.chunked:
            logits, mean = self.model(idx, targets, first=mask)
            return logits, mean
        x = self.model.hidden(idx, first=mask)  # (B, T, C)
        return None, loss.chunked_loss(x, self.model.lm_head.weight, targets)


def on_gpu(
    model: GPT, device: torch.device, sequences: int, *, logits: bool = False,
    blocks: Kernel | None = None,
) -> nn.Module:  # fmt: skip
    """The model as a GPU computes the loss of so many sequences; elsewhere the model itself.

    `logits` are wanted beside the loss. `blocks` is the kernel of FlexAttention that is asked for.
    """
    # sharded weights (FSDP2) are whole within the model's own forward only
    if device.type != "cuda" or hasattr(model, "unshard"):
        return model
    config = model.config
    chunked = not logits and loss.pays(sequences * config.block_size, config.vocab_size)
    # attention dropout, which gpt2 has, FlexAttention does not
    blocks = blocks if config.llama or not config.dropout else None
    return GPUModel(model, chunked=chunked, blocks=blocks) if chunked or blocks else model
