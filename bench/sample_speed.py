"""Tokens written in a second by untrained gpt2 models of three sizes, one text and ten at once.

    python bench/sample_speed.py --peer PATH [--shapes 0.8M 10.7M 124M] [--repeats 3]

Temperature 0.8, the 200 likeliest, a prompt of one token; the prompt's computation counts, imports
and loading do not. bardlet: `bardlet sample --json` of 500 tokens, with its defaults. The peer: its
own `GPT.generate` in float32; ten texts one after another, as its sample.py writes them, or as one
batch. Where it is slow it writes fewer tokens, which flatters it: its cost grows with the text.

`--formats float32 bfloat16 int8 int4` adds a table of one text in each format of weights, beside
transformers and llama.cpp on the same weights (extras hf and gguf), and beside the speed at which
memory, measured in the same invocation, hands the weights out; see sample_formats.py. `--run RUN
--drafts lookup SMALLER_RUN` adds tables of a trained run with and without each draft. `--shapes`
without a name leaves the tables of untrained models out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import sample_formats
from common import OURS, PEER, Column, Workspace

NEW_TOKENS, TEXTS = 500, 10
PEER_SAMPLE = """
import json, sys, time, torch
sys.path.insert(0, sys.argv[1])
from model import GPT, GPTConfig
torch.manual_seed(int(sys.argv[5]))
model = GPT(GPTConfig(**json.loads(sys.argv[2]))).eval()
texts, tokens = int(sys.argv[3]), int(sys.argv[4])
idx = torch.zeros(texts, 1, dtype=torch.int64)
with torch.no_grad():
    began = time.perf_counter()
    model.generate(idx, tokens, temperature=0.8, top_k=200)
    took = time.perf_counter() - began
print(json.dumps({"tokens_per_s": texts * tokens / took}))
"""
# a run of random weights, written as `bardlet import` does, in a process of its own: see common.py
MAKE = """
import json, sys, torch
from pathlib import Path
from bardlet.data.tokenizers.char import CharTokenizer
from bardlet.interop import load
from bardlet.run.state import Imported
from bardlet.model import GPT, GPTConfig
torch.manual_seed(1337)
shape = json.loads(sys.argv[2])
# a new line to begin with, and letters enough below the code points that stand for no letter
tokenizer = CharTokenizer("\\n" + "".join(map(chr, range(32, 31 + shape["vocab_size"]))))
model = GPT(GPTConfig(family="gpt2", **shape))
load.save(load.imported(Imported(source="random weights"), model, tokenizer), Path(sys.argv[1]))
"""


@dataclass(frozen=True)
class Shape:
    """A model, and how many tokens the peer writes of it."""

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    bias: bool
    peer_tokens: int
    peer_tokens_batched: int  # in each of ten texts

    @property
    def weights(self) -> int:
        """Weights that every token reads: the matrices, and the head."""
        return 12 * self.n_layer * self.n_embd**2 + self.vocab_size * self.n_embd

    @property
    def model(self) -> str:
        """The options of both sides' GPTConfig, as JSON."""
        return json.dumps({k: v for k, v in vars(self).items() if not k.startswith("peer")})


SHAPES = {
    "0.8M": Shape(4, 4, 128, 64, 65, False, 500, 500),
    "10.7M": Shape(6, 6, 384, 256, 65, False, 500, 200),
    "124M": Shape(12, 12, 768, 1024, 50257, True, 100, 20),
}


def main() -> None:
    parser = common.arguments(__doc__, trains=False)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--new_tokens", type=int, default=NEW_TOKENS, help="limit, of either side")
    parser.add_argument(
        "--formats", nargs="+", choices=sample_formats.FORMATS, default=[],
        help="formats of weights, beside transformers and llama.cpp",
    )  # fmt: skip
    parser.add_argument("--run", type=Path, help="a trained run, for --drafts")
    parser.add_argument(
        "--drafts", nargs="+", default=[], help="what guesses for --run: lookup, or smaller runs"
    )
    args = parser.parse_args()
    if bool(args.drafts) != bool(args.run):
        parser.error("--run and --drafts go together")
    args.drafts = [name if name == "lookup" else str(Path(name).resolve()) for name in args.drafts]
    columns = [
        Column("tokens_per_s", "tokens/s", ",.1f", better="more"),
        Column("tokens", "tokens a text", ",.0f"),
    ]
    runs, tables = [], []
    with common.workspace(args) as work:
        for name in args.shapes:
            for case, contenders in cases(work, SHAPES[name], args.new_tokens).items():
                case_runs = common.interleaved(contenders, args.repeats, case=f"{name}, {case}")
                runs += case_runs
                tables.append(common.comparison(case_runs, columns))
            if args.formats:
                shape = SHAPES[name]
                size = min(args.new_tokens, shape.block_size - 2)  # new tokens, without sliding
                sides = sample_formats.contenders(
                    work, made(work, shape), args.formats, size, shape.block_size
                )
                read = sample_formats.bandwidth(work)
                case_runs = common.interleaved(sides, args.repeats, case=f"{name}, one text")
                read = max(read, sample_formats.bandwidth(work))
                runs += case_runs
                tables.append(sample_formats.table(case_runs, args.formats, shape.weights, read))
                prompt = shape.block_size * 3 // 4
                steps = sample_formats.core(work, shape.model, prompt, args.formats)
                case = f"{name}, the core alone"
                runs += (case_runs := [{"case": case, **one} for one in steps])
                tables.append(common.comparison(case_runs, [
                    Column("prompt", f"prompt of {prompt}, tokens/s", ",.0f", better="more"),
                    Column("one", "one text", ",.1f", better="more"),
                    Column("ten", "ten texts", ",.1f", better="more"),
                ]))  # fmt: skip
        for name in args.drafts:
            sides = {
                OURS: sample_formats.written(work, args.run, args.new_tokens),
                f"{OURS}, --draft={name}": sample_formats.written(
                    work, args.run, args.new_tokens, f"--draft={name}"
                ),
            }
            case_runs = common.interleaved(sides, args.repeats, case=f"{args.run}, one text")
            runs += case_runs
            tables.append(common.comparison(case_runs, columns[:1]))
    common.finish(args, runs=runs, tables=tables)


def cases(
    work: Workspace, shape: Shape, max_new_tokens: int
) -> dict[str, dict[str, Callable[[int], dict[str, Any]]]]:
    """The two tables of a shape: one text, and ten."""
    out = made(work, shape)

    def peer(texts: int, tokens: int) -> Callable[[int], dict[str, Any]]:
        tokens = min(tokens, max_new_tokens)
        return lambda number: last_json(
            [sys.executable, "-c", PEER_SAMPLE, work.peer, shape.model, texts, tokens,
             common.SEED + number], work.folder, tokens,
        )  # fmt: skip

    def ours(texts: int) -> Callable[[int], dict[str, Any]]:
        options = [f"--num_samples={texts}", f"--max_new_tokens={max_new_tokens}",
                   "--device=cpu", "--json"]  # fmt: skip
        return lambda number: last_json(
            [sys.executable, "-m", "bardlet", "sample", out, *options,
             f"--seed={common.SEED + number}"], work.folder, max_new_tokens,
        )  # fmt: skip

    return {
        "one text": {PEER: peer(1, shape.peer_tokens), OURS: ours(1)},
        "ten texts": {
            f"{PEER}, one after another": peer(1, shape.peer_tokens),
            f"{PEER}, a batch": peer(TEXTS, shape.peer_tokens_batched),
            OURS: ours(TEXTS),
        },
    }


def made(work: Workspace, shape: Shape) -> Path:
    """A run of a shape, of random weights."""
    out = work.new("model") / "run"
    common.timed([sys.executable, "-c", MAKE, out, shape.model], work.folder)
    return out


def last_json(command: list[Any], folder: Path, tokens: int) -> dict[str, Any]:
    """The speed that the command's JSON line tells."""
    speed = sample_formats.last_json(command, folder)["tokens_per_s"]
    return {"tokens_per_s": speed, "tokens": tokens}


if __name__ == "__main__":
    main()
