"""The processes of a launch come together, measure what they share, and say what is wrong.

Nothing here needs a model or a dataset, so that a launch can be tried in a minute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.cuda import nccl

import bardlet
from bardlet.system import faults, memory, native_library, network
from bardlet.system.device import Machine, versions
from bardlet.system.distributed import Group
from bardlet.system.faults import Facts, Fault

MEGABYTES = {"cuda": 256, "cpu": 16}  # that an all-reduce is timed on
ROUNDS = 5
PINGS = 20
SEEN_S = 10.0  # until a shared disk shows what another node wrote
GRACE_S = 10.0  # beyond a time-out, in which the library itself may say what is wrong


def check(group: Group, machine: Machine, out_dir: Path, timeout_s: float,
          abandon: Callable[[Fault], None]) -> dict[str, Any]:  # fmt: skip
    """What all processes have seen, as JSON values; "faults" has what is wrong, and what to do.

    `abandon` is called from another thread where the processes hang beyond the time-out.
    """
    own = facts(group, machine)
    if group.world_size == 1:
        own = dataclasses.replace(own, disk=write_and_read(out_dir, group, SEEN_S))
        seen = faults.wrong_interface([own]) + faults.unshared_disk([own], str(out_dir))
        return report([own], seen, backend="", exchange={})
    address, port = os.environ.get("MASTER_ADDR", "localhost"), master_port()
    seen = faults.wrong_interface([own])
    if not seen and group.rank:
        probe = network.probe(address, port, timeout_s)
        seen = faults.unreachable(address, port, probe, own.place)
    if seen:
        return report([own], seen, backend="", exchange={})
    backend = "nccl" if machine.device.type == "cuda" else "gloo"
    with watched(own, group, timeout_s, abandon):
        try:
            with joined(backend, machine, timeout_s):
                return exchanged(own, group, machine, backend, out_dir)
        except (RuntimeError, ValueError, OSError) as error:
            failed = faults.failed_join(str(error), own.place, group.world_size)
            return report([own], [failed], backend=backend, exchange={})


def exchanged(
    own: Facts, group: Group, machine: Machine, backend: str, out_dir: Path
) -> dict[str, Any]:
    """What the processes of a group measure together: all return the same."""
    shared: list[Any] = [all_reduce(group, machine)]
    dist.broadcast_object_list(shared)  # so that all judge the same measurement
    exchange = shared[0]
    own = dataclasses.replace(own, clock_s=clock_offset(), disk=shared_disk(out_dir, group))
    gathered: list[Any] = [None] * group.world_size
    dist.all_gather_object(gathered, own)
    expected = group.world_size * (group.world_size + 1) / 2
    seen = [
        *faults.wrong_sum(exchange["sum"], expected), *faults.wrong_interface(gathered),
        *faults.mismatched_versions(gathered), *faults.different_clocks(gathered),
        *faults.unshared_disk(gathered, str(out_dir)), *faults.little_memory(gathered),
        *faults.slow_exchange(gathered, backend, exchange["gb_per_s"]),
    ]  # fmt: skip
    return report(gathered, seen, backend=backend, exchange=exchange)


def report(
    gathered: list[Facts], seen: list[Fault], *, backend: str, exchange: dict[str, float]
) -> dict[str, Any]:
    """Facts and faults as JSON values."""
    return {
        "ok": not seen, "processes": len(gathered), "backend": backend,
        "hosts": sorted({one.host for one in gathered}), "all_reduce": exchange,
        "faults": [dataclasses.asdict(fault) for fault in seen],
        "ranks": [dataclasses.asdict(one) for one in gathered],
    }  # fmt: skip


def facts(group: Group, machine: Machine) -> Facts:
    """What this process says of itself, before it has met another."""
    free = total = memory.available()
    name = "memory"
    if machine.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(machine.device)
        name = torch.cuda.get_device_name(machine.device)
    return Facts(
        rank=group.rank, host=socket.gethostname(), versions=all_versions(), device=name,
        free_bytes=float(free), total_bytes=float(total), own_address=network.own_address(),
        address=network.address_towards(os.environ.get("MASTER_ADDR", "localhost")),
        interfaces=network.interfaces(), chosen=network.chosen_interfaces(),
        infiniband=network.infiniband(),
    )  # fmt: skip


def all_versions() -> dict[str, str]:
    """bardlet, Python and torch, and the sources of the compiled core; of CUDA's NCCL too."""
    core = Path(bardlet.__file__).parent / "native" / "src"
    numbers = {**versions(), "core": native_library.source_hash(core)}
    if torch.cuda.is_available():
        numbers["nccl"] = ".".join(map(str, nccl.version()))
    return numbers


def master_port() -> int:
    """The port of the first process, from torchrun's environment."""
    with contextlib.suppress(ValueError):
        return int(os.environ.get("MASTER_PORT", ""))
    return 29500


@contextlib.contextmanager
def joined(backend: str, machine: Machine, timeout_s: float) -> Iterator[None]:
    """Run the body as part of the process group, whose exchanges fail after the time-out."""
    cuda = machine.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(machine.device)
    both = "cpu:gloo,cuda:nccl" if cuda else backend  # facts go over gloo
    dist.init_process_group(both, timeout=timedelta(seconds=timeout_s))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def watched(
    own: Facts, group: Group, timeout_s: float, abandon: Callable[[Fault], None]
) -> Iterator[None]:
    """Call `abandon` where the body takes far longer than the time-out: NCCL hangs in silence."""

    def give_up() -> None:
        abandon(faults.failed_join("timed out", own.place, group.world_size))

    timer = threading.Timer(timeout_s + GRACE_S + SEEN_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def all_reduce(group: Group, machine: Machine) -> dict[str, float]:
    """The sum of all ranks counted from 1, the time of a small exchange, and a large one's rate.

    "gb_per_s" is NCCL's bus bandwidth: 2 (n - 1) / n of the bytes, over the median time.
    """
    size = MEGABYTES[machine.device.type] * 2**20
    large = torch.zeros(size // 4, device=machine.device)
    small = torch.tensor([float(group.rank + 1)], device=machine.device)
    dist.all_reduce(small)
    total = small.item()

    def seconds(tensor: torch.Tensor, rounds: int) -> float:
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            dist.all_reduce(tensor)
            tensor[0].item()  # waits for the device
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    seconds(large, 1)
    ring = 2 * (group.world_size - 1) / group.world_size * size
    return {
        "sum": total, "bytes": float(size), "latency_ms": 1000 * seconds(small, PINGS),
        "gb_per_s": ring / seconds(large, ROUNDS) / 1e9,
    }  # fmt: skip


def clock_offset() -> float:
    """Seconds that this machine's clock is ahead of the first process's, the least of three."""
    offsets = []
    for _ in range(3):
        dist.barrier()
        times: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(times, time.time())
        offsets.append(times[dist.get_rank()] - times[0])
    return min(offsets, key=abs)


def shared_disk(out_dir: Path, group: Group) -> str:
    """Why this process does not see what the first one writes into `out_dir`; "" where it does."""
    shared: list[Any] = [write_probe(out_dir)] if group.main else [None]
    dist.broadcast_object_list(shared)
    name, problem = shared[0]
    if problem:
        return problem if group.main else ""
    seen = read_probe(out_dir / name, name, SEEN_S)
    dist.barrier()
    if group.main:
        (out_dir / name).unlink(missing_ok=True)
    return seen


def write_and_read(out_dir: Path, group: Group, wait_s: float) -> str:
    """Why a file in `out_dir` cannot be written or read back; "" where it can."""
    name, problem = write_probe(out_dir)
    if not problem:
        problem = read_probe(out_dir / name, name, wait_s)
        (out_dir / name).unlink(missing_ok=True)
    return problem


def write_probe(out_dir: Path) -> tuple[str, str]:
    """The name of a new file in `out_dir` that holds its own name, and why it could not be."""
    name = f".launch-check-{uuid.uuid4().hex}"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with (out_dir / name).open("x", encoding="utf-8") as file:
            file.write(name)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return name, f"cannot write into {out_dir}: {error.strerror}"
    return name, ""


def read_probe(path: Path, expected: str, wait_s: float) -> str:
    """Why a file does not hold what is expected within so many seconds; "" where it does."""
    ends = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # network file systems show new names after it
            if path.read_text(encoding="utf-8") == expected:
                return ""
        if time.monotonic() > ends:
            return f"does not see in {path.parent} what the first process wrote there"
        time.sleep(0.1)
