"""`bardlet plan`: what a run takes, here or on GPUs elsewhere. Exits 1 where it does not fit."""

from __future__ import annotations

import json
from typing import Any

from bardlet.commands.parser import Parser, split_unknown
from bardlet.commands.train import parse_timed, spelt_out
from bardlet.config import BUILTIN_INIT, TrainConfig
from bardlet.errors import UsageError
from bardlet.io.terminal import say

# defaults of a plan for other machines; the network is that of a DGX H100: a ConnectX-7 for each
ELSEWHERE = {"gpu": "", "nodes": 1, "gpus_per_node": 8, "network": 400.0, "price": 0.0}


def run(parser: Parser, args: list[str]) -> int:
    group = parser.add_argument_group("other machines, by published rates (docs/scaling.md)")
    group.add_argument("--gpu", help="a100, a100-40gb, h100, h200, b200, rtx4090; default: here")
    group.add_argument("--nodes", type=int, help="machines (default 1)")
    group.add_argument("--gpus_per_node", type=int, help="GPUs in each (default 8)")
    group.add_argument("--network", type=float, help="Gbit/s of each GPU to others (default 400)")
    group.add_argument("--price", type=float, help="of a GPU-hour, in any currency; default: none")
    if any(arg.partition("=")[0].removeprefix("--") in ELSEWHERE for arg in args):
        args = for_gpu(parser, args)
    config, rest = parse_timed(parser, args, 3.0, "of each trial of the run")
    if ELSEWHERE.keys() & rest.keys():
        return elsewhere(config, {**ELSEWHERE, **rest})
    from bardlet.planning.description import describe
    from bardlet.planning.estimate import fits, plan

    shape = None
    if config.init_from not in BUILTIN_INIT:
        from bardlet.interop.pretrained_init import shape_of

        shape = shape_of(config.init_from)
    say("measuring some iterations of this run")
    result = plan(config, rest["seconds"], shape)
    print(json.dumps(result) if rest["json"] else describe(config, result))
    return 0 if fits(result) else 1


def for_gpu(parser: Parser, args: list[str]) -> list[str]:
    """The arguments of a plan for other machines, so that presets give their options for a GPU.

    UsageError where no run is named: one is sized by trials on the machine itself.
    """
    if "-h" in args or "--help" in args:
        return args
    known, options = split_unknown(parser, spelt_out(args))
    _, bases = parser.parse_known_args(known)
    if not bases and not options.keys() & {"resume", "out_dir"}:
        raise UsageError(
            "a plan for other machines needs a run: a preset, a file or --out_dir",
            "Such as: bardlet plan gpt2-124m --gpu h100",
        )
    return args if "device" in options else [*args, "--device=cuda"]


def elsewhere(config: TrainConfig, options: dict[str, Any]) -> int:
    """Print what the run takes on the GPUs of the options."""
    if not options["gpu"]:
        raise UsageError("a plan for other machines needs their --gpu", "Such as: --gpu h100")
    from bardlet.planning import cluster

    machines = cluster.cluster_of(**{name: options[name] for name in ELSEWHERE})
    result = cluster.plan(config, machines)
    print(json.dumps(result) if options["json"] else cluster.describe(result, options["price"]))
    return 0
