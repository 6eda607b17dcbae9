"""Two nodes as two network namespaces behind a switch: one is cut off, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import tensors, tiny_config

from bardlet.config import TrainConfig, to_toml
from bardlet.run import run_folder
from bardlet.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
# 30 s without a sign of life, and what processes and launchers need to say so on a busy machine
BOUND_S = 90.0
# One process and two sum up in another order, which Adam magnifies where a gradient is near zero.
TOLERANCE = 2e-4


class Network:
    """Two nodes and a switch between them, each a network namespace of this machine."""

    def __init__(self, hosts: Path) -> None:
        lines = [f"{address} node-{node}" for node, address in ADDRESSES.items()]
        hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]), encoding="utf-8")
        self.hosts = hosts
        self.names = {each: f"bardlet{os.getpid()}{each}" for each in ("a", "b", "switch")}

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def inside(self, node: str, *words: str) -> None:
        self.ip("-n", self.names[node], *words)

    def build(self) -> None:
        for node in self.names:
            self.ip("netns", "add", self.names[node])
            self.inside(node, "link", "set", "lo", "up")
        self.inside("switch", "link", "add", "bridge", "type", "bridge")
        self.inside("switch", "link", "set", "bridge", "up")
        for node, address in ADDRESSES.items():
            here, switch = self.names[node], self.names["switch"]
            self.ip("link", "add", "eth0", "netns", here, "type", "veth", "peer", "name",
                    f"port-{node}", "netns", switch)  # fmt: skip
            self.inside("switch", "link", "set", f"port-{node}", "master", "bridge", "up")
            self.inside(node, "addr", "add", f"{address}/24", "dev", "eth0")
            self.inside(node, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for name in self.names.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ip("netns", "del", name)

    def link(self, node: str, state: str) -> None:
        """Pull the cable of a node out of the switch, or put it in."""
        self.inside("switch", "link", "set", f"port-{node}", state)

    def command(self, node: str, *words: str) -> list[str]:
        """What runs `words` on a node, which has a name of its own and knows the other's."""
        named = f'mount --bind {self.hosts} /etc/hosts && hostname node-{node} && exec "$@"'
        enter = ["ip", "netns", "exec", self.names[node], "unshare", "--uts", "--mount"]
        return [*enter, "bash", "-c", named, "bash", *words]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    if not shutil.which("ip"):
        pytest.skip("ip is not installed, which makes network namespaces")
    network = Network(tmp_path / "hosts")
    try:
        network.build()
        done = subprocess.run(network.command("a", "true"), capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no node can be made here: {done.stderr.strip()}")
        yield network
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    finally:
        network.remove()


class Launcher:
    """torchrun on a node, and what it and its workers say."""

    def __init__(self, network: Network, node: str, config: TrainConfig, *options: str) -> None:
        file = Path(config.out_dir).with_suffix(f".{node}.toml")
        file.write_text(to_toml(config), encoding="utf-8")
        self.text = ""
        self.process = subprocess.Popen(
            network.command(
                node, sys.executable, "-m", "torch.distributed.run", *options,
                "--nproc_per_node=1", "--rdzv_backend=c10d", f"--local_addr={ADDRESSES[node]}",
                f"--rdzv_endpoint={ADDRESSES['a']}:29500", "-m", "bardlet", "train", str(file),
            ),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
        )  # fmt: skip
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line

    def until(self, seen: Callable[[str], object], seconds: float = 300) -> None:
        """Wait for what it says, as long as a busy machine may need."""
        end = time.monotonic() + seconds
        while not seen(self.text):
            assert time.monotonic() < end and self.process.poll() is None, self.text
            time.sleep(0.02)

    def ended(self, seconds: float) -> tuple[int, list[str]]:
        """Its exit code and the lines of bardlet that say why, when nothing of it is left."""
        code = self.process.wait(seconds)
        self.reader.join(seconds)  # no worker holds the pipe
        assert not self.reader.is_alive()
        return code, [line for line in self.text.splitlines() if line.startswith("bardlet: ")]

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def launched(network: Network, config: TrainConfig, *options: str) -> Iterator[list[Launcher]]:
    """A launcher on each node, killed at the end with all that it started."""
    both = [Launcher(network, node, config, *options) for node in ADDRESSES]
    try:
        yield both
    finally:
        for each in both:
            each.kill()


def endless(folder: Path, out: Path) -> TrainConfig:
    """A run of which the first 60 iterations move the weights, so that its end is any later one."""
    return tiny_config(
        folder, out, "gpt2", learning_rate=1e-3, min_lr=0.0, lr_decay_iters=60, max_iters=10**6,
        eval_interval=10**6, save_interval=10, log_interval=1, guard_dead=False,
    )  # fmt: skip


def assert_ends_equal(config: TrainConfig, tmp_path: Path) -> None:
    """Compare weights to those of one process that nothing has happened to."""
    done = run_folder.iter_of(run_folder.newest(Path(config.out_dir)))
    alone = replace(config, out_dir=str(tmp_path / "alone"), max_iters=min(done, 60))
    train(alone)
    ours, theirs = tensors(config), tensors(alone)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=TOLERANCE, msg=name)


def test_a_node_that_is_cut_off_ends_both(
    network: Network, dataset_folder: Path, tmp_path: Path
) -> None:
    """Within a stated time, and each side says whom it has lost; then one goes on, then both."""
    config = endless(dataset_folder, tmp_path / "run")
    with launched(network, config, "--nnodes=2") as both:
        both[0].until(lambda text: "iter 12:" in text)
        network.link("b", "down")
        cut = time.monotonic()
        (code_a, said_a), (code_b, said_b) = (each.ended(BOUND_S) for each in both)
        assert time.monotonic() - cut < BOUND_S
    assert code_a == 1 and code_b in (1, -signal.SIGKILL)  # where it waits inside the store
    (line,) = said_a
    assert line.startswith("bardlet: process 1 of 2 on node-b gives no sign of life")
    (line,) = said_b
    assert re.match(r"bardlet: the launcher at 10\.77\.0\.1:\d+ cannot be reached any more", line)
    done = run_folder.iter_of(run_folder.newest(tmp_path / "run"))
    assert done % 10 == 0 and done >= 10  # saved in time, not at the end
    train(replace(config, max_iters=done + 5))
    network.link("b", "up")
    longer = replace(config, max_iters=done + 10, init_from="resume")
    with launched(network, longer, "--nnodes=2") as both:
        assert [each.ended(300) for each in both] == [(0, []), (0, [])]
    assert_ends_equal(config, tmp_path)


def test_a_run_goes_on_without_a_node(
    network: Network, dataset_folder: Path, tmp_path: Path
) -> None:
    """By itself, under an elastic launcher, though it was begun with --fresh."""
    config = endless(dataset_folder, tmp_path / "run")
    options = "--nnodes=1:2", "--max_restarts=3", "--rdzv_conf=last_call_timeout=2"
    shared = "2 on each of 2 processes"
    with launched(network, replace(config, fresh=True), *options) as both:
        first, _ = both
        first.until(lambda text: "iter 12:" in text)
        assert shared in first.text
        network.link("b", "down")
        first.until(lambda text: "resuming" in text and "iter 61:" in text.split("resuming")[1])
        assert "process 1 of 2 on node-b gives no sign of life" in first.text
        assert first.text.count(shared) == 1
        first.process.send_signal(signal.SIGTERM)
        first.ended(120)
        assert "stopped after" in first.text
    assert_ends_equal(config, tmp_path)
