"""Tokens a second out of a dataset larger than the page cache likes, memory, and what waits.

    python bench/loader_speed.py --peer PATH [--text FILE] [--gigabytes 10] [--repeats 3]

The text is repeated until its tokens have the size asked for, and prepared as bytes; the peer reads
the same shards' tokens in its own format. Each side makes batches of 12 x 1,024 in a process of its
own, first with nothing of the files in memory, then again. Its get_batch is taken from its script
as it is. Last, a small model trains on the dataset: what part of an iteration waits for its batch.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from common import OURS, PEER, Column

BATCH, CONTEXT = 12, 1024
SMALL = [
    "--family=llama", "--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=256",
    "--batch_size=8", "--gradient_accumulation_steps=1", "--max_iters=300", "--log_interval=1",
    "--eval_iters=1", "--eval_full=False", "--eval_interval=1000", "--device=cpu",
]  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--gigabytes", type=float, default=10, help="of tokens, 10**9 bytes each")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--measure", choices=("peer", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        peers = args.measure == "peer"
        batch = peer_batches(args.folder, args.peer) if peers else our_batches(args.folder)
        print(json.dumps(measured(batch, args.seconds)))
        return
    with common.workspace(args) as work:
        folder = work.folder / "data" / "large"
        prepared = prepare(work, folder, args.gigabytes)
        size = sum(path.stat().st_size for path in folder.glob("*.bin"))
        theirs = work.new("peer")
        for_peer(folder, theirs)

        def run(side: str, at: Path) -> Callable[[int], dict[str, Any]]:
            def one(number: int) -> dict[str, Any]:
                forget(at)
                command = [sys.executable, __file__, f"--measure={side}", f"--folder={at}",
                           f"--peer={work.peer}", f"--seconds={args.seconds}"]  # fmt: skip
                return json.loads(common.timed(command, work.folder).lines[-1][1])

            return one

        contenders = {PEER: run("peer", theirs), OURS: run("ours", folder)}
        runs = common.interleaved(contenders, args.repeats)
        waits = common.interleaved({OURS: lambda number: waiting(work, folder)}, args.repeats)
    columns = [
        Column("cold_tokens_per_s", "tokens/s, cold", ",.0f", better="more"),
        Column("warm_tokens_per_s", "tokens/s, warm", ",.0f", better="more"),
        Column("grown_mb", "grown by MB", ",.1f", better="less"),
        Column("resident_mb", "with mapped files", ",.0f"),
    ]
    tables = [
        common.comparison(runs, columns),
        common.comparison(waits, [
            Column("iteration_ms", "ms an iteration", ".2f"),
            Column("waiting_ms", "of them waiting", ".3f"),
            Column("waiting_share", "share", ".4f"),
        ]),
    ]  # fmt: skip
    notes = [
        f"{size / 1e9:.2f} GB of tokens, prepared in {prepared:.1f} s",
        "mapped files are the system's cache, which it takes back when it needs the memory",
    ]
    common.finish(args, runs=runs, tables=tables, notes=notes, waits=waits, bytes=size)


def prepare(work: common.Workspace, folder: Path, gigabytes: float) -> float:
    """Prepare a text whose tokens take that much; the seconds it took."""
    text, part = work.folder / "large.txt", work.text.read_bytes()
    with text.open("wb") as file:
        for _ in range(int(gigabytes * 1e9 / 2 / len(part)) + 1):  # a byte is a token of two bytes
            file.write(part)
    command = [sys.executable, "-m", "bardlet", "prepare", text, f"--out={folder}"]
    seconds = common.timed([*command, "--tokenizer=byte"], work.folder).seconds
    text.unlink()
    return seconds


def forget(folder: Path) -> None:
    """Let the system drop what it has of the dataset's files in memory."""
    for path in folder.glob("*.bin"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def for_peer(folder: Path, out: Path) -> None:
    """The training tokens in the one file that the peer reads, without headers."""
    from bardlet.data.dataset.stream import HEADER

    with (out / "train.bin").open("wb") as file:
        for shard in sorted(folder.glob("train-*.bin")):
            with shard.open("rb") as source:
                source.seek(HEADER.size)
                shutil.copyfileobj(source, file, 1 << 24)


def our_batches(folder: Path) -> Callable[[int], Any]:
    from bardlet.data.dataset.folder import Dataset
    from bardlet.data.dataset.loader import Prefetcher, batches_of

    options = {"block_size": CONTEXT, "batch_size": BATCH, "seed": common.SEED}
    return Prefetcher(batches_of(Dataset(folder).parts, **options)).batch  # as training has it


def peer_batches(folder: Path, peer: Path) -> Callable[[int], Any]:
    """The peer's get_batch, out of its script as it is."""
    import numpy as np
    import torch

    script = ast.parse((peer / "train.py").read_text(encoding="utf-8"))
    functions: list[ast.stmt] = [
        node for node in script.body
        if isinstance(node, ast.FunctionDef) and node.name == "get_batch"
    ]  # fmt: skip
    names: dict[str, Any] = {
        "np": np, "torch": torch, "os": os, "data_dir": str(folder), "device": "cpu",
        "device_type": "cpu", "block_size": CONTEXT, "batch_size": BATCH,
    }  # fmt: skip
    exec(compile(ast.Module(functions, []), str(peer / "train.py"), "exec"), names)
    return lambda it: names["get_batch"]("train")


def measured(batch: Callable[[int], Any], seconds: float) -> dict[str, Any]:
    """Tokens a second at first and with the same batches again, and what memory that took."""
    import torch

    torch.manual_seed(common.SEED)
    before = memory()["RssAnon"]
    cold, count = rate(batch, seconds, 1 << 60)
    torch.manual_seed(common.SEED)
    warm, _ = rate(batch, 1e9, count)
    after = memory()
    return {
        "cold_tokens_per_s": cold, "warm_tokens_per_s": warm,
        "grown_mb": (after["RssAnon"] - before) / 1e6, "resident_mb": sum(after.values()) / 1e6,
    }  # fmt: skip


def rate(batch: Callable[[int], Any], seconds: float, most: int) -> tuple[float, int]:
    """Tokens a second over `seconds` or `most` batches, and how many batches that were."""
    began, it = time.perf_counter(), 0
    while it < most and time.perf_counter() - began < seconds:
        idx, _ = batch(it)
        it += 1
    return it * idx.numel() / (time.perf_counter() - began), it


def memory() -> dict[str, int]:
    """Bytes of this process's own memory, and of the files it has mapped."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


def waiting(work: common.Workspace, folder: Path) -> dict[str, Any]:
    """What a small model's iterations take, and how long each waits for its batch."""
    forget(folder)
    out = work.new("run")
    command = [sys.executable, "-m", "bardlet", "train", f"--dataset={folder}", f"--out_dir={out}"]
    common.timed([*command, *SMALL, *work.ours_args], work.folder)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for line in lines if (entry := json.loads(line))["type"] == "iter"][10:]
    iteration, waits = (sum(entry[key] for entry in entries) for key in ("time_ms", "data_ms"))
    return {
        "iteration_ms": iteration / len(entries), "waiting_ms": waits / len(entries),
        "waiting_share": waits / iteration,
    }  # fmt: skip


if __name__ == "__main__":
    main()
