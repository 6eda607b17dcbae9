"""A run from a model without a preset: its shape, small rates, and an end by validation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FAMILIES, metrics, silent, some_text, tiny_config

from bardlet import cli
from bardlet.config import TrainConfig, resolve
from bardlet.data.prepare.journal import replaced_freely
from bardlet.data.prepare.options import Options
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.prepare.streaming import prepare_stream
from bardlet.data.text import sources
from bardlet.data.text.corpus import Corpus
from bardlet.data.text.inputs import of_text
from bardlet.errors import DataError
from bardlet.model import GPT, GPTConfig
from bardlet.planning import finetuning, pace
from bardlet.planning.speed import Speed
from bardlet.run import run_folder
from bardlet.train import train

TWO_CORES, GPU = Speed(flops=310e9), Speed(flops=3e14, layer_s=1e-3)
GPT2 = GPTConfig(bias=True, vocab_size=50257)


@pytest.fixture(scope="module", params=list(FAMILIES))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainConfig]:
    """A folder with a run on data/words, and another text of the same characters."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_config(Path("data/words"), Path("out/base"), request.param, max_iters=30)
    with contextlib.chdir(folder):
        prepare(Corpus(name="words", text=some_text(6000), sources=()), Path("data/words"))
        other = Corpus(name="other", text=some_text(9000, seed=5), sources=())
        prepare(other, Path("data/other"), tokenizer="data/words")
        train(config)
    return folder, config


@pytest.fixture
def base(
    trained: tuple[Path, TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainConfig:
    """The run, in a copy of its folder that is the working folder."""
    folder, config = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finetuning, "measure", lambda machine: Speed(flops=1e9))
    monkeypatch.setattr(pace, "EARLY", 100.0)  # no adjustment to what it takes here
    return config


@pytest.mark.parametrize("options", [[], ["--lora_rank=4"]], ids=str)
def test_a_model_is_finetuned_without_a_preset(
    options: list[str], base: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--dataset=other", "--init_from=out/base", "--budget=1s", "--device=cpu"]
    assert cli.main([*command, *options]) == 0
    said = capsys.readouterr()
    used = tomllib.loads(Path("out/other/config.toml").read_text(encoding="utf-8"))
    assert used["optimizer"] == "adamw" and used["patience"] == 3
    shape = {n: getattr(base, n) for n in ("family", "n_layer", "n_embd", "n_head", "n_kv_head")}
    assert {name: used[name] for name in shape} == shape
    assert used["block_size"] == 16
    rate = 3e-3 if options else 3e-4
    assert used["learning_rate"] == pytest.approx(rate)
    assert f"AdamW at {rate:g} trains" in said.err + said.out
    tokens = used["batch_size"] * used["gradient_accumulation_steps"] * 16
    assert used["max_iters"] * tokens <= 3 * 8100 + tokens, "three epochs at most"
    lines = metrics(dataclasses.replace(base, out_dir="out/other"), "eval")
    assert lines[0]["iter"] == 0 and lines[-1]["val_loss"] < lines[0]["val_loss"]


def test_what_contradicts_the_model_is_said(
    base: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--dataset=other", "--init_from=out/base", "--n_layer=3", "--max_iters=1"]
    assert cli.main([*command, "--device=cpu", "--learning_rate=0.002"]) == 0
    said = capsys.readouterr()
    assert "AdamW at 0.002 trains all of its weights" in said.err + said.out
    assert "n_layer=3 has no effect: the model's is 2" in said.err + said.out
    assert cli.main(["train", "--dataset=other", "--init_from=out/none", "--out_dir=out/x"]) == 1
    assert "no run at out/none" in capsys.readouterr().err
    assert not Path("out/x").exists()
    for wrong, words in [
        (["--init_from=none.gguf"], "no file at none.gguf"),
        (["--init_from=none/ckpt.pt"], "no file at none/ckpt.pt"),
        (["--init_from=out/base", "--block_size=32"], "block_size=32 is above the 16 of out/base"),
        (["--init_from=out/base", "--lora_rank=x"], "lora_rank=x is not an integer"),
    ]:
        assert cli.main(["train", "--dataset=other", "--out_dir=out/x", *wrong]) == 2
        err = capsys.readouterr().err
        assert words in err and "finetuning" not in err, "nothing was measured"
        assert not Path("out/x").exists()


def test_a_model_is_not_trained_over(base: TrainConfig, tmp_path: Path) -> None:
    """Finetuned on its own dataset, by whose name its folder is: the model stays."""
    Path("out/base").rename("out/words")
    before = run_folder.newest(Path("out/words"))
    command = ["train", "--dataset=words", "--init_from=out/words", "--max_iters=1"]
    assert cli.main([*command, "--device=cpu"]) == 0
    assert run_folder.newest(Path("out/words")) == before
    assert run_folder.is_run(Path("out/words-finetuned"))


def test_a_run_killed_before_its_first_checkpoint_begins_from_its_model_again(
    base: TrainConfig,
) -> None:
    command = ["train", "--dataset=other", "--init_from=out/base", "--max_iters=1", "--device=cpu"]
    assert cli.main(command) == 0
    first = metrics(dataclasses.replace(base, out_dir="out/other"), "eval")[0]
    for folder in run_folder.checkpoints(Path("out/other")):
        run_folder.remove(folder)
    assert cli.main(["train", "--out_dir=out/other"]) == 0
    assert metrics(dataclasses.replace(base, out_dir="out/other"), "eval")[0] == first


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("budget", [1, 300, 86400])
@pytest.mark.parametrize("tokens", [20, 5000, 300_000, 10**10])
@pytest.mark.parametrize("speed", [TWO_CORES, GPU], ids=["cpu", "gpu"])
def test_every_plan_makes_a_run(rank: int, budget: int, tokens: int, speed: Speed) -> None:
    context = min(1024, 2 ** int(math.log2(max(8, tokens // 8))))
    with torch.device("meta"):
        model = GPT(dataclasses.replace(GPT2, n_layer=1, block_size=context))
    sizes = finetuning.batches(model, tokens, budget, speed, {}, rank=rank)
    assert all(value >= 1 for value in sizes.values())
    seen = math.prod(sizes.values()) * context
    in_one = seen // sizes["max_iters"]
    assert seen <= 3 * tokens + in_one and in_one <= 32768
    assert sizes["batch_size"] * context <= 8192, "a gigabyte of logits"
    step_s = speed.seconds(model, in_one) * (2 / 3 if rank else 1)
    assert sizes["max_iters"] == 1 or sizes["max_iters"] * step_s <= budget
    options: dict[str, Any] = {
        **sizes, **finetuning.rates(model.num_params(), sizes["max_iters"], {}, rank=rank),
        **finetuning.evaluations(sizes, seen, tokens // 9, context),
    }  # fmt: skip
    assert resolve([("sized", options)]).patience == 3


def test_a_stream_is_seen_once(base: TrainConfig) -> None:
    """Three shards of it are there: the rest comes while they are trained on."""
    text = Corpus(name="s", text=some_text(30_000, seed=5), sources=())
    with pytest.raises(DataError, match="nothing has trained"):
        prepare_stream(
            of_text(text), Path("data/s"), Options(shard_tokens=1000, tokenizer="data/words"),
            shards=3, timeout_s=0.01, fresh=False, replacing=replaced_freely, say=silent,
        )  # fmt: skip
    flags = {"dataset": "s", "init_from": "out/base", "stream": "true"}
    shape = GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=16, vocab_size=65)
    options, most = finetuning.finetuned(flags, shape, 86400, silent)
    tokens = options["batch_size"] * options["gradient_accumulation_steps"] * 16
    assert options["max_iters"] == most
    assert most * tokens == pytest.approx(27_000, rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "context", "expected"),
    [
        ([40] * 80, 8192, 256),  # room for four
        ([40] * 78 + [300] * 6, 8192, 512),  # and for the longest
        ([2000] * 8, 8192, 1024),
        ([8] * 400, 8192, 128),
        ([40] * 80, 96, 96),
        ([40] * 80, 200, 200),
    ],
)
def test_a_context_that_nobody_names_has_room_for_documents(
    sizes: list[int], context: int, expected: int, tmp_path: Path
) -> None:
    records = [{"text": "x" * (size - 1 - len(str(i))) + str(i)} for i, size in enumerate(sizes)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    prepare(sources.find([str(tmp_path / "d.jsonl")]), tmp_path / "d", tokenizer="byte")
    said: list[str] = []
    assert finetuning.window(str(tmp_path / "d"), context, said.append) == expected
    assert bool(said) == (expected < context)


def test_a_sized_run_has_that_context_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "measure", lambda machine: Speed(flops=1e9))
    (tmp_path / "d.jsonl").write_text('{"text": "12345"}\n' * 600, encoding="utf-8")
    prepare(sources.find([str(tmp_path / "d.jsonl")]), tmp_path / "d", tokenizer="byte")
    shape = GPTConfig(n_layer=1, n_head=2, n_embd=32, block_size=8192, vocab_size=257)
    flags = {"dataset": str(tmp_path / "d"), "init_from": "a/model"}
    said: list[str] = []
    options, _ = finetuning.finetuned(flags, shape, 1.0, said.append)
    assert options["block_size"] == 128
    assert "block_size=128 in place of 256: documents have 5 tokens" in said[0]


def test_a_context_without_documents_is_bounded(base: TrainConfig) -> None:
    assert finetuning.window("data/words", 8192, print) == finetuning.MAX_WINDOW
    assert finetuning.window("data/words", 512, print) == 512


def test_gpt2_has_nanogpts_rate() -> None:
    assert finetuning.rates(124_439_808, 100, {}, rank=0)["learning_rate"] == 3e-5
    assert finetuning.rates(124_439_808, 100, {}, rank=4)["learning_rate"] == 3e-4
    assert finetuning.rates(1_557_611_200, 100, {}, rank=0)["learning_rate"] == 8.5e-6
