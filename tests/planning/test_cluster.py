"""Plans for GPUs that are not here: layouts, batches, costs, and what is said of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bardlet import cli
from bardlet.commands import settings
from bardlet.config import Auto, TrainConfig, resolve
from bardlet.errors import UsageError
from bardlet.planning import cluster, rates, scaling
from bardlet.planning.cluster import Cluster

SMALL = TrainConfig(vocab_size=50304, max_iters=1000)
LARGE = TrainConfig(
    family="llama", n_layer=32, n_head=32, n_embd=4096, block_size=2048, vocab_size=32000,
    batch_size=8, gradient_accumulation_steps=64, max_iters=10,
)  # fmt: skip


def on(gpu: str = "h100", nodes: int = 1, gpus_per_node: int = 8, price: float = 0.0) -> Cluster:
    return cluster.cluster_of(gpu, nodes, gpus_per_node, 400.0, price)


def test_a_plan_adds_up() -> None:
    plan = cluster.plan(SMALL, on(price=2.5))
    assert plan["gpus"] == 8 and plan["tokens_per_iter"] == 12 * 40 * 1024
    assert plan["step_s"] == pytest.approx(sum(plan["step"].values()))
    parts = {name: size for name, size in plan["memory"].items() if name != "total"}
    assert plan["memory"]["total"] == pytest.approx(sum(parts.values()))
    assert plan["tokens_per_s"] == pytest.approx(plan["tokens_per_iter"] / plan["step_s"])
    assert plan["hours"] == pytest.approx(1000 * plan["step_s"] / 3600)
    assert plan["gpu_hours"] == pytest.approx(8 * plan["hours"])
    assert plan["cost"] == pytest.approx(2.5 * plan["gpu_hours"])
    mfu = plan["tokens_per_s"] * plan["flops"] / plan["tokens"] / 8 / 989e12
    assert plan["mfu"] == pytest.approx(mfu)
    assert plan["vocab_size"] == 50304 and plan["parameters"] == 124_354_560
    assert plan["notes"] == ["evaluations, saves and restarts are not counted"]
    assert cluster.plan(SMALL, on())["cost"] is None


def test_the_fastest_layout_that_fits_is_taken() -> None:
    alone = cluster.plan(SMALL, on(gpus_per_node=1))
    assert (alone["shard"], alone["recompute"]) == ("none", "none")
    assert {each["shard"] for each in alone["options"]} == {"none"}
    node = cluster.plan(LARGE, on())
    assert node["shard"] == "full", "7B with its states is 108 GB on each GPU otherwise"
    assert {each["shard"] for each in node["options"]} == {"none", "full"}
    assert [each["fits"] for each in node["options"] if each["shard"] == "none"] == [False, False]
    many = cluster.plan(LARGE, on(nodes=8))
    fits = [each for each in many["options"] if each["fits"]]
    assert {each["shard"] for each in many["options"]} == {"none", "node", "full"}
    assert many["step_s"] == min(each["step_s"] for each in fits)
    assert many["memory"]["total"] <= many["available"] == 0.92 * 80 * 2**30


def test_the_micro_batch_is_halved_until_it_fits_and_tokens_stay() -> None:
    plan = cluster.plan(SMALL, on("rtx4090", gpus_per_node=1))
    assert plan["batch_size"] == 12 and plan["micro_batches"] == 40
    large = resolve([("test", {**vars(SMALL), "batch_size": 96, "gradient_accumulation_steps": 5})])
    halved = cluster.plan(large, on("rtx4090", gpus_per_node=1))
    assert halved["batch_size"] == 24 and halved["micro_batches"] == 20
    assert halved["tokens_per_iter"] == plan["tokens_per_iter"]


def test_a_layout_that_is_asked_for_is_taken() -> None:
    asked = resolve([("test", {**vars(SMALL), "shard": "full", "recompute": "block"})])
    plan = cluster.plan(asked, on())
    assert [(each["shard"], each["recompute"]) for each in plan["options"]] == [("full", "block")]
    assert cluster.plan(asked, on(gpus_per_node=1))["shard"] == "none"


def test_states_rest_in_main_memory_where_that_is_asked_for_or_nothing_else_fits() -> None:
    """16 bytes of each weight cross the bus in a step, for AdamW, of those that a GPU has."""
    plain = cluster.plan(SMALL, on(gpus_per_node=1))
    assert not plain["offload"] and plain["bus_bytes"] == plain["main_memory_bytes"] == 0
    asked = resolve([("test", {**vars(SMALL), "offload": True})])
    plan = cluster.plan(asked, on(gpus_per_node=1))
    assert all(each["offload"] for each in plan["options"])
    assert plan["bus_bytes"] == 16 * plan["parameters"] == 2 * plan["main_memory_bytes"]
    assert plan["memory"]["optimizer"] == 0
    assert plan["step"]["optimizer"] - plain["step"]["optimizer"] == pytest.approx(
        plan["bus_bytes"] / 50e9
    )
    assert "1.99 GB to and from main memory, which holds 1.0 GB for each" in cluster.describe(
        plan, 0
    )
    shared = cluster.plan(dataclasses.replace(asked, shard="full"), on())
    assert shared["bus_bytes"] == pytest.approx(plan["bus_bytes"] / 8)
    large = cluster.plan(dataclasses.replace(LARGE, batch_size=1), on("h200", gpus_per_node=1))
    assert not large["offload"], "7B fits an H200"
    tight = cluster.plan(dataclasses.replace(LARGE, batch_size=1), on(gpus_per_node=1))
    assert tight["offload"] and {each["offload"] for each in tight["options"]} == {False, True}


def test_shares_that_are_not_equal_are_said() -> None:
    plan = cluster.plan(SMALL, on(nodes=8))  # 480 sequences for 64 GPUs
    assert plan["micro_batches"] * plan["batch_size"] == 8
    assert "480 sequences a step are not equal shares for 64 GPUs" in plan["notes"][0]


def test_what_no_published_run_stands_behind_is_said() -> None:
    notes = cluster.plan(SMALL, on("b200", nodes=60))["notes"]
    text = " ".join(notes)
    assert "estimated of B200: attention" in text
    assert "on runs of 128 GPUs at most" in text
    assert "a GPU has 1,024 tokens at a time" in text
    auto = resolve([("test", {**vars(SMALL), "batch_size": "auto"})])
    assert isinstance(auto.batch_size, Auto)
    assert "batch_size=auto needs the GPU itself" in cluster.plan(auto, on())["notes"][0]
    unknown = TrainConfig(dataset="data/nowhere")
    assert "a vocabulary of 50,304 is assumed" in cluster.plan(unknown, on())["notes"][0]


def test_a_model_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(UsageError, match=r"takes .* GB of a GPU at least, and RTX4090"):
        cluster.plan(LARGE, on("4090", gpus_per_node=1))


@pytest.mark.parametrize(
    "options", [{"lora_rank": 8}, {"stages": 2}, {"distill_from": "a"}, {"objective": "dpo"}]
)
def test_a_run_that_the_formulas_do_not_cover_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="does not cover lora_rank, stages, distill_from and"):
        cluster.plan(dataclasses.replace(SMALL, **options), on())


def test_tokens_of_a_step_are_those_that_training_takes() -> None:
    """Also where they are not a multiple of the micro-batch: 100 sequences, 12 at a time."""
    config = resolve([("test", {**vars(SMALL), "tokens_per_step": 100 * 1024})])
    assert config.batch_size * config.gradient_accumulation_steps == 108
    plan = cluster.plan(config, on(gpus_per_node=4))
    assert plan["tokens_per_iter"] == 100 * 1024
    assert plan["notes"] == ["evaluations, saves and restarts are not counted"]


@pytest.mark.parametrize(
    ("written", "name"),
    [("h100", "H100"), ("NVIDIA H100 80GB HBM3", "H100"), ("H100-SXM5", "H100"),
     ("a100-80gb", "A100"), ("A100-40GB", "A100-40GB"), ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
     ("4090", "RTX4090"), ("NVIDIA GeForce RTX 4090", "RTX4090"), ("b200", "B200")],
)  # fmt: skip
def test_gpus_are_found_as_people_write_them(written: str, name: str) -> None:
    assert rates.find(written).name == name


@pytest.mark.parametrize("written", ["", "h1000", "cpu", "H100; rm", "七"])
def test_an_unknown_gpu_names_those_there_are(written: str) -> None:
    with pytest.raises(UsageError) as error:
        rates.find(written)
    assert "Known are A100, A100-40GB, H100, H200, B200, RTX4090" in error.value.hint


def test_a_cluster_that_cannot_be_is_refused_with_every_reason() -> None:
    with pytest.raises(UsageError) as error:
        cluster.cluster_of("h100", 0, 100, -1.0, float("nan"))
    for name in ("nodes=0", "gpus_per_node=100", "network=-1.0", "price=nan"):
        assert name in error.value.message


@pytest.mark.parametrize("preset", ["gpt2-124m", "gpt2-124m-fast"])
def test_the_recipes_of_gpt2_are_planned_on_1_to_8_gpus(preset: str) -> None:
    config = resolve(settings.load_layers(preset, lambda: "gpu"))
    plans = [cluster.plan(config, on(gpus_per_node=n)) for n in (1, 2, 4, 8)]
    hours = [plan["hours"] for plan in plans]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] < 8 * hours[-1] < 1.1 * hours[0]
    tokens = {"gpt2-124m": 294_912_000_000, "gpt2-124m-fast": 1_703_936_000}
    assert {plan["tokens"] for plan in plans} == {tokens[preset]}
    assert all(plan["vocab_size"] == 50304 for plan in plans)
    layout = scaling.Layout(optimizer=config.optimizer)
    assert (layout.optimizer == "muon") == (preset == "gpt2-124m-fast")


def test_the_command_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """With the options that a preset has for GPUs, whatever machine this is."""
    command = ["plan", "shakespeare-char-classic", "--vocab_size=65", "--gpu", "a100", "--json"]
    assert cli.main(command) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["gpu"] == "A100" and plan["tokens_per_iter"] == 64 * 256
    assert cli.main(["plan", "gpt2-124m", "--nodes", "2", "--gpu=h100", "--price=3"]) == 0
    text = capsys.readouterr().out
    for part in ("16 H100 in 2 nodes", "shard=", "ms: matmul", "tokens/s", "MFU", "GB of a GPU",
                 "to others", "GPU-hours", "at 3 a GPU-hour"):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpt2-124m", "--nodes=8"], "a plan for other machines needs their --gpu"),
        (["--gpu=h100"], "needs a run: a preset, a file or --out_dir"),
        (["gpt2-124m", "--gpu=h100", "--nodes=1e9"], "invalid int value"),
        (["gpt2-124m", "--gpu=h100", "--nodes=99999"], "nodes=99999 must be from 1 to 4096"),
        (["gpt2-124m", "--gpu=abacus"], "gpu=abacus has no published rates"),
        (["gpt2-124", "--gpu=h100"], "no preset 'gpt2-124'"),
    ],
)
def test_what_cannot_be_planned_is_said(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", *words]) == 2
    assert message in capsys.readouterr().err
