"""`bardlet launch-check`: whether processes of several GPUs or machines can train together."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from bardlet.commands.parser import Parser, parse
from bardlet.errors import UsageError
from bardlet.io.terminal import say

HOW = """to check several, start it as training is started:
  one machine:  torchrun --standalone --nproc_per_node=gpu -m bardlet launch-check
  two machines: torchrun --nnodes=2 --nproc_per_node=gpu --rdzv_backend=c10d \\
                  --rdzv_endpoint=FIRST_MACHINE:29500 -m bardlet launch-check   (on both)"""


def run(parser: Parser, args: list[str]) -> int:
    parser.add_argument(
        "--out_dir", type=Path, default=Path("out"), help="folder that all nodes must see"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds to wait for the other processes"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--json", action="store_true", default=False, help="machine-readable")
    parser.epilog = "exit code: 0 where all is well, 1 with faults"
    parsed = parse(parser, args)
    if not 1 <= parsed.timeout <= 3600:
        raise UsageError(f"timeout={parsed.timeout} must be from 1 to 3600 seconds")
    from bardlet.system import device
    from bardlet.system.distributed import here
    from bardlet.system.faults import Fault
    from bardlet.system.launch_check import check

    group = here()

    def abandon(fault: Fault) -> None:
        say(f"FAULT  {fault}")
        sys.stderr.flush()
        os._exit(1)

    machine = device.choose(parsed.device, local_rank=group.local_rank)
    report = check(group, machine, parsed.out_dir, parsed.timeout, abandon)
    alone = len(report["ranks"]) == 1
    if group.main or alone:  # one that met no other speaks for itself
        print(json.dumps(report) if parsed.json else "\n".join(describe(report)), flush=True)
        if group.world_size == 1 and not parsed.json:
            say(HOW)
    return 0 if report["ok"] else 1


def describe(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    ranks, exchange = report["ranks"], report["all_reduce"]
    first = ranks[0]
    lines = [f"processes  {report['processes']} on {', '.join(report['hosts'])}"]
    lines.append("versions   " + ", ".join(f"{n} {v}" for n, v in first["versions"].items()))
    free = [one["free_bytes"] / 1e9 for one in ranks]
    between = f"{min(free):,.1f}" if len(free) == 1 else f"{min(free):,.1f} to {max(free):,.1f}"
    lines.append(
        f"memory     {between} GB free of {', '.join(sorted({r['device'] for r in ranks}))}"
    )
    cards = first["infiniband"]
    lines.append(
        f"network    {first['address'] or 'none'}, InfiniBand {', '.join(cards) or 'none'}"
    )
    if exchange:
        clocks = max(abs(one["clock_s"]) for one in ranks)
        lines.append(
            f"exchange   {report['backend']}: {exchange['gb_per_s']:,.2f} GB/s for "
            f"{exchange['bytes'] / 2**20:,.0f} MiB, {exchange['latency_ms']:.2f} ms for a number"
        )
        lines.append(f"clocks     {clocks:.2f} s apart")
    if not any(one["disk"] for one in ranks) and report["ok"]:
        lines.append("disk       written by one, seen by all")
    for fault in report["faults"]:
        lines.append(f"FAULT      {fault['name']}: {fault['message']}. {fault['advice']}")
    count = len(report["faults"])
    return [*lines, "all is well" if report["ok"] else f"{count} fault{'s' * (count > 1)}"]
