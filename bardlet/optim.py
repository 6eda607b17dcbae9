"""What moves the weights: parameter groups, AdamW and Muon.

AdamW (arXiv:1711.05101) takes everything with nanoGPT's groups, or, with `optimizer = "muon"`,
only the embeddings, the head and the norms, while Muon takes the blocks' matrices.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bardlet.config import TrainConfig
from bardlet.model import GPT
from bardlet.native import adamw, muon
from bardlet.system import sharding, sharing
from bardlet.system.distributed import Group
from bardlet.system.fastest import Fastest
from bardlet.system.offload import Offload, offloads, put_updates
from bardlet.system.optimizer import Optimizer, plain
from bardlet.system.sharing import EVERYWHERE

# Four iterations that bring singular values from [0.003, 1] to within 0.2 of one: the best odd
# quintics one after another (Polar Express, arXiv:2505.16932). Muon's own five train as well.
QUINTICS = (
    (8.38367, -24.76591, 18.35708),
    (4.04342, -3.01140, 0.56951),
    (3.50557, -2.62665, 0.52573),
    (2.49012, -1.83428, 0.43684),
)
# Just above 1 they explode (1.0005 becomes 240, 1.001 becomes 11,000), and there bfloat16 gets by
# rounding: a matrix of rank one has a singular value as large as the norm it is divided by, and
# small values gather errors on the way. So each iteration sees its matrix divided by a margin of
# five roundings, as the paper has it too. Divided by a tighter norm than Frobenius's, clustered
# values in bfloat16 came out at up to 4.1.
MARGIN = 1.02
POLAR = tuple((a / MARGIN, b / MARGIN**3, c / MARGIN**5) for a, b, c in QUINTICS)
Rate = float | Tensor  # of a step; a tensor where steps are recorded once, and rates change
MIN_NORM = 1e-15  # squares of entries below 1e-19 are zero in float32: such a matrix is shrunk


class AdamW(Optimizer, torch.optim.AdamW):
    move = torch.no_grad()(plain(torch.optim.AdamW.step))
    scale = 1.0  # of the gradients in the next step, if the core takes it

    @functools.cached_property
    def by_core(self) -> list[adamw.Table]:
        """The core's tables, where it takes the steps: those of each group."""
        core = adamw.steps(self) and not self.offload
        return [adamw.Table() for _ in self.param_groups] if core else []

    def step(self, closure: None = None) -> None:  # pyright: ignore
        if self.offload:
            self.offload.step(self.move)
        elif self.by_core:
            adamw.step(self, self.by_core)
        else:
            self.move()


def build_optimizers(
    model: GPT, config: TrainConfig, device_type: str, matmul_dtype: torch.dtype,
    group: Group = Group(),  # noqa: B008
) -> list[torch.optim.Optimizer]:  # fmt: skip
    """The optimizers of a model, each parameter in exactly one group.

    AdamW decays what has two dimensions or more and leaves biases and norms alone, as nanoGPT.
    With Muon, `weight_decay` belongs to the blocks' matrices and AdamW's part is not decayed.
    `matmul_dtype` is what Muon multiplies in: bfloat16 where that is fast.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices: list[tuple[Tensor, list[int]]] = []
    if config.optimizer == "muon":
        matrices = [
            (p, matrix_rows(model, n, p))
            for n, p in named
            if p.dim() == 2 and n.startswith("transformer.h.")
        ]
    taken = {id(p) for p, _ in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2],
         "weight_decay": 0.0 if matrices else config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]  # fmt: skip
    adamw = AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=device_type in ("cpu", "cuda"),
    )
    for part in adamw.param_groups:
        part["peak_lr"] = config.learning_rate
    rates = (config.muon_lr, config.muon_momentum, config.weight_decay)
    muons = [Muon(matrices, *rates, matmul_dtype, group)] if matrices else []
    for optimizer in (adamw, *muons) if offloads(device_type, config.offload) else ():
        optimizer.offload = Offload(optimizer)
    return [adamw, *muons]


def matrix_rows(model: GPT, name: str, p: Tensor) -> list[int]:
    """How many rows each matrix has that is stored in one parameter.

    Queries, keys and values, and the gate beside what it gates, lie stacked in one parameter to
    be multiplied at once; to orthogonalise an update they are matrices of their own.
    """
    if name.endswith("attn.c_attn.weight"):
        D = model.config.head_size
        return [model.config.n_head * D, model.config.kv_heads * D, model.config.kv_heads * D]
    if name.endswith("mlp.c_fc.weight") and model.config.llama:
        return [model.config.mlp_size, model.config.mlp_size]
    return [p.size(0)]


class Muon(Optimizer):
    """Momentum whose update is replaced by the nearest semi-orthogonal matrix.

    Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": Nesterov
    momentum, Newton-Schulz iterations, a step scaled by sqrt(rows / columns) where a matrix
    is taller than wide, decoupled weight decay. Matrices of one shape are orthogonalised in one
    batch: at the sizes of small models the call, not the arithmetic, is what costs.

    Processes share the matrices out: one steps each, the others get its weights. Momenta move
    everywhere, so that each process could save the run, or where their rows are, if sharded.

    `matrices` are 2-D parameters, each with the row counts of the matrices stacked in it.
    """

    def __init__(
        self, matrices: Sequence[tuple[Tensor, list[int]]], lr: float, momentum: float,
        weight_decay: float, matmul_dtype: torch.dtype, group: Group = Group(),  # noqa: B008
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "peak_lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([p for p, _ in matrices], defaults)
        self.rows = dict(matrices)
        self.matmul_dtype = matmul_dtype
        self.group, self.fastest = group, Fastest(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore
        """Move every matrix by its orthogonalised momentum; `closure` is not supported."""
        assert closure is None
        if self.offload:
            self.offload.step(functools.partial(put_updates, self.momenta, self))
        self.fastest.run(self.orthogonal_step, [*self.rows])

    def orthogonal_step(self, way: str) -> None:
        """Take the step, with matrices shared out in this way."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            # gradients that have become updates stay what they are by moving towards themselves
            buffers = grads if self.offload else self.momenta(params)
            sharded = sharding.is_sharded(params[0])
            move = functools.partial(sharing.move_rows, self.move) if sharded else self.move
            move(
                params, grads, buffers, [self.rows[p] for p in params], way, rate=group["lr"],
                momentum=group["momentum"], decay=1 - group["lr"] * group["weight_decay"],
            )  # fmt: skip

    def momenta(self, params: list[Tensor]) -> list[Tensor]:
        """The momentum of each parameter, zeros at first."""
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        return [self.state[p]["momentum"] for p in params]

    def move(
        self, weights: list[Tensor], grads: list[Tensor], buffers: list[Tensor],
        rows: list[list[int]], way: str, *, rate: Rate, momentum: float, decay: Rate,
    ) -> None:  # fmt: skip
        """Take the step of whole parameters, in place, and of their momentum, `buffers`.

        `rows` has the row counts of the matrices stacked in each, which are shared out in `way`.
        """
        group = Group() if way == EVERYWHERE else self.group
        shapes = [(m, w.size(1)) for w, each in zip(weights, rows, strict=True) for m in each]
        ranks = sharing.owners(tuple(float(m * n * min(m, n)) for m, n in shapes), group.world_size)
        mine = [rank == group.rank for rank in ranks]
        if muon.fits(weights, rows, self.matmul_dtype):
            muon.step(
                weights, grads, buffers, rows, mine, rate=float(rate), momentum=momentum,
                decay=float(decay), coefficients=POLAR, min_norm=MIN_NORM, dtype=self.matmul_dtype,
            )  # fmt: skip
        else:
            torch._foreach_lerp_(buffers, grads, 1 - momentum)
            trios = zip(*(unstacked(each, rows) for each in (weights, grads, buffers)), strict=True)
            if owned := [trio for trio, own in zip(trios, mine, strict=True) if own]:
                self.move_by_torch(owned, rate=rate, momentum=momentum, decay=decay)
        if group.world_size > 1:
            sharing.gather(unstacked(weights, rows), ranks, group, way)

    def move_by_torch(
        self, matrices: Sequence[tuple[Tensor, ...]], *, rate: Rate, momentum: float, decay: Rate
    ) -> None:
        """Move weights, with their gradients and momenta, which have moved already.

        Those of one shape are a batch: wide ones as they are, tall ones turned and moved further.
        """
        weights, grads, buffers = (list(tensors) for tensors in zip(*matrices, strict=True))
        updates = torch._foreach_lerp(grads, buffers, momentum)
        torch._foreach_mul_(weights, decay)
        batches: dict[tuple[int, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for i, (rows, columns) in enumerate(weight.shape for weight in weights):
            batches[min(rows, columns), max(rows, columns)][rows > columns].append(i)
        for (m, n), (wide, tall) in batches.items():
            parts = [updates[i] for i in wide] + [updates[i].T for i in tall]
            stacked = torch.stack(parts)  # (N, m, n)
            orthogonal = newton_schulz(stacked, self.matmul_dtype).to(stacked.dtype)
            steps = orthogonal[: len(wide)], orthogonal[len(wide) :].mT.contiguous()
            for places, step, scale in ((wide, steps[0], 1.0), (tall, steps[1], math.sqrt(n / m))):
                alpha = -rate * scale
                if isinstance(alpha, Tensor):  # which no kernel takes as a factor
                    step, alpha = step * alpha, 1.0
                if places:
                    torch._foreach_add_([weights[i] for i in places], step.unbind(), alpha=alpha)


def unstacked(tensors: Sequence[Tensor], rows: Sequence[list[int]]) -> list[Tensor]:
    """The matrices that are stacked in each, with so many rows."""
    return [matrix for t, each in zip(tensors, rows, strict=True) for matrix in t.split(each)]


def newton_schulz(x: Tensor, dtype: torch.dtype, coefficients: muon.Coefficients = POLAR) -> Tensor:
    """Bring the singular values of (N, m, n) matrices, m <= n, near one; same shape, in `dtype`.

    They end in [0, 1.3] whatever the matrix, and those that were at least 0.4% of its Frobenius
    norm end in [0.7, 1.3]; each iteration takes s to a s + b s^3 + c s^5. Norms are taken and
    applied in x's own dtype, float32; `dtype` is for the products alone. A matrix with an entry
    that is not finite stays so, and changes no other.
    """
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)  # (N, 1, 1)
    x = (x / norm.clamp_min(MIN_NORM)).to(dtype)  # (N, m, n), spectral norm <= 1 and a rounding
    for a, b, c in coefficients:
        gram = x @ x.mT  # (N, m, m)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # (N, m, m)
        x = torch.baddbmm(x, poly, x, beta=a)  # (N, m, n)
    return x
