"""How long a training step takes on many GPUs, what it holds and what it sends: formulas.

A step is products of matrices, attention, reading and writing activations, communication and the
optimizer, one after another. Each takes its FLOPs or bytes over a published rate (`rates.py`) times
a share of it that is reached. The shares are four numbers for all GPUs and all models, fitted once
on 31 runs of one program on 8 GPUs; a fifth is what fused kernels save. docs/scaling.md says on
which, and how far other published runs are from it.

Shapes are `GPTConfig`'s. All counts are of one GPU; bytes unless they say otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from bardlet.model import GPTConfig
from bardlet.planning.rates import NETWORK_REACHED, Gpu

# --- fitted
MATMUL_REACHED = 0.913  # of the best rate that products reach
ATTENTION_REACHED = 0.463  # of FlashAttention-2's best rate
BLOCK_BYTES = 19.9  # moved for each activation of a block, forward and backward, operation by it
LOGIT_BYTES = 50.7  # moved for each logit
FUSED = 0.335  # of these bytes what is left where kernels are fused
# --- counted
OPTIMIZER_BYTES = 40  # of a parameter: AdamW reads 16 and writes 12, the norm and clipping 12
NEWTON_SCHULZ = 5  # iterations of Muon


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is laid out over GPUs.

    `shard` is what each GPU holds of weights, gradients and the optimizer's state: all of them
    (none), a share within its node (node), or a share (full); "states" shares the state alone, as
    ZeRO's first stage. `recompute` is the share of the blocks' forward pass that backward repeats.
    """

    gpus: int = 1
    per_node: int = 8
    network: float = 50e9  # bytes/s of a GPU to other nodes, its card's rate
    shard: str = "none"
    recompute: float = 0.0
    sequences: int = 1  # of a GPU in a step
    batch_size: int = 1  # of these at a time
    optimizer: str = "adamw"
    offload: bool = False  # its state rests in main memory
    fused_blocks: bool = True  # as torch.compile does
    fused_loss: bool = False
    gather_bytes: int = 2  # of a weight that is gathered
    reduce_bytes: int = 4  # of a gradient that is summed
    summed_once: bool = False  # a step, not a micro-batch: whole gradients wait for that

    @property
    def in_node(self) -> int:
        return min(self.gpus, self.per_node)

    @property
    def nodes(self) -> int:
        return math.ceil(self.gpus / self.per_node)

    @property
    def micro_batches(self) -> int:
        return math.ceil(self.sequences / self.batch_size)

    @property
    def shards(self) -> int:
        """GPUs that share one copy of the weights."""
        return {"full": self.gpus, "node": self.in_node}.get(self.shard, 1)

    @property
    def state_shards(self) -> int:
        """GPUs that share one copy of the optimizer's state."""
        return self.gpus if self.shard == "states" else self.shards


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of a step by what they go into."""

    matmul: float
    attention: float
    activations: float  # reading and writing them, logits too
    communication: float
    optimizer: float

    @property
    def seconds(self) -> float:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a GPU holds at the peak, by what for."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


def matrices(shape: GPTConfig) -> list[tuple[int, int]]:
    """The matrices of a block, with their two sizes."""
    C, F = shape.n_embd, shape.mlp_size
    heads, kv = shape.n_head * shape.head_size, shape.kv_heads * shape.head_size
    return [(C, heads), (C, kv), (C, kv), (heads, C), *[(C, F)] * (3 if shape.llama else 2)]


def block_weights(shape: GPTConfig) -> int:
    """Parameters of all blocks' matrices."""
    return shape.n_layer * sum(m * n for m, n in matrices(shape))


def head_weights(shape: GPTConfig) -> int:
    """Parameters of the output head."""
    return shape.vocab_size * shape.n_embd


def parameters(shape: GPTConfig) -> int:
    """Parameters of a model, but for norms and biases."""
    positions = 0 if shape.llama else shape.block_size * shape.n_embd
    return block_weights(shape) + head_weights(shape) * (1 if shape.tied else 2) + positions


def block_activations(shape: GPTConfig) -> int:
    """Numbers of a token that a block's operations pass on to each other (arXiv:2205.05198, with
    attention that keeps no scores): inputs and outputs of both norms, of attention and of the MLP.
    """
    heads, kv = shape.n_head * shape.head_size, shape.kv_heads * shape.head_size
    return 4 * shape.n_embd + 2 * heads + 2 * kv + (3 if shape.llama else 2) * shape.mlp_size


def step(shape: GPTConfig, gpu: Gpu, layout: Layout) -> Step:
    """The seconds of a step. Nothing is taken to overlap: that fits published runs best."""
    tokens = layout.sequences * shape.block_size
    again = 1 + layout.recompute / 3  # forward is a third of forward and backward
    flops = 6 * (block_weights(shape) * again + head_weights(shape))
    heads = shape.n_head * shape.head_size
    # causal: 2 L C T forward, and 5 backward, which computes the scores once more
    attention = (7 + 2 * layout.recompute) * shape.n_layer * heads * shape.block_size
    block = BLOCK_BYTES * (FUSED if layout.fused_blocks else 1) * again
    logit = LOGIT_BYTES * (FUSED if layout.fused_loss else 1)
    moved = block * shape.n_layer * block_activations(shape) + logit * shape.vocab_size
    return Step(
        matmul=tokens * flops / (gpu.matmul * MATMUL_REACHED),
        attention=tokens * attention / (gpu.attention * ATTENTION_REACHED),
        activations=tokens * moved / gpu.bandwidth,
        communication=communication(shape, gpu, layout),
        optimizer=optimizer(shape, gpu, layout),
    )


def optimizer(shape: GPTConfig, gpu: Gpu, layout: Layout) -> float:
    """The seconds of the optimizer; Muon's products are shared out among all GPUs."""
    seconds = OPTIMIZER_BYTES * parameters(shape) / layout.state_shards / gpu.bandwidth
    seconds += crossing(shape, layout) / gpu.bus
    if layout.optimizer == "muon":
        small = [(min(sizes), max(sizes)) for sizes in matrices(shape)]
        flops = sum(NEWTON_SCHULZ * (4 * m * m * n + 2 * m**3) for m, n in small)
        share = math.ceil(shape.n_layer * len(small) / layout.gpus) / len(small)
        seconds += share * flops / (gpu.matmul * MATMUL_REACHED)
    return seconds


def sent(shape: GPTConfig, layout: Layout) -> tuple[float, float]:
    """Bytes that a GPU sends in a step: within its node, and to other nodes.

    A ring sends (n - 1) / n of what is gathered or reduced, and twice that for both; of a ring
    over nodes each of a node's cards carries its share of what crosses between them.
    """
    size, m = parameters(shape), layout.micro_batches
    reduced = layout.reduce_bytes * size
    # weights are gathered forward and backward, gradients reduced, in each micro-batch or at last
    both = 2 * m * layout.gather_bytes * size + (1 if layout.summed_once else m) * reduced
    n, k, inner = layout.gpus, layout.nodes, layout.in_node
    if layout.shard == "full":
        return both * (n - 1) / n, both * (k - 1) / k / inner
    if layout.shard == "node":
        return both * (inner - 1) / inner, 2 * reduced / inner * (k - 1) / k
    muon = 4 * block_weights(shape) if layout.optimizer == "muon" else 0
    return (2 * reduced + muon) * (n - 1) / n, (2 * reduced + muon) * (k - 1) / k / inner


def states(shape: GPTConfig, layout: Layout) -> float:
    """Bytes of the optimizer's state that a GPU has, wherever they are."""
    muon = 4 * block_weights(shape) if layout.optimizer == "muon" else 0
    return (8 * parameters(shape) - muon) / layout.state_shards


def crossing(shape: GPTConfig, layout: Layout) -> float:
    """Bytes between a GPU and main memory in a step: the state, there and back."""
    return 2 * states(shape, layout) if layout.offload else 0.0


def communication(shape: GPTConfig, gpu: Gpu, layout: Layout) -> float:
    """The seconds of all exchanges: of one over nodes, its slower part."""
    inside, outside = sent(shape, layout)
    over_links, over_network = inside / gpu.link, outside / (layout.network * NETWORK_REACHED)
    if layout.shard == "node":  # two exchanges, one after the other
        return over_links + over_network
    return max(over_links, over_network)


def memory(shape: GPTConfig, layout: Layout) -> Memory:
    """What a GPU holds at the peak of a step in mixed precision: weights and states in float32,
    activations in bfloat16, logits in both, with their gradient.
    """
    size, blocks = parameters(shape), block_weights(shape)
    tokens = layout.batch_size * shape.block_size
    one_block = 2 * block_activations(shape)
    kept = 2 * shape.n_embd * layout.recompute + one_block * (1 - layout.recompute)
    largest = max(blocks / shape.n_layer, head_weights(shape))
    whole_gradients = layout.summed_once and layout.micro_batches > 1
    return Memory(
        weights=4 * size / layout.shards,
        gradients=4 * size / (1 if whole_gradients else layout.shards),
        optimizer=0 if layout.offload else states(shape, layout),
        # whole weights in bfloat16: all, or where they are sharded those of two blocks
        gathered=2 * size if layout.shards == 1 else 2 * layout.gather_bytes * largest,
        activations=tokens * (shape.n_layer * kept + one_block * layout.recompute),
        logits=10 * tokens * shape.vocab_size,
    )


def flops_per_token(shape: GPTConfig) -> int:
    """PaLM's count (arXiv:2204.02311, appendix B), by which MFU is defined, as `GPT` has it."""
    heads = shape.n_head * shape.head_size
    attention = 12 * shape.n_layer * heads * shape.block_size
    return 6 * (block_weights(shape) + head_weights(shape)) + attention
