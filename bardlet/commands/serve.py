"""`bardlet serve`: models behind an API that OpenAI's clients speak."""

from __future__ import annotations

import functools
import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bardlet.commands.parser import Parser, add_draft, add_formats, parse
from bardlet.commands.settings import newest_run
from bardlet.errors import BardletError, UsageError
from bardlet.io.terminal import say

if TYPE_CHECKING:
    from bardlet.serve.engine import Engine

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


def run(parser: Parser, args: list[str]) -> int:
    add_options(parser)
    options = parse(parser, args)
    options.checkpoint = options.checkpoint or ("last" if options.follow else "best")
    key = options.api_key or os.environ.get("BARDLET_API_KEY", "")
    check(options, key)
    from bardlet.system.optional_deps import need

    uvicorn: Any = need("uvicorn", "serve", "bardlet serve")
    need("fastapi", "serve", "bardlet serve")
    if options.metrics:
        need("prometheus_client", "serve", "bardlet serve --metrics")
    from bardlet.serve.app import create
    from bardlet.serve.guard import Guard

    runs = [str(run) for run in options.runs] or [str(newest_run(say))]
    names = [Path(run).name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(f"two runs have one name: {', '.join(runs)}", "Rename a folder")
    folders = dict(zip(names, map(Path, runs), strict=True))
    models: dict[str, Callable[[], Engine]] = {
        name: functools.partial(opened, run, options) for name, run in zip(names, runs, strict=True)
    }
    sizes = {name: size_bytes(path, options.checkpoint) for name, path in folders.items()}
    app = create(models, max_tokens=options.max_tokens, sizes=sizes, metrics=options.metrics)
    engines = app.state.server.engines
    engines.load(names[0])  # a model that cannot be loaded ends the command
    hosts = [*LOOPBACK, options.host, *(getattr(options, "allow_host", None) or [])]
    guarded = Guard(
        app, hosts=hosts, key=key, origins=getattr(options, "allow_origin", None) or [],
        max_body=4 << 20,
    )  # fmt: skip
    config = uvicorn.Config(
        guarded, host=options.host, port=options.port, log_level="warning", lifespan="off",
        timeout_graceful_shutdown=10, server_header=False,
    )  # fmt: skip
    follower = engines_follower(engines, folders, options) if options.follow else None
    try:
        serve(uvicorn.Server(config), config, names)
    finally:
        if follower:
            follower.stop()
        engines.close()
    return 0


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.add_argument("runs", nargs="*", default=[], help="runs or models; else the newest run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument(
        "--api_key", default="",
        help="what clients must send; default: BARDLET_API_KEY of the environment, else none",
    )  # fmt: skip
    parser.add_argument(
        "--allow_host", action="append", help="a Host name beside loopback's, again for more"
    )
    parser.add_argument(
        "--allow_origin",
        action="append",
        help="an origin whose pages may ask (CORS), again for more",
    )
    parser.add_argument(
        "--unsafe_no_key", action="store_true", default=False,
        help="listen beyond loopback without a key",
    )  # fmt: skip
    parser.add_argument("--streams", type=int, default=64, help="texts written side by side")
    parser.add_argument("--queue", type=int, default=256, help="texts that may wait")
    parser.add_argument(
        "--max_tokens", type=int, default=100_000,
        help="tokens of one request's prompts, and new ones of its answers, at most",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", default="", help="best, last or iter-...; default best, with --follow last"
    )
    parser.add_argument(
        "--follow", action="store_true", default=False,
        help="answer from a newer checkpoint as soon as a run that trains on has saved one",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", action="store_true", default=False, help="answer /metrics, for Prometheus"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add_formats(parser)
    add_draft(parser)


def engines_follower(engines: Any, folders: dict[str, Path], options: Namespace) -> Any:
    """The thread that loads newer checkpoints of runs; UsageError for a folder that is no run."""
    from bardlet.run import run_folder
    from bardlet.serve.engines import Follower

    for path in folders.values():
        if not run_folder.is_run(path):
            raise UsageError(f"--follow needs a run, and {path} is not one", "Leave --follow out")
    follower = Follower(engines, folders, options.checkpoint, say)
    follower.start()
    return follower


def size_bytes(path: Path, checkpoint: str) -> float:
    """About what a run's model needs in memory; 0 for another source."""
    from bardlet.run import run_folder
    from bardlet.serve.engines import MEMORY

    try:
        return MEMORY * (run_folder.find(path, checkpoint) / "model.safetensors").stat().st_size
    except (BardletError, OSError):
        return 0


def serve(server: Any, config: Any, names: list[str]) -> None:
    """Bind, say where, and answer until a signal comes."""
    try:
        socket = config.bind_socket()
    except SystemExit:  # uvicorn's answer to an address that cannot be bound
        raise UsageError(
            f"cannot listen on {config.host}, port {config.port}", "Name another with --port"
        ) from None
    socket.listen(config.backlog)  # so that a client may connect as soon as it reads the line
    port = socket.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    where = f"http://{host}:{port}"
    say(f"serving {', '.join(names)} at {where}/v1, a playground at {where}/; Ctrl-C ends it")
    server.run(sockets=[socket])


def opened(run: str, options: Namespace) -> Engine:
    """A run's engine."""
    from bardlet.serve.engine import Engine
    from bardlet.serve.model import load

    model = load(
        run, checkpoint=options.checkpoint, device=options.device, dtype=options.dtype,
        weights=options.weights, cache=options.cache, draft=options.draft,
    )  # fmt: skip
    return Engine(model, options.streams, options.queue)


def check(options: Namespace, key: str) -> None:
    """Raise UsageError for what cannot be served."""
    if not 0 <= options.port < 65536:
        raise UsageError(f"port={options.port} must be from 0 to 65535")
    for name, minimum in (("streams", 1), ("queue", 0), ("max_tokens", 1)):
        if getattr(options, name) < minimum:
            raise UsageError(f"{name}={getattr(options, name)} must be at least {minimum}")
    loopback = options.host in LOOPBACK or re.fullmatch(r"127(\.\d+){3}", options.host)
    if not loopback and not key and not options.unsafe_no_key:
        raise UsageError(
            f"host={options.host} is beyond this machine, and there is no API key",
            "Set BARDLET_API_KEY, or --unsafe_no_key where all who reach it may ask",
        )
