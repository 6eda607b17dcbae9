"""Many clients at one server: tokens a second and the first token's delay, beside llama.cpp's.

    python bench/serve_load.py [--shape 10.7M] [--clients 64] [--repeats 3] [--minutes 10]

Streams of POST /v1/completions at temperature 0.8, the 200 likeliest, from a short prompt, each
over a connection of its own; a model of random weights, exported for llama.cpp. Both servers run by
themselves in turn, with every core and the same options; loading does not count. The client shares
the cores and says how much of one it took. With --minutes clients ask on for so long, of which many
vanish at any moment: errors that are not theirs, memory, and what is left in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from common import OURS, Column
from sample_formats import FORMATS, LLAMA_CPP
from sample_speed import SHAPES, made

PROMPT = "TO BE"  # whose letters the model of sample_speed.py has
LLAMA_SERVER = """
import os, sys, time, xllamacpp
path, context, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = path, context * clients, clients
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
params.n_threads_http = clients + 2
params.fit_params, params.verbosity = False, 1
server = xllamacpp.Server(params)
print("serving at " + server.listening_address, file=sys.stderr, flush=True)
sys.stdin.read()
os._exit(0)
"""


@dataclass(frozen=True)
class Answer:
    """What a client got: tokens, and the seconds to the first of them; none where it vanished."""

    tokens: int
    first_s: float
    error: str = ""


def main() -> None:
    parser = common.arguments(__doc__, peer=False, trains=False)
    parser.add_argument("--shape", choices=SHAPES, default="10.7M")
    parser.add_argument("--clients", type=int, default=64, help="at once")
    parser.add_argument("--requests", type=int, default=4, help="of each client, one by one")
    parser.add_argument("--new_tokens", type=int, default=200, help="of each answer")
    parser.add_argument("--weights", choices=FORMATS, default="bfloat16", help="of both servers")
    parser.add_argument("--cache", default="auto", help="of ours: format of keys and values")
    parser.add_argument("--alone", action="store_true", help="without llama.cpp (extra gguf)")
    parser.add_argument("--minutes", type=float, default=0, help="of clients that vanish")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    notes, columns = [], [
        Column("tokens_per_s", "tokens/s", ",.0f", better="more"),
        Column("first_p50_ms", "first token, p50 ms", ",.0f"),
        Column("first_p99_ms", "p99 ms", ",.0f"),
        Column("client_cpu", "client, cores", ".2f"),
    ]  # fmt: skip
    with common.workspace(args) as work:
        run = made(work, shape)
        ours = [sys.executable, "-m", "bardlet", "serve", run, "--port=0", "--device=cpu",
                f"--streams={args.clients}", f"--weights={args.weights}",
                f"--cache={args.cache}"]  # fmt: skip
        sides: list[tuple[str, list[Any], dict[str, Any]]] = [(OURS, ours, {})]
        if not args.alone:
            exported = work.new("exported") / "gguf"
            common.timed([sys.executable, "-m", "bardlet", "export", run, exported, "--format=gguf",
                          f"--dtype={FORMATS[args.weights][2]}"], work.folder)  # fmt: skip
            theirs = [sys.executable, "-c", LLAMA_SERVER, next(exported.glob("*.gguf")),
                      shape.block_size, args.clients]  # fmt: skip
            sides.append((LLAMA_CPP, theirs, {"ignore_eos": True, "cache_prompt": False}))
        runs = common.interleaved(
            {
                f"{who}, {clients} at once": measured(command, args, clients, extra)
                for who, command, extra in sides
                for clients in (1, args.clients)
            },
            args.repeats, case=f"{args.shape}, {args.weights}",
        )  # fmt: skip
        if args.minutes:
            with served(ours) as server:
                notes = asyncio.run(vanishing(server, args))
    common.finish(args, runs=runs, tables=[common.comparison(runs, columns)], notes=notes)


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen[str]

    @property
    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(match[1]) / 1000 if match else 0.0

    @property
    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=30) as reply:
            return json.load(reply)


@contextlib.contextmanager
def served(command: list[Any]) -> Iterator[Server]:
    """The server that a command starts, once it says where it listens."""
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if match := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                yield Server(int(match[1]), process)
                return
        raise SystemExit(f"{command[:5]} did not begin to serve")
    finally:
        process.terminate()
        with process:
            process.stderr.read()


def measured(
    command: list[Any], args: Any, clients: int, extra: dict[str, Any]
) -> Callable[[int], dict[str, Any]]:
    """Tokens a second of all clients together, and what the first token took."""

    def measure(number: int) -> dict[str, Any]:
        with served(command) as server:
            asyncio.run(together(server, args, 1, 1, number, extra))  # what is done once
            cpu, began = cpu_s(), time.perf_counter()
            answers = asyncio.run(together(server, args, clients, args.requests, number, extra))
            took = time.perf_counter() - began
            cpu = cpu_s() - cpu
        if errors := [answer.error for answer in answers if answer.error]:
            raise SystemExit(f"{len(errors)} of {len(answers)} failed: {errors[0]}")
        delays = sorted(answer.first_s * 1000 for answer in answers)
        return {
            "tokens_per_s": sum(answer.tokens for answer in answers) / took,
            "first_p50_ms": statistics.median(delays),
            "first_p99_ms": delays[min(len(delays) - 1, int(0.99 * len(delays)))],
            "client_cpu": cpu / took,
        }

    return measure


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def together(
    server: Server, args: Any, clients: int, requests: int, number: int, extra: dict[str, Any]
) -> list[Answer]:
    """What clients get that each ask several times, one after the other."""

    async def client(i: int) -> list[Answer]:
        first = common.SEED + number * 10_000 + i * requests
        return [await ask(server, args, first + j, extra) for j in range(requests)]

    return [one for answers in await asyncio.gather(*map(client, range(clients)))
            for one in answers]  # fmt: skip


async def ask(
    server: Server, args: Any, seed: int, extra: dict[str, Any], *, patience: float = 1e9,
    stream: bool = True,
) -> Answer:  # fmt: skip
    """Ask once, and read to the end or for as many seconds as `patience` lasts."""
    body = {
        "prompt": PROMPT, "max_tokens": args.new_tokens, "temperature": 0.8, "top_k": 200,
        "top_p": 1.0, "min_p": 0.0, "seed": seed, "stream": stream, **extra,
    }  # fmt: skip
    if stream:
        body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    began, first, received = time.perf_counter(), 0.0, bytearray()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head.encode() + data)
        async with asyncio.timeout(patience):
            while part := await reader.read(1 << 16):
                received += part
                if not first and (not stream or b"data: {" in received):
                    first = time.perf_counter() - began
    except TimeoutError:
        return Answer(0, first)
    except OSError as error:
        return Answer(0, first, str(error))
    finally:
        writer.transport.abort()
    numbers = re.findall(rb'"completion_tokens": ?(\d+)', bytes(received))
    if not received.startswith(b"HTTP/1.1 200") or not numbers:
        return Answer(0, first, received[:300].decode("utf-8", "replace"))
    return Answer(int(numbers[-1]), first)


async def vanishing(server: Server, args: Any) -> list[str]:
    """Let clients ask for a time, of which two in three vanish at any moment; say what came."""
    end = time.monotonic() + 60 * args.minutes
    answers: list[Answer] = []
    memory: list[float] = []

    async def client(i: int) -> None:
        chance = random.Random(i)
        while time.monotonic() < end:
            patience = chance.choice([1e9, 0.3 * chance.random(), 3 * chance.random()])
            answers.append(await ask(
                server, args, chance.randrange(1 << 31), {}, patience=patience,
                stream=chance.random() < 0.7,
            ))  # fmt: skip

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(min(5.0, 6 * args.minutes))
            memory.append(server.memory_mb)

    await asyncio.gather(watch(), *map(client, range(args.clients)))
    await asyncio.sleep(1)
    errors = [answer.error for answer in answers if answer.error]
    whole = sum(answer.tokens > 0 for answer in answers)
    return [
        f"{args.minutes:g} minutes of {args.clients} clients: {len(answers):,} requests, {whole:,} "
        f"answered whole, {len(answers) - whole - len(errors):,} left by their clients, "
        f"{len(errors)} errors" + (f" ({errors[0]})" if errors else ""),
        "memory of the server, MB: " + ", ".join(
            f"{memory[i * (len(memory) - 1) // 10]:,.0f}" for i in range(11)
        ),
        f"at the end: {json.dumps(server.health)}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
