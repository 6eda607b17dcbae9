"""Weights of 32, 16, 8 and 4 bits: bardlet, llama.cpp, transformers on the same exported weights.

A part of sample_speed.py. One text, a prompt of one token, as many new ones as fit the context.
Each contender runs in a process of its own with every core; imports and loading do not count.
llama.cpp's time is what its server tells of itself, prompt and tokens, in the keys' and values'
default format; of 4 bits it keeps the head in 8, bardlet in 4.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from common import OURS, Workspace

LLAMA_CPP, TRANSFORMERS = "llama.cpp", "transformers"
# bits of a weight with its part of a scale; the others' names of each format, where they have it
FORMATS: dict[str, tuple[float, str | None, str | None]] = {
    "float32": (32, "float32", "F32"),
    "bfloat16": (16, "bfloat16", "BF16"),
    "int8": (8.5, None, "Q8_0"),
    "int4": (4.5, None, "Q4_0"),
}
GENERATE = """
import json, sys, time, torch, transformers
transformers.logging.set_verbosity_error()
path, dtype, tokens, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
torch.manual_seed(seed)
idx = torch.zeros(1, 1, dtype=torch.int64)
options = dict(do_sample=True, temperature=0.8, top_k=200, eos_token_id=None, pad_token_id=0)
with torch.inference_mode():
    model.generate(idx, max_new_tokens=2, **options)
    began = time.perf_counter()
    written = model.generate(idx, min_new_tokens=tokens, max_new_tokens=tokens, **options)
    took = time.perf_counter() - began
assert written.shape == (1, 1 + tokens), written.shape
print(json.dumps({"tokens_per_s": tokens / took}))
"""
SERVER = """
import json, os, sys, xllamacpp
from bardlet.interop.gguf.llamacpp import post
path, tokens, seed, size = sys.argv[1], *map(int, sys.argv[2:5])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = path, size, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
params.fit_params, params.verbosity = False, 1
server = xllamacpp.Server(params)
ask = {"prompt": [0], "n_predict": tokens, "temperature": 0.8, "top_k": 200, "top_p": 1.0,
       "min_p": 0.0, "seed": seed, "ignore_eos": True, "cache_prompt": False}
post(server.listening_address, "/completion", ask | {"n_predict": 2})
times = post(server.listening_address, "/completion", ask)["timings"]
assert times["predicted_n"] == tokens, times
took = (times["prompt_ms"] + times["predicted_ms"]) / 1000
print(json.dumps({"tokens_per_s": tokens / took}))
"""
BANDWIDTH = """
import json, time, torch
memory, best = torch.ones(1 << 28), 1e9
for _ in range(8):
    began = time.perf_counter()
    memory.sum()
    best = min(best, time.perf_counter() - began)
print(json.dumps({"bytes_per_s": memory.nbytes / best}))
"""
Measure = Callable[[int], dict[str, Any]]


def last_json(command: list[Any], folder: Path) -> dict[str, Any]:
    """The object in the last line of JSON that a command prints."""
    lines = [line for _, line in common.timed(command, folder).lines if line.startswith("{")]
    return json.loads(lines[-1])


def bandwidth(work: Workspace) -> float:
    """Bytes a second that all cores together read of a gigabyte, the best of eight times."""
    return last_json([sys.executable, "-c", BANDWIDTH], work.folder)["bytes_per_s"]


def contenders(
    work: Workspace, run: Any, names: list[str], tokens: int, size: int
) -> dict[str, Measure]:
    """Every program in every format that it has, by "program, format"."""
    python, exported = sys.executable, work.new("exported")
    chosen: dict[str, Measure] = {}

    def add(who: str, command: Callable[[int], list[Any]]) -> None:
        chosen[who] = lambda number: {
            "tokens_per_s": last_json(command(common.SEED + number), work.folder)["tokens_per_s"]
        }

    common.timed([python, "-m", "bardlet", "export", run, exported / "hf", "--format=hf"],
                 work.folder)  # fmt: skip
    for name in names:
        _, dtype, gguf = FORMATS[name]
        if dtype:
            add(f"{TRANSFORMERS}, {name}", lambda seed, dtype=dtype: [
                python, "-c", GENERATE, exported / "hf", dtype, str(tokens), str(seed),
            ])  # fmt: skip
        if gguf:
            to = exported / gguf
            common.timed([python, "-m", "bardlet", "export", run, to, "--format=gguf",
                          f"--dtype={gguf}"], work.folder)  # fmt: skip
            file = next(to.glob("*.gguf"))
            add(f"{LLAMA_CPP}, {name}", lambda seed, file=file: [
                python, "-c", SERVER, file, str(tokens), str(seed), str(size),
            ])  # fmt: skip
        add(f"{OURS}, {name}", lambda seed, name=name: [
            python, "-m", "bardlet", "sample", run, "--num_samples=1", "--device=cpu", "--json",
            f"--max_new_tokens={tokens}", f"--seed={seed}", f"--weights={name}",
        ])  # fmt: skip
    return chosen


def table(runs: list[dict[str, Any]], names: list[str], weights: int, bytes_per_s: float) -> str:
    """Medians of tokens a second, a row for each format, beside what reading the weights allows."""
    speeds = {row["who"]: row["tokens_per_s"] for row in common.summary(runs)}
    rows = []
    for name in names:
        ours = speeds[f"{OURS}, {name}"]
        limit = bytes_per_s / (weights * FORMATS[name][0] / 8)
        cells = [name]
        for who in (TRANSFORMERS, LLAMA_CPP, OURS):
            speed = speeds.get(f"{who}, {name}")
            cells.append(f"{speed['median']:,.1f} ({speed['min']:,.1f} to {speed['max']:,.1f})"
                         if speed else "")  # fmt: skip
        theirs = speeds.get(f"{LLAMA_CPP}, {name}")
        cells.append(f"{ours['median'] / theirs['median']:.2f}x" if theirs else "")
        half = speeds.get(f"{OURS}, bfloat16")
        cells.append(f"{ours['median'] / half['median']:.2f}x" if half else "")
        cells += [f"{limit:,.0f}", f"{ours['median'] / limit:.0%}"]
        rows.append(cells)
    header = [
        runs[0]["case"], f"{TRANSFORMERS}, tokens/s", LLAMA_CPP, OURS, f"over {LLAMA_CPP}",
        "over bfloat16", f"limit at {bytes_per_s / 1e9:.1f} GB/s", "reached",
    ]  # fmt: skip
    return common.table(header, rows)
