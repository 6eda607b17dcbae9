"""Work of fixed shapes that a GPU records once and replays: CUDA graphs.

An iteration of a small model is a thousand kernels of some microseconds each, and to launch one by
one takes the host longer than the GPU computes. Replayed, they are launched at once, compiled or
not. What a graph reads and writes stays where it was when it was recorded.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3  # runs before one is recorded, in which kernels are loaded and optimizers make state
AGREES = 2e-2  # relative difference between runs of the same, for the order of sums


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record what `work` has the device do, and return what replays it.

    Raises RuntimeError where it cannot be recorded; torch's random numbers work on after that.
    """
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may use CUDA meanwhile, as the one that pins batches does
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        except BaseException:
            # the default generator believes that it is still recorded, and would refuse to draw
            with contextlib.suppress(Exception):
                fresh = torch.Generator(device).graphsafe_get_state()
                generators = torch.cuda.default_generators
                generators[torch.cuda.current_device()].graphsafe_set_state(fresh)
            raise
    return graph.replay


class Replay:
    """A step that is recorded after some runs as it is, and replayed from then on.

    Before it counts, what is recorded has to move the same tensors as far as the step does, twice.
    Where it does not, or cannot be recorded, one line says so and the step goes on as it is.
    """

    def __init__(self) -> None:
        self.runs = 0  # without it
        self.failed = False
        self.replay: Callable[[], None] | None = None
        self.inputs: list[Tensor] = []
        self.outputs = torch.empty(0)

    def ready(self) -> bool:
        """Whether the next run is this one's, and else counts it."""
        if self.failed or self.runs < WARM_UP:
            self.runs += 1
            return False
        return True

    def __call__(
        self, step: Callable[..., Tensor], state: Callable[[], list[Tensor]], seed: int,
        *inputs: Tensor,
    ) -> Tensor:  # fmt: skip
        """What `step` returns for inputs of fixed shapes, on the host or the device: (n,).

        It moves the tensors of `state`, and draws random numbers from the default generator alone,
        which is seeded before it.
        """
        if self.replay is None:
            self.begin(step, state(), seed, inputs)
        else:
            self.prepare(seed, inputs)
            self.replay()
        return self.outputs.clone()

    def prepare(self, seed: int, inputs: Sequence[Tensor]) -> None:
        """Put the inputs and the seed where the step takes them from."""
        for place, x in zip(self.inputs, inputs, strict=True):
            place.copy_(x, non_blocking=True)
        torch.manual_seed(seed)

    def begin(
        self, step: Callable[..., Tensor], state: list[Tensor], seed: int,
        inputs: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Record the step, and take it once."""
        before, device = [x.clone() for x in state], state[0].device
        self.inputs = [torch.empty_like(x, device=device) for x in inputs]

        def run() -> None:
            self.outputs = step(*self.inputs)

        def moved(by: Callable[[], None]) -> Tensor:
            """What a run from `before` on returns, and how far it moves each tensor."""
            torch._foreach_copy_(state, before)
            self.prepare(seed, inputs)
            by()
            changes = torch._foreach_norm(torch._foreach_sub(state, before))
            return torch.cat((self.outputs, torch.stack(changes)))

        try:
            expected = moved(run)
            replay = record(run, device)
            for _ in range(2):
                torch.testing.assert_close(
                    moved(replay), expected, rtol=AGREES, atol=1e-6, equal_nan=True
                )
            self.replay = replay
        except (RuntimeError, AssertionError) as error:
            self.failed = True
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"CUDA graphs failed, going on without them: {reason}", stacklevel=2)
            moved(run)
