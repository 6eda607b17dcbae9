"""Presets, TOML files and nanoGPT's Python files: what they say, and that none of them runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from support import a_data_folder

from bardlet.commands import settings
from bardlet.config import FIELDS, TrainConfig, resolve
from bardlet.data.dataset import mixture
from bardlet.errors import UsageError
from bardlet.model import GPT
from bardlet.training.resume import model_config

NANOGPT_STYLE = '''"""a small model of characters,
good for debugging on a laptop"""
# train a miniature model

out_dir = 'out-tiny'
eval_interval = 250 # keep frequent because we'll overfit
always_save_checkpoint = False
dataset = 'tinyshakespeare'

base = 16  # a helper, used below
micro = base // 4
gradient_accumulation_steps = 5 * 8
batch_size = base - micro
'''


def read(folder: Path, text: str, name: str = "own.py") -> dict[str, object]:
    """The options that a file of this text sets, checked."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    layers = settings.load_layers(str(path), lambda: "cpu")
    resolve(layers)
    return {key: value for _, layer in layers for key, value in layer.items()}


def test_a_nanogpt_file_is_read_with_arithmetic_comments_and_helpers(tmp_path: Path) -> None:
    assert read(tmp_path, NANOGPT_STYLE) == {
        "out_dir": "out-tiny",
        "eval_interval": 250,
        "always_save_checkpoint": False,
        "dataset": "tinyshakespeare",
        "gradient_accumulation_steps": 40,
        "batch_size": 12,
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate = 1e-3 # with baby networks", 1e-3),
        ("min_lr = -(-1e-4)", 1e-4),
        ("max_iters = 600000 // 4 + 1", 150001),
        ("max_iters = (2 - 1) * 3", 3),
        ("dropout = 1 / 5", 0.2),
        ("wandb_run_name = 'a # b'", "a # b"),
        ("bias = True", True),
        ("block_size = 2**8", 256),
        ("learning_rate = 6 * 10**-4", 6 * 10**-4),
        ("block_size = 1 << 10", 1024),
        ("n_layer = 7 % 4", 3),
        ("max_iters = int(5e3)", 5000),
        ("warmup_iters = int(0.02 * 1e4) + round(2.5)", 202),
        ("max_iters = round(1e4 / 3, 0)", 3333.0),
        ("min_lr = min(1e-5, float(1) / 10, abs(-2))", 1e-5),
        ("batch_size = 8 if 4 > 3 else 16", 8),
        ("batch_size = 8 if not (1 and 0) and 'a' == 'b' or False else 16", 16),
        (
            "wandb_run_name = f'gpt-{2 + 2}-{1e-3:.0e}-{0.25:>6.1%}-{True}'",
            "gpt-4-1e-03- 25.0%-True",
        ),
        ("wandb_run_name = f'{\"a\"!r}' + str(12)", "'a'12"),
        ("eval_interval = log_interval = 5", 5),
        ("n_head: int = 2 * 2", 4),
        (
            "import torch\ndtype = 'bfloat16' if torch.cuda.is_available() and "
            "torch.cuda.is_bf16_supported() else 'float16'",
            "auto",
        ),
        ("import torch\ncompile = torch.cuda.is_available() and 3 > 4", False),
    ],
)
def test_a_nanogpt_line_has_the_value_that_python_gives(
    line: str, expected: object, tmp_path: Path
) -> None:
    value = next(iter(read(tmp_path, line).values()))
    assert value == expected
    assert type(value) is type(expected)


def test_nanogpts_name_of_a_run_has_the_time_in_it(tmp_path: Path) -> None:
    (name,) = read(tmp_path, "import time\nwandb_run_name = 'ft-' + str(time.time())").values()
    assert str(name).startswith("ft-1") and float(str(name)[3:]) > 1.7e9


def test_a_negative_number_is_read_and_its_bound_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.py: n_layer=-4 is out of range"):
        read(tmp_path, "n_layer = -4")


def test_a_helper_that_no_line_uses_is_an_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown option n_layr, did you mean n_layer\?"):
        read(tmp_path, "n_layr = 4")


@pytest.mark.parametrize(
    "statement",
    [
        "import os",
        "import time as t",
        "import time, os",
        "from os import system",
        "MARK",
        "n_layer = MARK",
        "n_layer = __import__('os').getpid()",
        "n_layer = (4).real",
        "n_layer = 10 ** 10 ** 10",
        "n_layer = 1 << 10**9",
        "n_layer = 1 << 4 << 10**300",
        "n_layer = 4 >> -1",
        "n_layer = (-4) ** 0.5",
        "n_layer = 2.0 ** 10**6",
        "n_layer = '%99999d' % 4",
        "n_layer = int('4')",
        "n_layer = int(4, 5)",
        "n_layer = int(1e999)",
        "n_layer = round(4, -(10**9))",
        "n_layer = max(4, 'a')",
        "n_layer = max(4, key=4)",
        "n_layer = torch.load(4)",
        "n_layer = torch.cuda.is_available(4)",
        "n_layer = 'a' < 4",
        "n_layer = 1 < 2 < 3 < 'a'",
        "n_layer = 4 if MARK else 5",
        "n_layer = f'{MARK}'",
        "n_layer = f'{4:99999}'",
        "n_layer = f'{4:{99999}}'",
        "n_layer = f'{4:.99999f}'",
        "n_layer = f'{4!a}'",
        "n_layer = 'a' * 1000",
        "n_layer = 'a' + 'b'",
        "n_layer = -'a'",
        "n_layer = ~4",
        "n_layer = [4][0]",
        "n_layer = (lambda: 4)()",
        "n_layer = None",
        "n_layer = 4j",
        "n_layer = b'4'",
        "n_layer = unknown_name",
        "n_layer, = 2,",
        "n_layer = n_head[0] = 4",
        "n_layer: int",
        "n_layer += 1",
        "n_head @= 1",
        "n_layer = (x := 4)",
        "if True: n_layer = 4",
        "def f(): pass",
        "class A: n_layer = 4",
        "exec('n_layer = 4')",
        "n_layer = 4 / 0",
        "n_layer = 1e308 * 10",
        "n_layer = 4 4",
        "n_layer = 4\0",
        "n_layer = " + "-" * 100_000 + "1",
        "n_layer = " + "(" * 5000 + "1" + ")" * 5000,
        "n_layer = 1" + "0" * 5000,
    ],
    ids=lambda text: text[:40],
)
def test_anything_else_in_a_nanogpt_file_is_refused_and_never_executed(
    statement: str, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    text = statement.replace("MARK", f"open({str(marker)!r}, 'w').write('x')")
    with pytest.raises(UsageError, match=r"own\.py"):
        read(tmp_path, f"n_head = 2\n{text}\n")
    assert not marker.exists()


def test_a_number_that_grows_by_squaring_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    # thirty more such lines would take all memory there is
    text = "size = 10\n" + "size = size * size\n" * 16 + "n_layer = 1\n"
    with pytest.raises(UsageError, match="too large"):
        read(tmp_path, text)


@pytest.mark.parametrize("line", ["a = a + a", "a = a + (a + (a + a))", "a += a", "a = a * 2",
                                  "a = [a, a]", "a = (a, a)", "a = f'{a}{a}'"])  # fmt: skip
def test_a_text_that_grows_by_doubling_is_refused_before_it_fills_memory(
    line: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, "a = 'xyz'\n" + f"{line}\n" * 20 + "dataset = a")
    assert len(str(caught.value)) < 1000


def test_a_deep_sum_is_read_without_writing_it_out_at_each_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes time quadratic in the depth."""
    monkeypatch.setattr("ast.unparse", Mock(side_effect=AssertionError))
    text = "n_layer = " + "(1 - " * 80 + "4" + ")" * 80
    assert read(tmp_path, text) == {"n_layer": 4}


def test_a_refused_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.py, line 3: 'hex\(4\)' is not a constant"):
        read(tmp_path, "n_head = 2\n\nn_layer = hex(4)\n")


@pytest.mark.parametrize(
    ("kind", "layers"), [("cpu", 2), ("gpu", 3)], ids=["a laptop", "a machine with a GPU"]
)
def test_the_table_of_this_machine_wins_over_the_rest_of_the_file(
    kind: str, layers: int, tmp_path: Path
) -> None:
    path = tmp_path / "own.toml"
    path.write_text("n_layer = 1\n[cpu]\nn_layer = 2\n[gpu]\nn_layer = 3\n", encoding="utf-8")
    assert resolve(settings.load_layers(str(path), lambda: kind)).n_layer == layers


def test_the_machine_is_only_asked_where_a_file_has_such_a_table(tmp_path: Path) -> None:
    def asked() -> str:
        raise AssertionError("torch would be imported")

    path = tmp_path / "own.toml"
    path.write_text("n_layer = 1\n", encoding="utf-8")
    assert resolve(settings.load_layers(str(path), asked)).n_layer == 1


def test_the_table_follows_the_device_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[cpu]\nn_layer = 2\n[gpu]\nn_layer = 3\n", encoding="utf-8")
    for device, layers in (("cpu", 2), ("cuda", 3)):
        config = settings.resolve_settings([str(path)], {"device": device}, lambda line: None)
        assert config.n_layer == layers


@pytest.mark.parametrize(
    "text",
    ["n_layer = ", "n_layer = 1" + "0" * 5000, "n_layer = " + "[" * 20_000, "n_layer = 1\n" * 2],
    ids=["half a line", "5000 digits", "deeply nested", "twice"],
)
def test_a_damaged_toml_file_is_a_usage_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"own\.toml"):
        read(tmp_path, text, "own.toml")


def test_a_table_of_a_toml_file_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown option model"):
        read(tmp_path, "[model]\nn_layer = 2\n", "own.toml")


def test_files_that_cannot_be_read_are_usage_errors(tmp_path: Path) -> None:
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"wandb_project = '\xe9'\n")
    for name in (str(tmp_path / "none.toml"), str(tmp_path / "none.py"), str(latin)):
        with pytest.raises(UsageError, match=r"none\.|latin\.py"):
            settings.load_layers(name, lambda: "cpu")


def test_a_mistyped_preset_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError) as error:
        settings.load_layers("shakespear-char", lambda: "cpu")
    assert error.value.message == "no preset 'shakespear-char'"
    assert error.value.hint.startswith("Did you mean shakespeare-char? Presets are chat-dpo, ")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("name", settings.preset_names())
def test_every_preset_builds_a_model(name: str, kind: str) -> None:
    config = resolve(settings.load_layers(name, lambda: kind))
    with torch.device("meta"):  # which adapters stand beside
        model = GPT(model_config(dataclasses.replace(config, lora_rank=0), 65))
    assert model.num_params() > 10_000
    if not config.eval_only:
        assert config.out_dir == f"out/{name}"
    if config.init_from == "scratch":
        texts = {"gpt2-124m": "openwebtext", "gpt2-124m-fast": "fineweb-edu"}
        assert config.dataset == texts.get(name, "tinyshakespeare")


def test_the_classic_preset_is_the_seeds_recipe() -> None:
    given = resolve(settings.load_layers("shakespeare-char-classic", lambda: "gpu"))
    expected = TrainConfig(
        out_dir="out/shakespeare-char-classic", dataset="tinyshakespeare", family="gpt2",
        n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64, dropout=0.2,
        gradient_accumulation_steps=1, optimizer="adamw", learning_rate=1e-3, min_lr=1e-4,
        schedule="cosine", max_iters=5000, lr_decay_iters=5000, warmup_iters=100, beta2=0.99,
        eval_interval=250, eval_iters=200, log_interval=10, always_save_checkpoint=False,
        eval_on_start=True,
    )  # fmt: skip
    assert differences(given, expected) == {}


def test_the_classic_cpu_preset_is_nanogpts_documented_one() -> None:
    given = resolve(settings.load_layers("shakespeare-char-classic-cpu", lambda: "cpu"))
    expected = TrainConfig(
        out_dir="out/shakespeare-char-classic-cpu", dataset="tinyshakespeare", family="gpt2",
        n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12, dropout=0.0,
        gradient_accumulation_steps=1, optimizer="adamw", learning_rate=1e-3, min_lr=1e-4,
        schedule="cosine", max_iters=2000, lr_decay_iters=2000, warmup_iters=100, beta2=0.99,
        eval_interval=250, eval_iters=20, log_interval=10, always_save_checkpoint=False,
        eval_on_start=True,
        device="cpu", dtype="float32",
    )  # fmt: skip
    assert differences(given, expected) == {}


def test_the_preset_of_gpt2_is_nanogpts_recipe() -> None:
    """config/train_gpt2.py of nanoGPT, whose defaults are TrainConfig's."""
    given = resolve(settings.load_layers("gpt2-124m", lambda: "gpu"))
    expected = TrainConfig(
        out_dir="out/gpt2-124m", vocab_size=50304, eval_interval=1000, eval_full=False,
        log_interval=10, max_iters=600_000, lr_decay_iters=600_000, compile=True,
    )  # fmt: skip
    assert differences(given, expected) == {}
    assert given.batch_size * given.gradient_accumulation_steps * given.block_size == 491_520


@pytest.mark.parametrize("name", ["gpt2-124m", "gpt2-124m-fast"])
def test_expected_losses_are_marked_as_those_of_others(name: str) -> None:
    text = (settings.PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    comment = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    assert "Expected, from the literature and not measured here: " in comment
    assert {"gpt2-124m": "2.85 after 295 billion tokens",
            "gpt2-124m-fast": "3.28 after 1.70 billion tokens"}[name] in comment  # fmt: skip


def differences(a: TrainConfig, b: TrainConfig) -> dict[str, tuple[object, object]]:
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in FIELDS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def test_a_file_of_a_fork_of_nanogpt_is_read(tmp_path: Path) -> None:
    """With helpers, conditions on the machine and on what was assigned, and the time."""
    text = """
import time
import torch

size = 'small'
device = 'cuda' if torch.cuda.is_available() else 'cpu'
dtype = 'bfloat16' if device == 'cuda' else 'float32'
n_layer = 6 if size == 'small' else 2**4
n_embd = 2**6 * n_layer
max_iters = int(5e3)
lr_decay_iters = max_iters
max_iters *= 2
wandb_run_name = f'{size}-{n_layer}x{n_embd}-{int(time.time())}'
"""
    found = read(tmp_path, text)
    name = found.pop("wandb_run_name")
    assert found == {
        "device": "cpu", "dtype": "float32", "n_layer": 6, "n_embd": 384, "lr_decay_iters": 5000,
        "max_iters": 10000,
    } or found["device"] == "cuda"  # fmt: skip
    assert str(name).startswith("small-6x384-1")


def test_epochs_set_iterations_and_evaluations(tmp_path: Path) -> None:
    folder = a_data_folder(tmp_path / "data")
    tokens = len(mixture.opened(str(folder)).splits["train"])
    flags = {"dataset": str(folder), "block_size": "16", "batch_size": "4", "epochs": "2.5"}
    say = Mock()
    config = settings.resolve_settings(["demo"], flags, say)
    windows = (tokens - 1) // 16 - 1  # as loader.StreamBatches has them
    assert config.max_iters == math.ceil(2.5 * windows / 4)
    assert config.eval_interval == round(windows / 4)
    assert config.epochs == 0  # config.toml has the numbers
    assert f"2.5 epochs of {windows:,} windows of 16 tokens" in say.call_args_list[-1][0][0]
    fixed = settings.resolve_settings(["demo"], {**flags, "max_iters": "7"}, say)
    preset = settings.resolve_settings(["demo"], {}, say)
    assert (fixed.max_iters, fixed.eval_interval, fixed.epochs) == (7, preset.eval_interval, 0)


def test_a_run_of_one_stage_leaves_out_what_a_file_says_of_a_chain(tmp_path: Path) -> None:
    chain = tmp_path / "chain.toml"
    chain.write_text(
        "stages = 3\nstage_iters = 9\nstage_options = '3: max_iters=7'\ndistill_weight = 0.9\n"
    )

    def resolved(**flags: object) -> TrainConfig:
        flags = {"out_dir": str(tmp_path / "run"), "stages": "1", **flags}
        return settings.resolve_settings([str(chain)], flags, lambda _: None)

    alone = resolved()
    assert (alone.stages, alone.stage_iters, alone.stage_options) == (1, 0, "")
    assert alone.distill_weight == FIELDS["distill_weight"].default
    assert resolved(distill_from="out/a").distill_weight == 0.9  # it has a teacher
    with pytest.raises(UsageError, match="stage_iters needs stages"):
        resolved(stage_iters="900")
