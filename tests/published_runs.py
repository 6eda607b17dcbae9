"""Training runs whose speed was published, as `planning/scaling.py` describes them.

Figures only, with where they stand. `TABLE` is the benchmark table of mosaicml/llm-foundry
(scripts/train/benchmarking/README.md): models of GPT's shape, eager PyTorch with FSDP and flash
attention, in bfloat16. `python tests/published_runs.py` writes the tables of docs/scaling.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bardlet.commands import settings
from bardlet.config import TrainConfig, resolve
from bardlet.errors import UsageError
from bardlet.model import GPTConfig
from bardlet.planning import cluster
from bardlet.planning.rates import GPUS, Gpu
from bardlet.planning.scaling import Layout, step

FOUNDRY = "mosaicml/llm-foundry, scripts/train/benchmarking"
SIZES = {"125m": (12, 768), "350m": (24, 1024), "760m": (24, 1536), "1b": (24, 2048),
         "3b": (32, 2560), "7b": (32, 4096)}  # fmt: skip
# model, context, GPUs, GPU, micro-batch, accumulation, recomputing, tokens/s of a GPU
TABLE = """
7b 2048 8 H100 6 1 no 10643
3b 8192 8 H100 3 6 no 16578
3b 4096 8 H100 5 6 no 20964
3b 1024 8 H100 20 6 no 27046
1b 8192 8 H100 3 4 no 29157
1b 4096 8 H100 7 4 no 38535
1b 2048 8 H100 14 1 no 45455
1b 1024 8 H100 18 4 no 48910
760m 8192 8 H100 6 2 no 41825
760m 4096 8 H100 12 2 no 55459
760m 1024 8 H100 48 2 no 78581
7b 2048 8 A100 6 2 no 4641
3b 8192 8 A100 3 6 no 7695
3b 4096 8 A100 5 6 no 9457
3b 2048 8 A100 10 2 no 10811
3b 1024 8 A100 20 6 no 11580
1b 8192 8 A100 3 4 no 13814
1b 4096 8 A100 7 4 no 17807
1b 2048 8 A100 14 4 no 20513
1b 1024 8 A100 18 4 no 22112
760m 8192 8 A100 6 2 no 20933
760m 4096 8 A100 12 2 no 27351
760m 2048 8 A100 24 2 no 32434
350m 8192 8 A100 8 2 no 36569
350m 4096 8 A100 16 2 no 49555
350m 2048 8 A100 32 2 no 58782
350m 1024 8 A100 64 2 no 64813
125m 8192 8 A100 8 2 no 90392
125m 4096 8 A100 16 2 no 118396
125m 2048 8 A100 40 2 no 142830
125m 1024 8 A100 64 2 no 156468
7b 8192 8 H100 8 2 yes 6935
7b 4096 8 H100 16 2 yes 8611
7b 1024 8 H100 64 2 yes 10203
3b 2048 16 H100 10 3 no 24142
3b 2048 32 H100 6 3 no 23021
3b 2048 64 H100 6 3 no 22525
1b 2048 16 H100 20 1 no 46037
1b 2048 32 H100 20 1 no 45130
1b 2048 64 H100 20 1 no 44402
760m 2048 8 H100 24 2 no 63147
760m 2048 16 H100 24 1 no 68551
760m 2048 32 H100 24 1 no 67971
7b 8192 8 A100 8 2 yes 3206
7b 4096 8 A100 16 2 yes 3684
7b 1024 8 A100 64 2 yes 4357
760m 1024 8 A100 48 2 no 29765
7b 2048 128 A100-40GB 18 1 yes 3623
3b 2048 128 A100-40GB 6 1 no 9538
1b 2048 128 A100-40GB 10 1 no 18647
1b 2048 32 A100-40GB 10 1 no 15555
760m 2048 128 A100-40GB 12 1 no 28940
350m 2048 128 A100-40GB 18 1 no 51934
125m 2048 128 A100-40GB 26 1 no 123936
"""
FITTED = 31  # the first of them, on 8 GPUs, that recompute nothing


@dataclass(frozen=True, kw_only=True)
class Run:
    """A published run: tokens/s of one GPU, and whether a number of the model was fitted on it."""

    name: str
    source: str
    shape: GPTConfig
    gpu: Gpu
    layout: Layout
    tokens_per_s: float
    fitted: bool = False

    @property
    def predicted(self) -> float:
        """Tokens/s of one GPU by the model."""
        seconds = step(self.shape, self.gpu, self.layout).seconds
        return self.layout.sequences * self.shape.block_size / seconds

    @property
    def error(self) -> float:
        """How far the prediction is above the published figure, as a share of it."""
        return self.predicted / self.tokens_per_s - 1


def foundry() -> list[Run]:
    """The runs of `TABLE`. Its A100s have 1600 Gbit/s between nodes, 200 for each."""
    runs = []
    for row, line in enumerate(TABLE.split("\n")[1:-1]):
        model, context, gpus, gpu, batch, accumulation, again, speed = line.split()
        n_layer, n_embd = SIZES[model]
        shape = GPTConfig(
            n_layer=n_layer, n_embd=n_embd, n_head=n_embd // 128, vocab_size=50368,
            block_size=int(context),
        )  # fmt: skip
        layout = Layout(
            gpus=int(gpus), shard="full", recompute=float(again == "yes"), fused_blocks=False,
            sequences=int(batch) * int(accumulation), batch_size=int(batch),
            network=50e9 if gpu == "H100" else 25e9,
        )  # fmt: skip
        runs.append(Run(
            name=f"MPT {model}, T = {context}, {gpus} {gpu}" + ", recomputing" * (again == "yes"),
            source=FOUNDRY, shape=shape, gpu=GPUS[gpu], layout=layout, tokens_per_s=float(speed),
            fitted=row < FITTED,
        ))  # fmt: skip
    return runs


def gpt2(n_layer: int, n_embd: int) -> GPTConfig:
    return GPTConfig(n_layer=n_layer, n_embd=n_embd, n_head=n_embd // 64, vocab_size=50304)


def llama(**shape: Any) -> GPTConfig:
    return GPTConfig(family="llama", **shape)


def llm_c(shape: GPTConfig, gpu: str, batch_size: int, sequences: int, seconds: float) -> Run:
    """A recipe of llm.c on 8 GPUs by the time of a step that stands in its script."""
    layout = Layout(
        gpus=8, shard="states", batch_size=batch_size, sequences=sequences, fused_loss=True,
        reduce_bytes=2,
    )  # fmt: skip
    size = {768: "124M", 1024: "350M", 1280: "774M", 1600: "1558M"}[shape.n_embd]
    return Run(
        name=f"llm.c GPT-2 {size}, 8 {gpu}", source=f"karpathy/llm.c, scripts/run_gpt2_{size}.sh",
        shape=shape, gpu=GPUS[gpu], layout=layout,
        tokens_per_s=sequences * shape.block_size / seconds, fitted=size == "124M",
    )  # fmt: skip


def others() -> list[Run]:
    """Runs of other programs."""
    # HBM2e at 2.4 TB/s, and limited to 500 of 700 W
    limited = dataclasses.replace(
        GPUS["H100"], name="H100 at 500 W", matmul=GPUS["H100"].matmul * 5 / 7, bandwidth=2.4e12
    )
    llama2 = llama(
        n_layer=32, n_embd=4096, n_head=32, mlp_dim=11008, vocab_size=32000, block_size=4096
    )
    llama3 = llama(
        n_layer=32, n_embd=4096, n_head=32, n_kv_head=8, mlp_dim=14336, vocab_size=128256,
        block_size=8192,
    )  # fmt: skip
    tiny = llama(
        n_layer=22, n_embd=2048, n_head=32, n_kv_head=4, mlp_dim=5632, vocab_size=32000,
        block_size=2048,
    )  # fmt: skip
    olmo_1b = llama(
        n_layer=18, n_embd=2048, n_head=16, mlp_dim=5632, vocab_size=100352, block_size=4096
    )
    olmo_7b = dataclasses.replace(llama2, vocab_size=100352)
    fms = Layout(gpus=128, shard="node", sequences=2, batch_size=2, fused_blocks=False,
                 reduce_bytes=2)  # fmt: skip
    titan = Layout(gpus=8, shard="full", recompute=0.2, sequences=2, batch_size=2)
    olmo = Layout(gpus=8, shard="full", sequences=128, batch_size=2)
    return [
        llm_c(gpt2(12, 768), "A100", 64, 64, 0.300),
        llm_c(gpt2(24, 1024), "A100", 64, 64, 0.820),
        llm_c(gpt2(36, 1280), "A100", 32, 64, 1.7),
        llm_c(gpt2(48, 1600), "H100", 16, 128, 2.80),
        Run(name="nanoGPT 124M, 1 RTX4090", source="karpathy/nanoGPT, pull request 225",
            shape=gpt2(12, 768), gpu=GPUS["RTX4090"],
            layout=Layout(sequences=480, batch_size=12), tokens_per_s=480 * 1024 / 4.622),
        Run(name="torchtitan Llama 3.1 8B, 8 H100 at 500 W",
            source="pytorch/torchtitan, benchmarks/llama3_h100_202412", shape=llama3,
            gpu=limited, layout=titan, tokens_per_s=6667),
        Run(name="torchtitan Llama 3.1 8B, 128 H100 at 500 W",
            source="pytorch/torchtitan, benchmarks/llama3_h100_202412", shape=llama3,
            gpu=limited, layout=dataclasses.replace(titan, gpus=128), tokens_per_s=6514),
        Run(name="OLMo-core 1B, H100", source="ai2-olmo-core 1.3.2, its page at PyPI",
            shape=olmo_1b, gpu=GPUS["H100"],
            layout=dataclasses.replace(olmo, batch_size=4), tokens_per_s=44000),
        Run(name="OLMo-core 7B, H100", source="ai2-olmo-core 1.3.2, its page at PyPI",
            shape=olmo_7b, gpu=GPUS["H100"], layout=olmo, tokens_per_s=10000),
        Run(name="fms-fsdp Llama 2 7B, 128 A100",
            source="foundation-model-stack/fms-fsdp, README", shape=llama2,
            gpu=GPUS["A100"], layout=fms, tokens_per_s=3760),
        Run(name="TinyLlama 1.1B, 16 A100-40GB", source="jzhang38/TinyLlama, README",
            shape=tiny, gpu=GPUS["A100-40GB"],
            layout=Layout(gpus=16, shard="full", sequences=64, batch_size=8, fused_loss=True,
                          network=25e9, reduce_bytes=2), tokens_per_s=24000),
        Run(name="fms-fsdp Llama 2 7B, 96 H100",
            source="foundation-model-stack/fms-fsdp, README", shape=llama2, gpu=GPUS["H100"],
            layout=dataclasses.replace(fms, gpus=96, network=100e9), tokens_per_s=7500),
        Run(name="nanoGPT 124M of February 2023, 8 A100-40GB",
            source="karpathy/nanoGPT, issue 110", shape=gpt2(12, 768), gpu=GPUS["A100-40GB"],
            layout=Layout(gpus=8, sequences=60, batch_size=12), tokens_per_s=60 * 1024 / 0.5622),
    ]  # fmt: skip


RUNS = [*foundry(), *others()]


# --- docs/scaling.md

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
FAR = 0.15
PLANNED = {
    "124M": {"tokens": 0.5},
    "350M": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "tokens": 0.5},
    "774M": {"n_layer": 36, "n_head": 20, "n_embd": 1280, "tokens": 1},
    "1.6B": {"n_layer": 48, "n_head": 25, "n_embd": 1600, "tokens": 1},
    "3B": {"family": "llama", "n_layer": 28, "n_head": 24, "n_embd": 3072, "tokens": 2},
    "7B": {"family": "llama", "n_layer": 32, "n_head": 32, "n_embd": 4096, "tokens": 4},
}


def predictions() -> str:
    """The runs that nothing was fitted on, by how far they are off."""
    rows = ["| run | tokens/s of a GPU | by the model | off by | published in |",
            "|---|---|---|---|---|"]  # fmt: skip
    for run in sorted((run for run in RUNS if not run.fitted), key=lambda run: abs(run.error)):
        far = "**" if abs(run.error) > FAR else ""
        rows.append(
            f"| {run.name} | {run.tokens_per_s:,.0f} | {run.predicted:,.0f} | "
            f"{far}{100 * run.error:+.1f}%{far} | {run.source} |"
        )
    return "\n".join(rows)


def plans() -> str:
    """Models of 124M to 7B on 1 to 512 H100."""
    rows = [
        "| model | tokens a step | H100 | layout | step | tokens/s | MFU | GB of a GPU | sent by a "
        "GPU | hours |", "|" + "---|" * 10,
    ]  # fmt: skip
    for name, options in PLANNED.items():
        for gpus in (1, 8, 64, 512):
            rows.append(f"| {name} | {options['tokens']}M | {gpus} | {planned(options, gpus)} |")
    return "\n".join(rows)


def planned(options: dict[str, Any], gpus: int) -> str:
    """A row of that table from its layout on, or why it has none."""
    shape = {"vocab_size": 50304, "block_size": 1024, "compile": True, **options}
    tokens = round(shape.pop("tokens") * 2**20)
    micro = 16
    config = TrainConfig(
        **shape, batch_size=micro, gradient_accumulation_steps=tokens // 1024 // micro
    )
    machines = cluster.cluster_of("h100", max(1, gpus // 8), min(gpus, 8), 400.0, 0.0)
    try:
        plan = cluster.plan(config, machines)
    except UsageError:
        return "does not fit | | | | | |"
    layout = f"{plan['shard']}, {plan['micro_batches']} x {plan['batch_size']}"
    layout += ", recompute" * (plan["recompute"] == "block")
    layout += ", offload" * plan["offload"]
    layout += "*" * bool(cluster.unchecked(machines, plan["batch_size"] * config.block_size))
    sent = plan["sent_in_node_bytes"] / 1e9
    hours = 20 * plan["parameters"] / plan["tokens_per_s"] / 3600
    return (
        f"{layout} | {1000 * plan['step_s']:,.0f} ms | {plan['tokens_per_s']:,.0f} | "
        f"{plan['mfu']:.0%} | {plan['memory']['total'] / 1e9:.0f} | {sent:.1f} GB | {hours:,.1f}"
    )


def recipes() -> str:
    """The presets of GPT-2's size on 1 to 8 GPUs."""
    rows = ["| preset | GPU | 1 | 2 | 4 | 8 | GPU-hours on 8 |", "|" + "---|" * 7]
    for preset in ("gpt2-124m", "gpt2-124m-fast"):
        config = resolve(settings.load_layers(preset, lambda: "gpu"))
        for gpu in ("H100", "A100", "RTX4090"):
            plans = [cluster.plan(config, cluster.cluster_of(gpu, 1, gpus, 400.0, 0.0))
                     for gpus in (1, 2, 4, 8)]  # fmt: skip
            hours = " | ".join(f"{plan['hours']:,.1f} h" for plan in plans)
            rows.append(f"| `{preset}` | {gpu} | {hours} | {plans[-1]['gpu_hours']:,.1f} |")
    return "\n".join(rows)


def page() -> str:
    """docs/scaling.md with the tables as they are by the model."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in (
        ("predictions", predictions()), ("plans", plans()), ("recipes", recipes()),
    ):  # fmt: skip
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, middle, rest = text.partition(begin)
        _, last, after = rest.partition(end)
        assert middle and last, f"docs/scaling.md has no place for {name}"
        text = before + begin + table + end + after
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
