"""Do presets learn the same by every way there is here? Whole runs, taking turns, scored alike.

    python bench/ways.py [--text FILE] [--presets demo shakespeare-char-quick] [--max_iters N]

The ways are the compiled core and torch, each in bfloat16 and float32, and a GPU where there is
one. The final weights are scored on the whole validation split in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import common
from common import SEED, Column, Workspace

PRESETS = ("demo", "shakespeare-char-quick")


def ways() -> dict[str, tuple[str, dict[str, str]]]:
    """The ways by name: dtype and device as options, and the environment."""
    from bardlet import native
    from bardlet.system import device

    ways = {}
    for dtype in ("bfloat16", "float32"):
        if native.library() is not None:
            ways[f"core, {dtype}"] = (f"--device=cpu --dtype={dtype}", {})
        ways[f"torch, {dtype}"] = (f"--device=cpu --dtype={dtype}", {"BARDLET_CORE": "0"})
        if device.accelerator() == "cuda":
            ways[f"GPU, {dtype}"] = (f"--device=cuda --dtype={dtype}", {})
    return ways


def trained(
    work: Workspace, preset: str, options: list[str], env: dict[str, str]
) -> Callable[[int], dict[str, Any]]:
    """A preset trained one way to its end, and scored."""

    def run(number: int) -> dict[str, Any]:
        out = work.new("ours")
        ran = work.train_ours(preset, out, *options, f"--seed={SEED + number}", **env)
        loss = work.score(common.our_model(out))
        return {"val_loss": loss, "seconds": common.our_train_seconds(ran)}

    return run


def main() -> None:
    parser = common.arguments(__doc__, peer=False)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--max_iters", type=int, help="of every run; default: the preset's")
    args = parser.parse_args()
    length = [f"--max_iters={args.max_iters}"] if args.max_iters else []
    runs, tables = [], []
    with common.workspace(args) as work:
        for preset in args.presets:
            contenders = {
                name: trained(work, preset, [*options.split(), *length], env)
                for name, (options, env) in ways().items()
            }
            of_preset = common.interleaved(contenders, args.repeats, case=preset)
            columns = [Column("val_loss", "val loss", ".4f"), Column("seconds", "seconds")]
            tables.append(common.comparison(of_preset, columns))
            runs += of_preset
    common.finish(args, runs=runs, tables=tables)


if __name__ == "__main__":
    main()
