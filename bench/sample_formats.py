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
# what the core alone takes, packing left out: of a prompt, and of a step of one text and of ten
CORE = """
import json, sys, time, torch
from bardlet.model import GPT, GPTConfig
from bardlet.native.decoding import Decoder
config = GPTConfig(family="gpt2", **json.loads(sys.argv[1]))
names, size, repeats = sys.argv[3:], int(sys.argv[2]), 5
torch.manual_seed(1337)
model = GPT(config).eval()
decoders = {name: Decoder(model, 10, torch.bfloat16, name) for name in names}
contexts = list(torch.randint(config.vocab_size, (10, config.block_size + 1)))
best = {name: [1e9] * 3 for name in names}
for _ in range(repeats):
    for name, decoder in decoders.items():
        for i, texts in enumerate((1, 1, 10)):  # a prompt; steps of one; steps of ten
            decoder.forget()
            places, streams = [size if i == 0 else 16] * texts, range(texts)
            options = [0.8] * texts, [200] * texts
            began = time.perf_counter()
            decoder.step(contexts[:texts], places, streams, torch.rand(1, texts), *options)
            if i:
                places = [17] * texts
                began = time.perf_counter()
                decoder.step(contexts[:texts], places, streams, torch.rand(8, texts), *options)
            best[name][i] = min(best[name][i], time.perf_counter() - began)
print(json.dumps({
    name: {"prompt": size / took[0], "one": 8 / took[1], "ten": 80 / took[2]}
    for name, took in best.items()
}))
"""
Measure = Callable[[int], dict[str, Any]]


def last_json(command: list[Any], folder: Path) -> dict[str, Any]:
    """The object in the last line of JSON that a command prints."""
    lines = [line for _, line in common.timed(command, folder).lines if line.startswith("{")]
    return json.loads(lines[-1])


def bandwidth(work: Workspace) -> float:
    """Bytes a second that all cores together read of a gigabyte, the best of eight times."""
    return last_json([sys.executable, "-c", BANDWIDTH], work.folder)["bytes_per_s"]


def core(work: Workspace, model: str, size: int, names: list[str]) -> list[dict[str, Any]]:
    """Tokens a second of the core in each format: of a prompt of `size`, of one text, of ten."""
    command = [sys.executable, "-c", CORE, model, str(size), *names]
    return [{"who": name, **speeds} for name, speeds in last_json(command, work.folder).items()]


def written(work: Workspace, run: Path, tokens: int, *options: str) -> Measure:
    """The speed of `bardlet sample`, one text of a run."""
    command = [
        sys.executable, "-m", "bardlet", "sample", run.resolve(), "--num_samples=1", "--device=cpu",
        "--json", f"--max_new_tokens={tokens}", *options,
    ]  # fmt: skip
    return lambda number: {
        "tokens_per_s": last_json(
            [*command, f"--seed={common.SEED + number}"], work.folder
        )["tokens_per_s"]
    }  # fmt: skip


def contenders(
    work: Workspace, run: Path, names: list[str], tokens: int, size: int
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
        chosen[f"{OURS}, {name}"] = written(work, run, tokens, f"--weights={name}")
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
