"""A run sized to its data: what the rule chooses, and that the command trains it."""

from __future__ import annotations

import functools
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from support import as_ranks, silent, some_text

from bardlet import cli
from bardlet.commands.configure import configure, seconds_of
from bardlet.config import resolve, to_toml
from bardlet.errors import UsageError
from bardlet.model import GPT, GPTConfig
from bardlet.planning import recipe, sizing
from bardlet.planning.sizing import LADDER, Speed, best_plan, options, plan, shape_of
from bardlet.system.device import Machine, choose
from bardlet.system.distributed import here

SHAKESPEARE = 1_003_854  # tokens of its train split, by character
TWO_CORES = Speed(flops=310e9)  # what README's machine reaches with the compiled core


@functools.cache
def without_weights(config: GPTConfig) -> GPT:
    with torch.device("meta"):
        return GPT(config)


@pytest.fixture(autouse=True)
def each_shape_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan builds all models of the ladder to count in them: half a second each time."""

    def built(config: GPTConfig) -> GPT:
        meta = torch.get_default_device().type == "meta"
        return without_weights(config) if meta else GPT(config)

    monkeypatch.setattr(sizing, "GPT", built)


def rung(found: sizing.Plan) -> tuple[int, int, int]:
    config = found.model.config
    return config.n_layer, config.n_embd, config.block_size


def test_five_minutes_of_shakespeare_are_near_the_tuned_preset() -> None:
    found = best_plan(SHAKESPEARE, 65, 300, TWO_CORES)
    assert rung(found) == (12, 160, 256)
    assert found.tokens == 4096
    assert 2.5 * SHAKESPEARE <= found.iters * found.tokens <= 3.5 * SHAKESPEARE
    assert 240 <= found.seconds <= 270


@pytest.mark.parametrize("budget", [3, 30, 300, 3000, 30000])
@pytest.mark.parametrize("tokens", [900, 45_000, 10**6, 10**8, 10**11])
@pytest.mark.parametrize("speed", [Speed(flops=1e11), Speed(flops=3e14, layer_s=1e-3)])
def test_every_plan_keeps_to_its_time_and_makes_a_run(
    budget: float, tokens: int, speed: Speed
) -> None:
    found = best_plan(tokens, 65, budget, speed)
    assert found.seconds <= 0.9 * budget + 1e-6 or found.iters == 1
    config = resolve([("sized", options(found, tokens, tokens // 9, budget))])
    rows = config.batch_size * config.gradient_accumulation_steps
    assert rows * config.block_size == found.tokens
    assert config.block_size < tokens
    assert config.warmup_iters < config.max_iters or config.max_iters < 6


def test_more_time_or_text_never_means_a_smaller_model() -> None:
    for tokens in (10**5, 10**6, 10**9):
        sizes = [best_plan(tokens, 65, b, TWO_CORES).params for b in (3, 30, 300, 3000, 30000)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]
    sizes = [best_plan(t, 65, 30000, TWO_CORES).params for t in (10**4, 10**6, 10**8)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_time_that_the_text_is_too_small_for_is_left() -> None:
    found = best_plan(SHAKESPEARE, 65, 36000, TWO_CORES)
    assert found.params <= 10 * SHAKESPEARE
    assert found.iters * found.tokens <= 3.5 * SHAKESPEARE + found.tokens
    assert found.seconds < 3600
    assert options(found, SHAKESPEARE, 1000, 36000)["weight_decay"] == 0.4


def test_time_that_the_text_is_too_small_for_goes_into_a_chain() -> None:
    found = best_plan(SHAKESPEARE, 65, 1800, TWO_CORES)
    assert rung(found) == (12, 256, 256)
    for budget, more, times in ((1800, 1, 0.836), (3600, 1, 1.3), (36000, 2, 1.3)):
        chosen = options(found, SHAKESPEARE, 1000, budget)
        assert (chosen["stages"], chosen["distill_weight"]) == (1 + more, 0.7)
        assert chosen["stage_iters"] == pytest.approx(times * found.iters, abs=1)
        seconds = (1 + more * times * 4 / 3) * found.seconds
        assert seconds < 0.9 * budget * 1.01
    assert "stages" not in options(found, SHAKESPEARE, 1000, 1600)
    for taken in ({"stages": 1}, {"distill_from": "r"}, {"max_iters": 9}, {"objective": "dpo"}):
        assert "stages" not in options(found, SHAKESPEARE, 1000, 36000, taken)
    assert "stages" not in options(best_plan(SHAKESPEARE, 65, 300, TWO_CORES), 10**6, 1000, 300)
    assert "stages" not in options(best_plan(10**9, 65, 1800, TWO_CORES), 10**9, 1000, 1800)


def test_a_stream_is_sized_to_one_pass() -> None:
    found = best_plan(SHAKESPEARE, 65, 36000, TWO_CORES, fixed={"stream": True})
    assert found.iters == found.max_iters == SHAKESPEARE // found.tokens
    assert found.enough
    step_s = TWO_CORES.seconds(found.model, found.tokens)
    assert found.seconds == pytest.approx(found.iters * step_s)
    chosen = options(found, SHAKESPEARE, 1000, 36000, {"stream": True})
    assert "stages" not in chosen, "a second run would need the text again"


def test_the_parts_of_a_chains_time_are_the_whole() -> None:
    assert recipe.parts({"max_iters": 10}) == (1.0,)
    assert recipe.parts({"max_iters": 10, "stages": 3, "stage_iters": 15}) == (0.2, 0.4, 0.4)
    assert recipe.parts({"max_iters": 10, "stages": 2, "stage_iters": 0}) == pytest.approx(
        (3 / 7, 4 / 7)
    )


def test_a_ladder_climbs() -> None:
    models = [plan(shape_of(*r, vocab_size=65), 10**6, 60, TWO_CORES) for r in LADDER]
    flops = [found.model.flops_per_token() for found in models]
    assert flops == sorted(set(flops))
    for found, (layers, width, _) in zip(models, LADDER, strict=True):
        # four projections, and three matrices of an MLP 8/3 as wide: 12 L C^2, as GPT-2's
        assert found.params == pytest.approx(12 * layers * width**2, rel=0.15)


def test_a_large_validation_split_is_sampled() -> None:
    found = best_plan(10**8, 65, 300, TWO_CORES)
    chosen = options(found, 10**8, 10**7, 300)
    assert not chosen["eval_full"]
    scored = chosen["eval_iters"] * chosen["batch_size"] * chosen["block_size"] * 2
    rounds = -(-chosen["max_iters"] // chosen["eval_interval"])
    assert scored * rounds / 3 <= 0.11 * found.iters * found.tokens
    assert options(found, 10**8, 10**5, 300)["eval_full"]


def test_the_speed_is_that_of_a_training_step() -> None:
    machine: Machine = choose("cpu", "float32")
    speed = sizing.measure(machine)
    assert 1e8 < speed.flops < 1e14
    assert speed.layer_s == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800)]
)
def test_a_budget_has_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "-1m", "0s", "1e9d", "10 m", "99999999d"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time to train for"):
        seconds_of(text)


@pytest.fixture
def prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A folder with data/words in it, where the machine is slow enough for the smallest model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sizing, "measure", lambda machine: Speed(flops=3e8))
    (tmp_path / "words.txt").write_text(some_text(3000), encoding="utf-8")
    assert cli.main(["prepare", "words.txt"]) == 0
    capsys.readouterr()
    return tmp_path


def test_train_without_preset_says_and_writes_what_it_chose(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--dataset=data/words", "--budget=2s", "--device=cpu"]
    assert cli.main([*command, "--max_iters=4"]) == 0
    said = capsys.readouterr().err
    assert "sized to 2,700 tokens of text and 2 s of this machine" in said
    assert "2 layers, 32 wide" in said
    written = tomllib.loads((prepared / "out/words/config.toml").read_text(encoding="utf-8"))
    found = best_plan(2700, 16, 2, Speed(flops=3e8))
    for name, value in options(found, 2700, 300, 2).items():
        if name not in ("max_iters", "eval_interval", "warmup_iters", "eval_full", "eval_iters"):
            assert written[name] == value, name
    assert (written["max_iters"], written["eval_interval"]) == (4, 2)
    state = json.loads(
        (prepared / "out/words/checkpoints/iter-00000004/state.json").read_text(encoding="utf-8")
    )
    assert state["dataset"]["name"] == "data/words"


def test_the_same_command_goes_on_and_is_not_sized_anew(
    prepared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["train", "--dataset=words", "--device=cpu", "--max_iters=3"]) == 0
    monkeypatch.setattr(sizing, "measure", lambda machine: Speed(flops=3e11))
    capsys.readouterr()
    assert cli.main(["train", "--dataset=words", "--device=cpu", "--max_iters=5", "--resume",
                     "--out_dir=out/words"]) == 0  # fmt: skip
    assert cli.main(["train", "--dataset=words", "--device=cpu"]) == 1
    said = capsys.readouterr().err
    assert "sized to" not in said
    assert "already holds a run, finished after 5 iterations" in said
    assert cli.main(["train", "--dataset=words", "--device=cpu", "--max_iters=2", "--fresh"]) == 0
    assert "sized to" in capsys.readouterr().err


def test_what_cannot_be_sized(
    prepared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["train", "demo", "--budget=1m"]) == 2
    assert "budget=1m sizes a run without preset or file" in capsys.readouterr().err
    assert cli.main(["train", "--dataset=none"]) == 1
    assert "no dataset at data/none" in capsys.readouterr().err
    (prepared / "short.txt").write_text("to be or not", encoding="utf-8")
    assert cli.main(["prepare", "short.txt"]) == 0
    assert cli.main(["train", "--dataset=short"]) == 1
    assert "too few to learn from" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", "--dataset=words"]) == 2
    assert "the processes cannot find each other" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_one_process_sizes_a_run_for_all(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would measure another speed; what cannot be sized is refused on all, and said once."""

    def work() -> None:
        rank = here().rank
        monkeypatch.setattr(sizing, "measure", lambda _: Speed(flops=1e9 * 10**rank))
        asked = {"dataset": "words", "device": "cpu"}
        config, pace = configure([], asked, budget="1m", checkpoint="", say=silent)
        assert pace
        (tmp_path / str(rank)).write_text(to_toml(config), encoding="utf-8")
        with pytest.raises(UsageError, match="n_layer=0") as refused:
            configure([], {**asked, "n_layer": 0}, budget="1m", checkpoint="", say=silent)
        assert refused.value.quiet == (rank == 1)

    as_ranks(2, work)
    assert (tmp_path / "0").read_text("utf-8") == (tmp_path / "1").read_text("utf-8")


SHAPE = ["--n_layer=2", "--n_head=2", "--n_embd=48", "--block_size=24"]


def written(out: str = "out/words") -> dict[str, Any]:
    return tomllib.loads(Path(out, "config.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        (SHAPE, {"n_layer": 2, "n_head": 2, "n_embd": 48, "block_size": 24},
         "2 layers, 48 wide, context 24"),
        (["--n_layer=3"], {"n_layer": 3}, "3 layers"),
        (["--n_embd=40"], {"n_embd": 40, "n_head": 1}, "40 wide"),
        (["--n_head=5"], {"n_head": 5, "n_embd": 40}, "40 wide"),
        (["--n_kv_head=2"], {"n_head": 2, "n_kv_head": 2, "n_embd": 32}, "32 wide"),
        (["--batch_size=3"], {"batch_size": 3}, "iterations of "),
        (["--gradient_accumulation_steps=2"], {"gradient_accumulation_steps": 2}, "iterations of "),
        (["--n_layer=1", "--bias"], {"family": "gpt2", "optimizer": "adamw", "bias": True},
         "recipe: nanoGPT's, by --bias: gpt2 family, AdamW at 0.001, cosine"),
        (["--learning_rate=3e-3"],
         {"family": "gpt2", "optimizer": "adamw", "learning_rate": 3e-3, "min_lr": 3e-4},
         "recipe: nanoGPT's, by --learning_rate: gpt2 family, AdamW at 0.003"),
        (["--learning_rate=3e-3", "--optimizer=muon"],
         {"family": "llama", "optimizer": "muon", "learning_rate": 3e-3},
         "recipe: bardlet's, by --optimizer: llama family, Muon at 0.02 and AdamW at 0.003"),
        (["--family=gpt2"], {"family": "gpt2", "optimizer": "adamw", "qk_norm": False},
         "recipe: nanoGPT's, by --family"),
        (["--optimizer=adamw"], {"family": "llama", "optimizer": "adamw", "grad_clip": 1.0},
         "recipe: mixed, by --optimizer: llama family, AdamW at 0.001"),
        ([], {"family": "llama", "optimizer": "muon"}, "recipe: bardlet's: llama family"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_given_is_kept_and_what_is_printed_is_trained(
    options: list[str], shape: dict[str, Any], said: str, prepared: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["train", "--dataset=words", "--device=cpu", "--max_iters=2", "--budget=2s"]
    assert cli.main([*command, *options]) == 0
    config = written()
    assert {name: config[name] for name in shape} == shape
    printed = capsys.readouterr()
    assert said in printed.err
    layers = f"  {config['n_layer']} layers, {config['n_embd']} wide, context "
    assert f"{layers}{config['block_size']}, " in printed.err
    tokens = (
        config["batch_size"] * config["gradient_accumulation_steps"] * config["block_size"]
    )  # fmt: skip
    assert f"  2 iterations of {tokens:,} tokens, " in printed.err
    assert f"tokens per iteration: {tokens:,}; 2 iterations" in printed.out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--n_layr=2"], 2, "unknown option n_layr, did you mean n_layer?"),
        (["--n_layer=x", "--max_iters=-1"], 2, "max_iters=-1 is out of range"),
        (["--n_embd=30", "--n_head=4"], 2, "n_embd=30 is not divisible by n_head=4"),
        (["--learning_rate=1e-4", "--min_lr=1e-3"], 2, "min_lr=0.001 is above"),
        (["--block_size=9000"], 1, "block_size=9000 needs at least 9001"),
        (["--lora_rank=2"], 2, "lora_rank=2 trains beside weights that are there already"),
        (["--vocab_size=5"], 2, "vocab_size=5 is below the dataset's"),
        (["--dataset=none"], 1, "no dataset at data/none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_names_and_files_are_checked_before_the_machine_is_measured(
    options: list[str], code: int, words: str, prepared: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def never(machine: Machine) -> Speed:
        raise AssertionError("the machine is measured")

    monkeypatch.setattr(sizing, "measure", never)
    assert cli.main(["train", "--dataset=words", *options]) == code
    assert words in capsys.readouterr().err
    assert not Path("out").exists()
