"""Seconds to a validation loss: nanoGPT with its own recipe, and a preset of bardlet.

    python bench/time_to_loss.py --peer PATH --target 1.88 [--tuned] [--preset NAME]
    python bench/time_to_loss.py --peer PATH --target 1.47 [--peer_iters 5 | --full]

Two clocks. Total: ours from the start of a fresh process that prepares the raw text, trains and
saves, to its exit; the peer's train.py from start to exit, its data prepared beforehand. Loop:
optimisation only, evaluations left out. All runs of ours have the preset's number of iterations,
and the weights at its end are scored: the whole validation split in windows of the peer's length,
in float32. A target is met where every seed meets it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import common
import ngram
from common import OURS, PEER, PEER_CPU, PEER_GPU, SEED, Column, Workspace

if TYPE_CHECKING:
    from bardlet.model import GPT


@dataclass(frozen=True)
class Target:
    """A loss, what the peer takes to get there, and the preset of ours that does."""

    loss: float
    windows: int  # the peer's context
    preset: str
    peer: list[str]
    tuned: list[str] = field(default_factory=list)  # over `peer`: flags only, the same model


TARGETS = {
    # the peer's documented loss; its own estimate, of the best of nine evaluations
    "1.88": Target(
        1.88, 64, "shakespeare-char-quick", PEER_CPU,
        ["--learning_rate=4e-3", "--min_lr=0.0", "--max_iters=1200", "--lr_decay_iters=1200",
         "--eval_interval=1200", "--eval_iters=1"],
    ),
    # the first 2,000 iterations of its config, where its best loss is
    "1.47": Target(
        1.4697, 256, "shakespeare-char", [*PEER_GPU, "--max_iters=2000", "--eval_iters=20"]
    ),
}  # fmt: skip
PEER_ITERATIONS, EVAL_INTERVAL = 2000, 250

# prepares and trains in one process, as `bardlet demo` does
FROM_TEXT = """
import json, sys
from bardlet.cli import main
sys.exit(main(json.loads(sys.argv[1])) or main(json.loads(sys.argv[2])))
"""


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--target", choices=TARGETS, required=True, help="validation loss")
    parser.add_argument("--preset", help="of ours; default: the target's")
    parser.add_argument(
        "--tuned", nargs="?", const="", metavar="OPTIONS",
        help="run the peer with better options as well; default: this file's",
    )  # fmt: skip
    parser.add_argument("--peer_iters", type=int, default=5, help="iterations timed for 1.47")
    parser.add_argument("--full", action="store_true", help="run the peer whole for 1.47: hours")
    parser.add_argument(
        "--windows", type=int, help="tokens of context to score; default: the peer's"
    )
    parser.add_argument("--cold", action="store_true", help="nothing compiled is kept between runs")
    args = parser.parse_args()
    target = TARGETS[args.target]
    if args.windows:
        target = dataclasses.replace(target, windows=args.windows)
    tuned = shlex.split(args.tuned or "") or target.tuned
    if args.tuned is not None and not tuned:
        parser.error(f"--tuned has no options for {args.target}: give them, --tuned='--name=value'")
    notes = ["nanoGPT's total leaves out the preparation of its data, bardlet's has it in."]
    with common.workspace(args) as work:
        contenders = {}
        if args.target == "1.47" and not args.full:
            contenders[f"{PEER}, projected"] = projected_peer(work, args.peer_iters)
            notes.append(
                f"{PEER}, projected: {PEER_ITERATIONS:,} iterations at the median of "
                f"{args.peer_iters - 1} timed ones, start and evaluations left out of both "
                "clocks; its README's loss on one A100, 1.4697, is cited and not measured."
            )
        else:
            contenders[PEER] = whole_peer(work, target, target.peer, args.cold)
        if args.tuned is not None:
            notes.append(f"{PEER}, tuned: {shlex.join(tuned)}")
            contenders[f"{PEER}, tuned"] = whole_peer(work, target, target.peer + tuned, args.cold)
        contenders[OURS] = ours(work, target, args)
        runs = common.interleaved(contenders, args.repeats)
        counted = ngram.count(work.dataset)
    columns = [
        Column("total_s", "total s", better="less"), Column("loop_s", "loop s", better="less"),
        Column("val_loss", "val loss", ".4f"), Column("own_val_loss", "its own best", ".4f"),
        Column("met", f"<= {target.loss}"),
        Column("parameters", "parameters", ",.0f"), Column("iterations", "iterations", ",.0f"),
    ]  # fmt: skip
    tables = [common.comparison(runs, columns), ngram.table(counted)]
    common.finish(args, runs=runs, tables=tables, notes=notes, counting=counted)


def whole_peer(
    work: Workspace, target: Target, options: list[str], cold: bool
) -> Callable[[int], dict[str, Any]]:
    """The peer trained to its end; its saved checkpoint scored."""
    last = dict(option.removeprefix("--").split("=") for option in options)  # later ones win
    interval = int(last.get("eval_interval", EVAL_INTERVAL))

    def run(number: int) -> dict[str, Any]:
        out = work.new("peer")
        ran = work.train_peer(out, *options, shift=number, **fresh_caches(work, cold))
        model = common.peer_model(out)
        own = [re.match(r"step \d+: .* val loss ([\d.]+)", line) for _, line in ran.lines]
        return {
            "total_s": ran.seconds,
            "loop_s": common.loop_seconds(ran.iterations, interval),
            **scored(work, target, model),
            "own_val_loss": min(float(m[1]) for m in own if m),
            "iterations": len(ran.iterations),
        }

    return run


def projected_peer(work: Workspace, count: int) -> Callable[[int], dict[str, Any]]:
    """The peer's config timed over `count` iterations, the first one dropped."""
    if count < 2:
        raise SystemExit("--peer_iters must be at least 2, the first iteration is dropped")

    def run(number: int) -> dict[str, Any]:
        options = [*PEER_GPU, *common.PEER_NO_EVAL, f"--max_iters={count - 1}"]
        ran = work.train_peer(work.new("peer"), *options, shift=number)
        ms = common.per_iteration(ran.iterations, drop=1)
        seconds = common.project(ms, PEER_ITERATIONS)
        times = {"timed_ms": [ms for _, ms in ran.iterations[1:]], "ms_per_iteration": ms}
        return {"total_s": seconds, "loop_s": seconds, **times, "iterations": PEER_ITERATIONS}

    return run


def ours(
    work: Workspace, target: Target, args: argparse.Namespace
) -> Callable[[int], dict[str, Any]]:
    """A preset of ours from the raw text to saved weights, in one fresh process."""

    def run(number: int) -> dict[str, Any]:
        folder = work.new("ours")
        out, data = folder / "out", folder / "data"
        prepare = ["prepare", "tinyshakespeare", f"--file={work.text}", f"--out={data}"]
        train = ["train", args.preset or target.preset, f"--dataset={data}", f"--out_dir={out}"]
        train += ["--device=cpu", f"--seed={SEED + number}", *work.ours_args]
        command = [sys.executable, "-c", FROM_TEXT, json.dumps(prepare), json.dumps(train)]
        ran = common.timed(command, work.folder, **fresh_caches(work, args.cold))
        options = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
        return {
            "total_s": ran.seconds,
            "loop_s": common.our_train_seconds(ran),
            **scored(work, target, common.our_model(out)),
            "iterations": options["max_iters"],
        }

    return run


def scored(work: Workspace, target: Target, model: GPT) -> dict[str, Any]:
    """A model's loss, whether it meets the target, and its size."""
    loss = work.score(model, target.windows)
    return {"val_loss": loss, "met": loss <= target.loss, "parameters": model.num_params()}


def fresh_caches(work: Workspace, cold: bool) -> dict[str, str]:
    """The environment that hides what earlier runs have compiled, where that is asked for."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")
    return {name: str(work.new("cache")) for name in names} if cold else {}


if __name__ == "__main__":
    main()
