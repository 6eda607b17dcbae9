"""Work of fixed shapes that a GPU records once and replays: CUDA graphs.

An iteration of a small model is a thousand kernels of some microseconds each, and to launch one by
one takes the host longer than the GPU computes. Replayed, they are launched at once, compiled or
not. What a graph reads and writes stays where it was when it was recorded.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # runs before one is recorded, in which kernels are loaded and optimizers make state
AGREES = 2e-2  # relative difference between runs of the same, for the order of sums
abandoned: list[torch.cuda.CUDAGraph] = []  # torch's allocators know those that failed by address


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record what `work` has the device do, and return what replays it.

    Raises RuntimeError where it cannot be recorded; the device works on after that.
    """
    with torch.cuda.device(device):
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        before = torch.cuda.current_stream()
        # torch's own stream for recordings is on the device of the first of them. Other threads may
        # use CUDA meanwhile, as the one that pins batches does
        how = {"pool": pool, "stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(graph, **how):
                work()
        except BaseException:
            torch.cuda.set_stream(before)
            give_up(graph, pool)
            raise
    return graph.replay


def give_up(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """Have the current device forget a recording that failed.

    torch does so at the end of a recording alone. Until then its allocator refuses to give memory
    back to the device, and its default generator to draw.
    """
    abandoned.append(graph)
    index = torch.cuda.current_device()
    with contextlib.suppress(Exception):
        graph.reset()
    with contextlib.suppress(Exception):  # the allocator may have seen the recording end
        torch._C._cuda_endAllocateToPool(index, pool)  # pyright: ignore
        torch._C._cuda_releasePool(index, pool)  # pyright: ignore
    with contextlib.suppress(Exception):
        fresh = torch.Generator(torch.device("cuda", index)).graphsafe_get_state()
        torch.cuda.default_generators[index].graphsafe_set_state(fresh)


def reason(error: BaseException) -> str:
    """The first line of what went wrong first: a recording that has failed cannot be ended."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
        device = state[0].device
        before: list[Tensor] = []
        self.inputs = [torch.empty_like(x, device=device) for x in inputs]

        def run() -> None:
            self.outputs = step(*self.inputs)

        def go_back() -> None:
            """Have all tensors where they were before the step."""
            if before:
                torch._foreach_copy_(state, before)
            self.prepare(seed, inputs)

        def moved(by: Callable[[], None]) -> Tensor:
            """What a run from `before` on returns, and how far it moves each tensor."""
            go_back()
            by()
            changes = torch._foreach_norm(torch._foreach_sub(state, before))
            return torch.cat((self.outputs, torch.stack(changes)))

        try:
            before = [x.clone() for x in state]  # for which there may be no memory
            expected = moved(run)
            replay = record(run, device)
            for _ in range(2):
                torch.testing.assert_close(
                    moved(replay), expected, rtol=AGREES, atol=1e-6, equal_nan=True
                )
            self.replay = replay
        except (RuntimeError, AssertionError) as error:
            self.failed = True
            said = f"CUDA graphs failed, going on without them: {reason(error)}"
            warnings.warn(said, stacklevel=2)
        if self.failed:  # outside of the handler, whose traceback holds memory
            go_back()
            run()
