"""Tokens that an exported page writes in a second, in headless Chromium.

    python bench/page_speed.py [--shapes 0.8M 10.7M] [--run out/demo] [--repeats 3]

Untrained gpt2 models as in sample_speed.py, or a run; temperature 0.8, the 200 likeliest, a prompt
of one token, after 300 tokens that are not counted. The page's own engine writes in its worker, and
gives each token with its log-probability and the 20 likeliest, as its playground asks. "a context":
as many tokens as it holds. "500": beyond it, where the context slides and what is kept of it is
computed anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import sample_speed
from common import Column

NEW_TOKENS = 500
WAYS = {
    "float32": "float32",
    "float16": "float16",
    "int8": "int8",
    "float32 without SIMD": "float32",
}
# in a process of its own: see common.py
WRITE = """
import json, sys
from pathlib import Path
from bardlet.interop.html import chromium
ask = '''(async ([counts, seed]) => {
  const engine = await bardlet.engine;
  const { ids } = await engine.encode("");
  const write = async (count) => {
    const began = performance.now();
    let n = 0;
    for await (const _ of engine.generate(ids, { max_new_tokens: count, seed })) n++;
    return n / (performance.now() - began) * 1000;
  };
  await write(300);
  const speeds = [];
  for (const count of counts) speeds.push(await write(count));
  return speeds;
})'''
page, mode, counts, seed = sys.argv[1:]
path = chromium.program()
if path is None:
    raise SystemExit(f"no Chromium here: name it in {chromium.VARIABLE}")
with chromium.opened(path, Path(page), mode) as browser:
    speeds = browser.evaluate(f"{ask}([{counts}, {seed}])")
print(json.dumps(speeds))
"""


def main() -> None:
    parser = common.arguments(__doc__, peer=False, trains=False)
    parser.add_argument(
        "--shapes", nargs="*", choices=sample_speed.SHAPES, default=["0.8M", "10.7M"]
    )
    parser.add_argument("--run", type=Path, help="a run of yours too")
    parser.add_argument("--new_tokens", type=int, default=NEW_TOKENS)
    args = parser.parse_args()
    columns = [
        Column("in_context", "tokens/s, a context", ",.0f", better="more"),
        Column("beyond", f"tokens/s, {args.new_tokens}", ",.0f", better="more"),
        Column("megabytes", "MB", ",.1f"),
    ]
    runs, tables = [], []
    with common.workspace(args) as work:
        sources = {name: sample_speed.made(work, sample_speed.SHAPES[name]) for name in args.shapes}
        if args.run:
            sources[args.run.name] = args.run.resolve()
        for name, run in sources.items():
            sides = {way: side(run, work.new("page"), way, args.new_tokens) for way in WAYS}
            case_runs = common.interleaved(sides, args.repeats, case=name)
            runs += case_runs
            tables.append(common.comparison(case_runs, columns))
    args.run = args.run and args.run.name
    common.finish(args, runs=runs, tables=tables)


def side(run: Path, folder: Path, way: str, most: int) -> Callable[[int], dict[str, Any]]:
    """What measures a run's page that computes in one way."""
    page = folder / "model.html"
    export = [sys.executable, "-m", "bardlet", "export", run, page, f"--weights={WAYS[way]}"]
    common.timed(export, folder)
    size = json.loads(next(run.glob("checkpoints/*/config.json")).read_text("utf-8"))["block_size"]
    counts = json.dumps([min(most, size - 1), most])
    mode = "" if way in WAYS.values() else "simd=no"

    def measure(number: int) -> dict[str, Any]:
        command = [sys.executable, "-c", WRITE, page, mode, counts, str(common.SEED + number)]
        in_context, beyond = json.loads(common.timed(command, folder).lines[-1][1])
        megabytes = page.stat().st_size / 1e6
        return {"in_context": in_context, "beyond": beyond, "megabytes": megabytes}

    return measure


if __name__ == "__main__":
    main()
