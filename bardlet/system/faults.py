"""The usual faults of a launch on several machines, each in a line, with what to do.

Pure functions of what `launch_check.py` has seen, so that each can be tested without a cluster.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bardlet.system.network import Probe

GIGABYTE = 1e9
CLOCK_S = 1.0  # that clocks may differ, which includes how long the measuring takes
UNEVEN = 0.7  # of the median free memory, below which a process has too little
# GB/s of an all-reduce over NCCL below which something is amiss: a tenth of what links reach
SLOW_NODE, SLOW_NETWORK = 20.0, 5.0
OPEN_ALL = "the processes open ports of their own: let the nodes reach each other on all ports"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong: its name, what was seen, and what to do."""

    name: str
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}. {self.advice}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a process says of itself and of its machine."""

    rank: int = 0
    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    free_bytes: float = 0.0  # of the device
    total_bytes: float = 0.0
    own_address: str = ""  # what its machine's name means there
    address: str = ""  # towards the first process
    interfaces: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)  # GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME
    infiniband: list[str] = field(default_factory=list)
    clock_s: float = 0.0  # ahead of the first process's
    disk: str = ""  # why it does not see what the first process wrote; "" if it does

    @property
    def place(self) -> str:
        return f"process {self.rank} on {self.host}"


def wrong_interface(facts: Sequence[Facts]) -> list[Fault]:
    """Interfaces that are not there, and names of machines that mean the machine itself."""
    faults = []
    for one in facts:
        for option, value in one.chosen.items():
            names = [name.lstrip("=^") for name in value.split(",")]
            known = [n for n in names if any(i.startswith(n) for i in one.interfaces)]
            if one.interfaces and not known and not value.startswith("^"):
                have = ", ".join(f"{n} ({a})" for n, a in one.interfaces.items())
                faults.append(Fault(
                    name="wrong interface", message=f"{one.place} has no interface {value!r}, "
                    f"which {option} names", advice=f"Set it to one of {have}",
                ))  # fmt: skip
    if len({one.host for one in facts}) > 1:
        for one in facts:
            if one.own_address.startswith("127.") and not one.chosen:
                faults.append(Fault(
                    name="wrong interface", message=f"the name of {one.host} means "
                    f"{one.own_address} there, where other machines do not find it",
                    advice="Export GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME with the interface "
                    f"of {one.address or 'the network between the nodes'}",
                ))  # fmt: skip
    return once_a_host(faults)


def once_a_host(faults: Sequence[Fault]) -> list[Fault]:
    """The faults without what several processes of a machine say alike."""
    return list({re.sub(r"process \d+", "", fault.message): fault for fault in faults}.values())


def unreachable(address: str, port: int, probe: Probe, place: str) -> list[Fault]:
    """Why the first process's port does not answer."""
    at = f"{address}:{port}"
    if probe.outcome == "unknown name":
        return [Fault(
            name="unknown name", message=f"{place} does not know the name {address}",
            advice="Give the address of the first node: --rdzv_endpoint=10.0.0.1:29500",
        )]  # fmt: skip
    if probe.outcome == "refused":
        return [Fault(
            name="nobody listens", message=f"{at} refuses {place}",
            advice="Start the launcher on the first node too, with the same address and port",
        )]  # fmt: skip
    if probe.outcome == "no answer":
        return [Fault(
            name="blocked port", message=f"{at} does not answer {place}: {probe.detail}",
            advice=f"Open the port in the firewall or security group; {OPEN_ALL}",
        )]  # fmt: skip
    return []


def failed_join(error: str, place: str, world_size: int) -> Fault:
    """Why processes did not come together, by what gloo, NCCL or their store said."""
    text = error.lower()
    first = (error.strip().splitlines() or ["no reason given"])[0][:200]
    joined = re.search(r"(\d+)/(\d+) clients joined", text)
    if "address already in use" in text:
        name, message = "port taken", f"another program has {place}'s port"
        advice = "Take another: --master_port=29501, or --rdzv_endpoint=HOST:29501"
    elif "duplicate gpu" in text or "invalid device ordinal" in text:
        name, message = "too few GPUs", f"{place} has no GPU of its own"
        advice = "Set --nproc_per_node to the GPUs of a node, `nvidia-smi -L` counts them"
    elif "unable to find address for" in text or "no socket interface" in text:
        name, message = "wrong interface", f"{place}: {first}"
        advice = (
            "Set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to an interface, `ip -br a` lists them"
        )
    elif re.search(r"remote=\[?[^\]]*127\.", text):
        name, message = "wrong interface", f"{place} was told an address of 127.0.0.0/8"
        advice = "Export GLOO_SOCKET_IFNAME with the interface between the nodes, on all of them"
    elif joined:
        name = "processes missing"
        message = f"{joined[1]} of {joined[2]} processes came in time"
        advice = "Start all nodes, with the same --nnodes and --nproc_per_node"
    elif "timed out" in text or "timeout" in text:
        name, message = "processes missing", f"{place} waited in vain for all {world_size}"
        advice = f"Start all nodes with the same options; {OPEN_ALL}"
    elif "connection refused" in text or "no route to host" in text or "reset by peer" in text:
        name, message = "blocked port", f"{place}: {first}"
        advice = f"Look for a firewall; {OPEN_ALL}"
    else:
        name, message = "no group", f"{place}: {first}"
        advice = "NCCL_DEBUG=INFO in the environment has NCCL say more"
    return Fault(name=name, message=message, advice=advice)


def mismatched_versions(facts: Sequence[Facts]) -> list[Fault]:
    """Programs whose version is not the same for all processes."""
    faults = []
    for program in sorted({name for one in facts for name in one.versions}):
        seen = Counter(one.versions.get(program, "none") for one in facts)
        if len(seen) > 1:
            usual = seen.most_common(1)[0][0]
            others = [f"{one.versions.get(program, 'none')} in {one.place}"
                      for one in facts if one.versions.get(program, "none") != usual]  # fmt: skip
            faults.append(Fault(
                name="mismatched versions",
                message=f"{program} is {usual} in most processes, but {', '.join(others[:3])}"
                + f" and {len(others) - 3} more" * (len(others) > 3),
                advice="Install the same on all nodes: a container, or the same constraints file",
            ))  # fmt: skip
    return faults


def different_clocks(facts: Sequence[Facts]) -> list[Fault]:
    """Clocks that are too far from the first process's."""
    off = [one for one in facts if abs(one.clock_s) > CLOCK_S]
    return once_a_host([
        Fault(
            name="clocks differ", message=f"the clock of {one.host} is {abs(one.clock_s):,.1f} s "
            f"{'ahead' if one.clock_s > 0 else 'behind'}",
            advice="Times of logs and files will mislead: start chrony or ntpd there",
        )
        for one in off
    ])  # fmt: skip


def unshared_disk(facts: Sequence[Facts], folder: str) -> list[Fault]:
    """Processes that do not see what the first one wrote, or a first one that cannot write."""
    return once_a_host([
        Fault(
            name="disk not written" if one.rank == 0 else "disk not shared",
            message=f"{one.place} {one.disk}",
            advice="Name a folder that can be written: --out_dir" if one.rank == 0 else
            f"Put {folder} on a file system that all nodes mount: runs resume from it",
        )
        for one in facts if one.disk
    ])  # fmt: skip


def little_memory(facts: Sequence[Facts]) -> list[Fault]:
    """Devices with less free memory than most have."""
    free = sorted(one.free_bytes for one in facts)
    median = free[len(free) // 2]
    return [
        Fault(
            name="memory in use", message=f"{one.place} has {one.free_bytes / GIGABYTE:,.1f} GB "
            f"free on {one.device} where others have {median / GIGABYTE:,.1f}",
            advice="Another program holds it: `nvidia-smi`, `free -g` and `ps` show which",
        )
        for one in facts if one.free_bytes < UNEVEN * median
    ]  # fmt: skip


def slow_exchange(facts: Sequence[Facts], backend: str, gb_per_s: float) -> list[Fault]:
    """An all-reduce over NCCL that is far slower than GPUs' links, and the likely reason."""
    if backend != "nccl" or len(facts) < 2:
        return []
    hosts = {one.host for one in facts}
    without = [one.host for one in facts if not one.infiniband]
    seen = f"an all-reduce moves {gb_per_s:,.1f} GB/s"
    if len(hosts) == 1:
        if gb_per_s >= SLOW_NODE:
            return []
        return [Fault(
            name="slow links", message=f"{seen} between the GPUs of {facts[0].host}",
            advice="`nvidia-smi topo -m` shows whether they have NVLink; NCCL_P2P_DISABLE turns "
            "it off",
        )]  # fmt: skip
    if gb_per_s >= SLOW_NETWORK:
        return []
    if without:
        return [Fault(
            name="no InfiniBand", message=f"{seen} between nodes, and {without[0]} shows no "
            "InfiniBand card to this process", advice="Load its drivers and give the container "
            "/dev/infiniband; on Ethernet take --shard=node or none and accumulate more",
        )]  # fmt: skip
    return [Fault(
        name="slow network", message=f"{seen} between nodes, whose InfiniBand cards are there",
        advice="NCCL_DEBUG=INFO says whether NET/IB is used; NCCL_IB_HCA names the cards, "
        "NCCL_IB_DISABLE turns them off",
    )]  # fmt: skip


def wrong_sum(total: float, expected: float) -> list[Fault]:
    """An all-reduce that adds up wrongly."""
    if total == expected:
        return []
    return [Fault(
        name="wrong sum", message=f"an all-reduce gave {total:g} for {expected:g}",
        advice="A card, a cable or a driver is broken: leave nodes out, one by one",
    )]  # fmt: skip
