"""How torch.compile is asked to compile a run, the fastest way first, each falling back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# FLOPs of a micro-batch, forward and backward: below some milliseconds of a large GPU, launching
# kernels takes longer than they do
LAUNCH_BOUND = 3e12
# of a run: an hour of a large GPU, which pays for minutes of trying products' variants
AUTOTUNE_PAYS = 1.5e18
# one graph for shapes that do not change, or none
STATIC = {"dynamic": False, "fullgraph": True}


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """A way to compile, and its name for people."""

    name: str = "compiled"
    options: Mapping[str, Any] = field(default_factory=dict)  # of torch.compile


def compilations(device_type: str, total_flops: float) -> list[Compilation]:
    """The ways to try in turn for a run of `total_flops`."""
    plain = Compilation()
    if device_type != "cuda":
        return [plain]
    static = Compilation(options=STATIC)
    if total_flops > AUTOTUNE_PAYS:
        tuned = {**STATIC, "mode": "max-autotune-no-cudagraphs"}
        return [Compilation(name="compiled, autotuned", options=tuned), static, plain]
    return [static, plain]


def records(device_type: str, flops: float) -> bool:
    """Whether iterations of `flops` are worth recording as CUDA graphs (graphs.py)."""
    return device_type == "cuda" and flops < LAUNCH_BOUND
