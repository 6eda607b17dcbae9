"""How torch.compile is asked to compile a run, the fastest way first, each falling back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# FLOPs of a micro-batch, forward and backward: below a millisecond or two of a large GPU, launching
# kernels takes longer than they do
LAUNCH_BOUND = 1e12
# of a run: an hour of a large GPU, which pays for minutes of trying products' variants
AUTOTUNE_PAYS = 1.5e18
# one graph for shapes that do not change, or none
STATIC = {"dynamic": False, "fullgraph": True}


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """A way to compile, and its name for people."""

    name: str = "compiled"
    options: Mapping[str, Any] = field(default_factory=dict)  # of torch.compile

    @property
    def graphs(self) -> bool:
        """Whether kernels are recorded and replayed (CUDA graphs)."""
        return self.options.get("mode") == "reduce-overhead"


def compilations(
    device_type: str, flops: float, total_flops: float, alone: bool
) -> list[Compilation]:
    """The ways to try in turn for micro-batches of `flops` in a run of `total_flops`.

    `alone`: an iteration is one micro-batch of one process. Gradients that are added to, or
    averaged over processes, may not lie where a CUDA graph writes them.
    """
    plain = Compilation()
    if device_type != "cuda":
        return [plain]
    static = Compilation(options=STATIC)
    if alone and flops < LAUNCH_BOUND:
        graphs = {**STATIC, "mode": "reduce-overhead"}
        return [Compilation(name="compiled, CUDA graphs", options=graphs), static, plain]
    if total_flops > AUTOTUNE_PAYS:
        tuned = {**STATIC, "mode": "max-autotune-no-cudagraphs"}
        return [Compilation(name="compiled, autotuned", options=tuned), static, plain]
    return [static, plain]
