"""Options: how layers of them become one configuration, and what is said of those that cannot."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import MonkeyPatch

from bardlet import cli, train
from bardlet.commands import settings
from bardlet.config import FIELDS, TrainConfig, coerce, resolve, to_toml
from bardlet.errors import UsageError


def one(**options: object) -> TrainConfig:
    return resolve([("command line", options)])


def refused(**options: object) -> str:
    with pytest.raises(UsageError) as error:
        one(**options)
    return error.value.message


def resolved(*bases: str, **flags: object) -> TrainConfig:
    return settings.resolve_settings(bases, flags, lambda line: None)


def through_cli(monkeypatch: MonkeyPatch, *args: str) -> TrainConfig:
    """The configuration that `bardlet train ARGS` would train with."""
    given: list[TrainConfig] = []

    def record(config: TrainConfig, *args: object, **options: object) -> train.Result:
        given.append(config)
        return train.Result(
            out_dir="", iter=0, val_loss=1.0, best_val_loss=1.0, train_s=0.0, stopped=False
        )

    monkeypatch.setattr(train, "train", record)
    assert cli.main(["train", *args]) == 0
    return given[0]


def test_later_layers_win_over_earlier_ones() -> None:
    config = resolve([("a", {"n_layer": 2, "n_head": 2}), ("b", {"n_layer": "3"})])
    assert (config.n_layer, config.n_head, config.n_embd) == (3, 2, TrainConfig().n_embd)


def test_defaults_preset_file_and_flags_are_layered_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("block_size = 32\nbatch_size = 5\n", encoding="utf-8")
    config = resolved("shakespeare-char-classic-cpu", str(file), batch_size="7")
    assert config.weight_decay == TrainConfig().weight_decay  # a default
    assert (config.n_embd, config.block_size, config.batch_size) == (128, 32, 7)


def datasets(root: Path, *names: str) -> None:
    """Folders in data/ that look like datasets, prepared in this order."""
    for i, name in enumerate(names):
        manifest = root / "data" / name / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        os.utime(manifest, (i, i))


def test_without_a_base_the_default_preset_is_taken_and_said(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    config = settings.resolve_settings([], {"device": "cpu"}, lines.append)
    assert lines == ["no preset or file named: taking the preset shakespeare-char"]
    assert config == resolved("shakespeare-char", device="cpu")


def test_without_a_base_the_dataset_prepared_last_is_taken_and_said(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datasets(tmp_path, "old", "new")
    lines: list[str] = []
    config = settings.resolve_settings([], {"device": "cpu"}, lines.append)
    assert (config.dataset, config.out_dir) == ("new", "out/new")
    assert lines[0] == "no dataset named: taking the newest one, data/new"
    assert resolved(device="cpu", dataset="old").dataset == "old"
    assert resolved("shakespeare-char-classic-cpu").dataset == "tinyshakespeare"


@pytest.mark.parametrize(
    "args", [["--n_layer=4"], ["--n-layer=4"], ["--n_layer", "4"], ["--n-layer", "4"]]
)
def test_an_option_may_have_hyphens_and_a_separate_value(
    args: list[str], monkeypatch: MonkeyPatch
) -> None:
    assert through_cli(monkeypatch, "shakespeare-char-classic-cpu", *args).n_layer == 4


def test_flags_after_and_before_a_preset_are_read_alike(monkeypatch: MonkeyPatch) -> None:
    preset = "shakespeare-char-classic-cpu"
    before = through_cli(monkeypatch, "--max_iters", "7", preset)
    assert before == through_cli(monkeypatch, preset, "--max_iters", "7")
    assert before.max_iters == 7


def test_a_bare_boolean_leaves_the_preset_alone(monkeypatch: MonkeyPatch) -> None:
    for args in (["--fresh", "demo"], ["--fresh", "True", "demo"], ["--fresh=1", "demo"]):
        given = through_cli(monkeypatch, *args, "--out_dir=out/nowhere")
        assert (given.fresh, given.n_layer) == (True, 4)
    assert through_cli(monkeypatch, "--fresh", "false", "demo").fresh is False


def test_a_boolean_option_without_a_value_is_true(monkeypatch: MonkeyPatch) -> None:
    assert through_cli(monkeypatch, "shakespeare-char-classic-cpu", "--bias").bias is True


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("max_iters", "5e3", 5000),
        ("max_iters", 5e3, 5000),
        ("max_iters", " 12 ", 12),
        ("seed", str(2**63 - 1), 2**63 - 1),
        ("seed", 2**53 + 1, 2**53 + 1),
        ("learning_rate", 1, 1.0),
        ("learning_rate", "6e-4", 6e-4),
        ("bias", "True", True),
        ("bias", "false", False),
        ("bias", "1", True),
        ("bias", 0, False),
        ("bias", True, True),
        ("compile", "auto", "auto"),
        ("compile", "True", True),
        ("compile", False, False),
        ("compile", "0", False),
        ("tf32", "auto", "auto"),
        ("tf32", "true", True),
        ("out_dir", "out/x", "out/x"),
    ],
)
def test_values_come_out_in_the_type_of_their_option(
    name: str, given: object, expected: object
) -> None:
    result = coerce(name, given)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        ("n_layer", "four", "n_layer=four is not an integer"),
        ("n_layer", "1.5", "n_layer=1.5 is not an integer"),
        ("n_layer", True, "n_layer=True is not an integer"),
        ("n_layer", "inf", "n_layer=inf is not an integer"),
        ("n_layer", [4], "n_layer=[4] is not an integer"),
        ("n_layer", "", "n_layer= is not an integer"),
        ("dropout", "nan", "dropout=nan is not a number"),
        ("dropout", False, "dropout=False is not a number"),
        ("bias", "maybe", "bias=maybe is not true or false"),
        ("compile", "maybe", "compile=maybe is not true or false"),
        ("n_layer", 0, "n_layer=0 is out of range, it must be at least 1"),
        ("warmup_iters", -1, "warmup_iters=-1 is out of range, it must be at least 0"),
        ("dropout", 1.0, "dropout=1.0 is out of range, it must be from 0 to 0.99"),
        ("seed", 2**63, f"seed={2**63} is out of range, it must be from 0 to {2**63 - 1}"),
        ("family", "rnn", "family=rnn is not one of gpt2, llama"),
        ("dtype", "int8", "dtype=int8 is not one of auto, float32, bfloat16, float16"),
        ("out_dir", "  ", "out_dir is empty"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused(name: str, given: object, problem: str) -> None:
    assert refused(**{name: given}) == f"command line: {problem}"


def test_an_unknown_option_gets_the_nearest_name() -> None:
    assert refused(n_layr=4) == "command line: unknown option n_layr, did you mean n_layer?"
    assert refused(zzzzzz=4) == "command line: unknown option zzzzzz"


def test_every_problem_of_every_layer_is_reported_at_once() -> None:
    layers: list[tuple[str, dict[str, object]]] = [
        ("own.toml", {"n_layr": 4, "n_head": "x"}),
        ("command line", {"batch_size": 0, "n_embd": 100, "learning_rate": 0}),
    ]
    with pytest.raises(UsageError) as error:
        resolve(layers)
    text = error.value.message
    assert "own.toml: unknown option n_layr, did you mean n_layer?" in text
    assert "own.toml: n_head=x is not an integer" in text
    assert "command line: batch_size=0 is out of range, it must be at least 1" in text
    assert "n_embd=100 is not divisible by n_head=12" in text
    assert "learning_rate=0.0 trains nothing" in text or "learning_rate=0 trains nothing" in text
    assert error.value.hint == "`bardlet train --help` lists every option"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd=10 is not divisible by n_head=3"),
        ({"min_lr": 1e-2, "learning_rate": 1e-3}, "min_lr=0.01 is above learning_rate=0.001"),
        ({"fresh": True, "init_from": "resume"}, "fresh starts anew and resume continues"),
        ({"family": "llama", "n_embd": 9, "n_head": 3}, "need an even head size, this one is 3"),
        ({"family": "llama", "n_head": 12, "n_kv_head": 5}, "not divisible by n_kv_head=5"),
        ({"family": "llama", "bias": True}, "bias=True belongs to family gpt2"),
        ({"qk_norm": True}, "qk_norm=True belongs to family llama"),
        ({"head_dim": 64}, "head_dim=64 belongs to family llama"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, object], problem: str
) -> None:
    assert problem in refused(**options)


def test_options_that_only_look_contradictory_are_taken() -> None:
    assert one(min_lr=1, decay_lr=False).min_lr == 1.0
    assert one(family="llama", n_embd=100, n_head=3, head_dim=32).head_dim == 32
    assert one(family="llama", n_head=12, n_kv_head=4).n_kv_head == 4


def option_values() -> st.SearchStrategy[dict[str, object]]:
    """Legal values of some options. No subnormal floats: training turns them off process-wide."""
    rate = st.floats(1e-12, 1e6, allow_subnormal=False)
    text = st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
    ).filter(lambda s: s == s.strip() != "")  # fmt: skip
    return st.fixed_dictionaries(
        {},
        optional={
            "out_dir": text, "dataset": text, "wandb_project": text,
            "n_layer": st.integers(1, 10**6), "seed": st.integers(0, 2**62),
            "max_iters": st.integers(0, 10**12), "learning_rate": rate,
            "min_lr": st.just(0.0), "dropout": st.floats(0, 0.99, allow_subnormal=False),
            "norm_eps": st.sampled_from([0, 1e-6, 1.0]), "bias": st.booleans(),
            "compile": st.sampled_from(["auto", True, False]),
            "tf32": st.sampled_from(["auto", True, False]),
        },
    )  # fmt: skip


@given(option_values())
def test_a_configuration_written_as_toml_is_read_back_equal(options: dict[str, object]) -> None:
    config = one(min_lr=0.0, **{k: v for k, v in options.items() if k != "min_lr"})
    assert resolve([("toml", tomllib.loads(to_toml(config)))]) == config


def test_the_written_configuration_names_every_option(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(TrainConfig(out_dir="out/\U0001f600 \x7f")), encoding="utf-8")
    assert tomllib.loads(path.read_text(encoding="utf-8")).keys() == FIELDS.keys()
    assert resolved(str(path)).out_dir == "out/\U0001f600 \x7f"


def test_a_resumed_run_starts_from_its_own_configuration(tmp_path: Path) -> None:
    config = one(out_dir=str(tmp_path), n_layer=3, max_iters=10, fresh=True)
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    resumed = resolved(
        "shakespeare-char-classic-cpu", out_dir=str(tmp_path), init_from="resume", max_iters="20"
    )
    expected = dataclasses.replace(config, fresh=False, init_from="resume", max_iters=20)
    assert resumed == expected


def test_a_resumed_run_keeps_its_own_dataset(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets(tmp_path, "mine", "prepared-later")
    (tmp_path / "out" / "mine").mkdir(parents=True)
    config = one(out_dir="out/mine", dataset="mine")
    Path("out/mine/config.toml").write_text(to_toml(config), encoding="utf-8")
    assert resolved(out_dir="out/mine", init_from="resume").dataset == "mine"


def test_a_resumed_run_is_not_checked_against_a_preset_it_does_not_use(tmp_path: Path) -> None:
    config = one(out_dir=str(tmp_path), learning_rate=0.5, n_head=7, n_embd=49)
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    resumed = resolved(out_dir=str(tmp_path), init_from="resume", min_lr="0.4", n_embd="49")
    assert (resumed.min_lr, resumed.n_embd) == (0.4, 49)


def test_resuming_where_there_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume at"):
        resolved("shakespeare-char-classic-cpu", out_dir=str(tmp_path / "x"), init_from="resume")


def test_the_help_of_train_lists_every_option_and_preset(
    capsys: pytest.CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "--help"])
    assert not exit.value.code
    text = capsys.readouterr().out
    assert [name for name in FIELDS if f"--{name}" not in text] == []
    assert [name for name in settings.preset_names() if name not in text] == []


def test_spaces_around_a_text_belong_to_it(tmp_path: Path) -> None:
    config = one(sample_start=" To be, ", dataset="a", family=" llama ", n_layer=" 3 ")
    assert (config.sample_start, config.family, config.n_layer) == (" To be, ", "llama", 3)
    (tmp_path / "again.toml").write_text(to_toml(config), encoding="utf-8")
    assert resolved(str(tmp_path / "again.toml")) == config
    assert "out_dir is empty" in refused(out_dir=" ")


def test_tokens_per_step_sets_the_micro_batches() -> None:
    options = {"tokens_per_step": 64 * 1024, "batch_size": 12, "block_size": 1024}
    config = resolve([("test", options)])
    assert config.sequences_per_iter == 64 and config.gradient_accumulation_steps == 6
    assert resolve([("test", {"batch_size": 3})]).sequences_per_iter == 120
    for tokens, nearest in ((1000, "0 or 1024"), (5000, "4096 or 5120")):
        with pytest.raises(UsageError, match=f"tokens_per_step={tokens}: multiples .* {nearest}"):
            resolve([("test", {"tokens_per_step": tokens})])
