"""The cross-entropy of a large vocabulary, some rows at a time: its logits are never all there.

The logits of 12 x 1024 tokens over GPT-2's vocabulary take 1.2 GB in bfloat16, twice that in
float32, and as much again for their gradient. Here the logits of some rows are made, turned into
their loss and into the gradients of states and head, and given up, all on the way forward: the same
three products as the plain way, and nothing is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 28  # of the logits in float32 that are there together
MAX_ROWS = 4096  # of them: the head's gradient of more could overflow in float16
MULTIPLE = 128  # of rows, for the products


def pays(rows: int, vocab_size: int) -> bool:
    """Whether all the logits take more memory than chunks of them."""
    return rows * vocab_size * 4 > 2 * CHUNK_BYTES


def chunk_rows(vocab_size: int) -> int:
    """The rows whose logits are there together."""
    rows = CHUNK_BYTES // (4 * vocab_size)
    return max(1, min(MAX_ROWS, rows // MULTIPLE * MULTIPLE or rows))


def chunked_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the logits x @ weight.T, a float32 scalar, 0 where none counts.

    x (B, T, C); weight (V, C), a head without bias; targets (B, T) int64, -1 where a position does
    not count. Products are made in autocast's dtype.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    trains = torch.is_grad_enabled()
    total: Any = ChunkedLoss.apply(x.flatten(0, 1), weight, targets.flatten(), dtype, trains)
    return total / (targets >= 0).sum().clamp(min=1)


class ChunkedLoss(torch.autograd.Function):
    """The sum of the losses of rows, with its gradients made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, trains: bool
    ) -> Tensor:
        """x (N, C), weight (V, C), targets (N,) int64; a float32 scalar."""
        total = torch.zeros((), device=x.device)
        # the gradients of x and weight
        saved = [torch.empty_like(x), torch.zeros_like(weight)] if trains else []
        with torch.autocast(x.device.type, enabled=False):
            head, size = weight.to(dtype), chunk_rows(len(weight))
            for first in range(0, len(x), size):
                rows, wanted = x[first : first + size].to(dtype), targets[first : first + size]
                counts = wanted >= 0  # (n,)
                index = wanted.clamp(min=0).unsqueeze(1)  # (n, 1)
                logits = (rows @ head.T).float()  # (n, V)
                log_sum = logits.logsumexp(1, keepdim=True)  # (n, 1)
                losses = (log_sum - logits.gather(1, index)).squeeze(1)  # (n,)
                total = total + (losses * counts).sum()
                if trains:
                    # the loss's slope, before what the sum is divided by: softmax less one at the
                    # target, in [-1, 1], which does not underflow in float16
                    slope = logits.sub_(log_sum).exp_()  # (n, V)
                    slope.scatter_(1, index, slope.gather(1, index) - 1)
                    slope = slope.mul_(counts.unsqueeze(1)).to(dtype)
                    saved[0][first : first + size] = slope @ head
                    saved[1].add_(slope.T @ rows)
        ctx.save_for_backward(*saved)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw = ctx.saved_tensors
        return dx * grads[0], dw * grads[0], None, None, None
