"""The network that processes of several machines meet on: names, addresses, interfaces, ports."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

INFINIBAND = Path("/sys/class/infiniband")
SIOCGIFADDR = 0x8915  # linux/sockios.h
INTERFACE_OPTIONS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What came of asking for a port: "open", "unknown name", "refused", "no answer"."""

    outcome: str
    detail: str = ""


def interfaces() -> dict[str, str]:
    """The interfaces of this machine with their IPv4 addresses; {} where the system has no list."""
    if sys.platform != "linux":
        return {}
    import fcntl

    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # one without an address
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
                addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses


def address_towards(host: str) -> str:
    """This machine's address as others see it when it talks to `host`; "" if there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((host, 9))  # sends nothing: the system picks the way
            return asking.getsockname()[0]
        except OSError:
            return ""


def own_address() -> str:
    """What this machine's own name means here: the address that gloo tells the others."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return ""


def infiniband() -> list[str]:
    """The InfiniBand and RoCE cards that this process can see."""
    return sorted(path.name for path in INFINIBAND.glob("*"))


def chosen_interfaces() -> dict[str, str]:
    """What the environment says of the interfaces to use."""
    return {name: os.environ[name] for name in INTERFACE_OPTIONS if os.environ.get(name)}


def probe(host: str, port: int, timeout_s: float) -> Probe:
    """Ask for a port until it answers or the time is up: the other side may still be starting."""
    ends = time.monotonic() + timeout_s
    last = Probe(outcome="no answer")
    while True:
        left = ends - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(0.1, min(5.0, left))):
                return Probe(outcome="open")
        except socket.gaierror as error:
            return Probe(outcome="unknown name", detail=str(error.strerror))
        except ConnectionRefusedError as error:
            last = Probe(outcome="refused", detail=str(error.strerror))
        except OSError as error:
            last = Probe(outcome="no answer", detail=str(error.strerror or error))
        if time.monotonic() + 0.2 > ends:
            return last
        time.sleep(0.2)
