"""launch-check: what processes find out together, and the line for each of the usual faults."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from support import as_ranks, free_port

from bardlet import cli
from bardlet.system import faults, launch_check, network
from bardlet.system.distributed import here
from bardlet.system.faults import Facts
from bardlet.system.network import Probe

ONE = Facts(rank=0, host="a", versions={"torch": "2.9"}, device="H100", free_bytes=80e9,
            own_address="10.0.0.1", interfaces={"lo": "127.0.0.1", "eth0": "10.0.0.1"},
            infiniband=["mlx5_0"])  # fmt: skip
TWO = dataclasses.replace(ONE, rank=1, host="b", own_address="10.0.0.2")


def small(patch: pytest.MonkeyPatch) -> None:
    for name, value in {"MEGABYTES": {"cpu": 1}, "ROUNDS": 1, "PINGS": 1, "SEEN_S": 0.3}.items():
        patch.setattr(launch_check, name, value)


def checked(folder: Path, out: str = "out") -> dict[str, Any]:
    """This process's report, also in a file."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        group = here()
        report = launch_check.check(
            group, launch_check.Machine(device=launch_check.torch.device("cpu"),
                                        dtype=launch_check.torch.float32, why=""),
            folder / out, 60.0, lambda fault: None,
        )  # fmt: skip
        (folder / f"{group.rank}.json").write_text(json.dumps(report), encoding="utf-8")
        return report


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in (0, 1)]


@pytest.mark.skipif(not hasattr(launch_check.os, "fork"), reason="processes are forked")
def test_processes_measure_together(tmp_path: Path) -> None:
    as_ranks(2, lambda: checked(tmp_path))
    first, second = reports(tmp_path)
    assert first == second
    assert first["ok"] and first["faults"] == [] and first["backend"] == "gloo"
    assert first["all_reduce"]["sum"] == 3 and first["all_reduce"]["bytes"] == 2**20
    assert first["all_reduce"]["gb_per_s"] > 0 and first["all_reduce"]["latency_ms"] > 0
    assert [one["rank"] for one in first["ranks"]] == [0, 1]
    assert set(first["ranks"][0]["versions"]) >= {"bardlet", "python", "torch", "core"}
    assert list((tmp_path / "out").iterdir()) == [], "nothing is left behind"


@pytest.mark.skipif(not hasattr(launch_check.os, "fork"), reason="processes are forked")
def test_what_differs_between_processes_is_named(tmp_path: Path) -> None:
    """Process 1 has another torch, a clock an hour ahead, and a disk of its own."""

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            if here().rank:
                now = time.time
                patch.setattr(launch_check.time, "time", lambda: now() + 3600)
                patch.setattr(launch_check, "all_versions", lambda: {"torch": "1.0"})
                checked(tmp_path, "other")
            else:
                patch.setattr(launch_check, "all_versions", lambda: {"torch": "2.0"})
                checked(tmp_path)

    as_ranks(2, work)
    first, second = reports(tmp_path)
    assert first["ranks"] == second["ranks"] and not first["ok"] and not second["ok"]
    names = [fault["name"] for fault in first["faults"]]
    assert names == [fault["name"] for fault in second["faults"]]
    assert names == ["mismatched versions", "clocks differ", "disk not shared"]
    versions, clock, disk = (fault["message"] for fault in first["faults"])
    assert "torch is 2.0 in most processes, but 1.0 in process 1 on" in versions
    assert "s ahead" in clock and "3,6" in clock
    assert "process 1 on" in disk and "does not see in" in disk


def test_a_process_alone_says_how_to_start_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_check, "SEEN_S", 0.1)
    command = ["launch-check", f"--out_dir={tmp_path / 'out'}", "--device=cpu"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "written by one, seen by all" in printed.out and "all is well" in printed.out
    assert "torchrun --nnodes=2" in printed.err
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert cli.main([*command, "--json", f"--out_dir={tmp_path / 'file' / 'out'}"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and report["faults"][0]["name"] == "disk not written"
    assert "cannot write into" in report["faults"][0]["message"]
    assert cli.main(["launch-check", "--timeout=0"]) == 2


def test_a_process_that_meets_nobody_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    for name, value in {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2",
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    command = ["launch-check", f"--out_dir={tmp_path}", "--device=cpu", "--timeout=1"]
    assert cli.main(command) == 1
    text = capsys.readouterr().out
    assert f"FAULT      nobody listens: 127.0.0.1:{port} refuses process 1 on" in text
    assert "Start the launcher on the first node too" in text
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch9")
    if network.interfaces():
        assert cli.main(command) == 1
        assert "has no interface 'nosuch9', which GLOO_SOCKET_IFNAME names" in (
            capsys.readouterr().out
        )


def test_a_port_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.probe("127.0.0.1", port, 5.0).outcome == "open"
    assert network.probe("127.0.0.1", free_port(), 5.0).outcome == "refused"

    def fails(error: OSError) -> str:
        def connect(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(socket, "create_connection", connect)
        return network.probe("node7", 1, 0.1).outcome

    assert fails(socket.gaierror(-2, "Name or service not known")) == "unknown name"
    assert fails(TimeoutError("timed out")) == "no answer"
    assert fails(OSError(113, "No route to host")) == "no answer"


@pytest.mark.parametrize(
    ("probe", "name", "advice"),
    [
        (Probe(outcome="unknown name"), "unknown name", "--rdzv_endpoint=10.0.0.1:29500"),
        (Probe(outcome="refused"), "nobody listens", "Start the launcher on the first node"),
        (Probe(outcome="no answer", detail="timed out"), "blocked port", "Open the port in the"),
    ],
)
def test_a_port_that_does_not_answer_is_explained(probe: Probe, name: str, advice: str) -> None:
    (fault,) = faults.unreachable("node7", 29500, probe, "process 1 on b")
    assert fault.name == name and advice in fault.advice and "node7" in fault.message
    assert "\n" not in str(fault)
    assert faults.unreachable("node7", 29500, Probe(outcome="open"), "process 1 on b") == []


@pytest.mark.parametrize(
    ("error", "name", "advice"),
    [
        ("The server socket has failed to listen. EADDRINUSE: address already in use",
         "port taken", "--master_port=29501"),
        ("ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device",
         "too few GPUs", "--nproc_per_node"),
        ("CUDA error: invalid device ordinal", "too few GPUs", "nvidia-smi -L"),
        ("Unable to find address for: eth9", "wrong interface", "ip -br a"),
        ("Bootstrap : no socket interface found", "wrong interface", "NCCL_SOCKET_IFNAME"),
        ("Gloo connectFullMesh failed with timed out connecting: SO_ERROR: Connection refused, "
         "remote=[127.0.1.1]:41234", "wrong interface", "GLOO_SOCKET_IFNAME"),
        ("Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
         "processes missing", "same --nnodes"),
        ("Timed out waiting 60000ms for recv operation to complete", "processes missing",
         "all ports"),
        ("connect [10.0.0.2]:5 No route to host", "blocked port", "firewall"),
        ("ncclSystemError: unhandled", "no group", "NCCL_DEBUG=INFO"),
        ("", "no group", "NCCL_DEBUG=INFO"),
    ],
)  # fmt: skip
def test_a_failed_join_is_explained(error: str, name: str, advice: str) -> None:
    fault = faults.failed_join(error, "process 1 on b", 2)
    assert fault.name == name and advice in fault.advice
    assert "\n" not in str(fault)


def test_faults_of_facts_are_explained() -> None:
    assert faults.wrong_interface([ONE, TWO]) == []
    local = dataclasses.replace(TWO, own_address="127.0.1.1")
    (fault,) = faults.wrong_interface([ONE, local])
    assert fault.message.startswith("the name of b means 127.0.1.1 there")
    assert faults.wrong_interface([dataclasses.replace(local, host="a"), ONE]) == []
    known = dataclasses.replace(local, chosen={"GLOO_SOCKET_IFNAME": "eth0"})
    assert faults.wrong_interface([ONE, known]) == []
    wrong = dataclasses.replace(TWO, chosen={"NCCL_SOCKET_IFNAME": "ib0"})
    (fault,) = faults.wrong_interface([wrong, dataclasses.replace(wrong, rank=2)])
    assert "has no interface 'ib0', which NCCL_SOCKET_IFNAME names" in fault.message
    assert fault.advice == "Set it to one of lo (127.0.0.1), eth0 (10.0.0.1)"
    except_lo = dataclasses.replace(TWO, chosen={"NCCL_SOCKET_IFNAME": "^lo,docker"})
    assert faults.wrong_interface([ONE, except_lo]) == []

    used = dataclasses.replace(TWO, free_bytes=8e9)
    (fault,) = faults.little_memory([ONE, dataclasses.replace(ONE, rank=2), used])
    assert fault.message == "process 1 on b has 8.0 GB free on H100 where others have 80.0"
    assert faults.little_memory([ONE, TWO]) == []

    behind = dataclasses.replace(TWO, clock_s=-2.0)
    (fault,) = faults.different_clocks([ONE, behind, dataclasses.replace(behind, rank=3)])
    assert fault.message == "the clock of b is 2.0 s behind" and "chrony" in fault.advice
    assert faults.different_clocks([ONE, dataclasses.replace(TWO, clock_s=0.5)]) == []

    assert faults.mismatched_versions([ONE, TWO]) == []
    assert faults.wrong_sum(3.0, 3.0) == [] and faults.wrong_sum(2.0, 3.0)[0].name == "wrong sum"


@pytest.mark.parametrize(
    ("one", "two", "gb_per_s", "name"),
    [
        (ONE, TWO, 40.0, None),
        (ONE, TWO, 2.0, "slow network"),
        (ONE, dataclasses.replace(TWO, infiniband=[]), 2.0, "no InfiniBand"),
        (ONE, dataclasses.replace(TWO, host="a"), 5.0, "slow links"),
        (ONE, dataclasses.replace(TWO, host="a"), 200.0, None),
    ],
)
def test_a_slow_exchange_is_explained(
    one: Facts, two: Facts, gb_per_s: float, name: str | None
) -> None:
    found = faults.slow_exchange([one, two], "nccl", gb_per_s)
    assert [fault.name for fault in found] == [name] * (name is not None)
    assert faults.slow_exchange([one, two], "gloo", gb_per_s) == []
