"""Over the whole space of options: what is valid trains and comes back, what is not is said.

Values are drawn from what config.FIELDS says of each option, shapes small. An example goes through
the command line in this process: two iterations, resumed for a third, and a sample.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch
from support import some_text

from bardlet import cli
from bardlet.config import FIELDS
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus, Source
from bardlet.run import run_folder
from bardlet.system import device

# where all valid values would be too large for a test, or would mean another machine
SMALL: dict[str, st.SearchStrategy[Any]] = {
    "max_iters": st.just(2),
    "init_from": st.just("scratch"),
    "fresh": st.just(False),
    "eval_only": st.just(False),
    "wandb_log": st.just(False),
    "trackio": st.just(False),
    "tensorboard": st.just(False),
    "distill_from": st.just(""),
    "doc_mask": st.just(False),  # which needs documents
    "stream": st.just(False),  # which needs a stream
    "stages": st.just(1),
    "stage_iters": st.just(0),
    "stage_options": st.just(""),
    "lora_rank": st.just(0),  # which needs a model to begin from
    "objective": st.just("lm"),  # dpo needs pairs
    "dpo_beta": st.just(0.1),
    "tokens_per_step": st.integers(0, 4),  # blocks
    "eval_interval": st.integers(1, 3),
    "eval_iters": st.integers(1, 3),
    "batch_size": st.integers(1, 4),
    "gradient_accumulation_steps": st.integers(1, 3),
    "block_size": st.sampled_from([1, 2, 7, 16, 32]),
    "n_layer": st.integers(1, 2),
    "n_head": st.integers(1, 4),
    "n_embd": st.integers(1, 48) | st.sampled_from([32, 64]),
    "n_kv_head": st.integers(0, 4),
    "head_dim": st.sampled_from([0, 0, 2, 6, 32]),
    "mlp_dim": st.sampled_from([0, 0, 1, 5, 32]),
    "vocab_size": st.sampled_from([0, 0, 20, 64, 97]),
    "keep_checkpoints": st.integers(1, 3),
    "device": st.sampled_from(["auto", "cpu"]),
    "dtype": st.sampled_from(["auto", "float32", "bfloat16"]),  # float16 is for GPUs
    # far from where two iterations diverge, which is no matter of validity
    "learning_rate": st.floats(1e-9, 1e-2, allow_subnormal=False),
    "muon_lr": st.floats(0, 0.1, allow_subnormal=False),
    "min_lr": st.floats(0, 1e-2, allow_subnormal=False),
    "weight_decay": st.floats(0, 1, allow_subnormal=False),
    "norm_eps": st.floats(1e-12, 1e-2, allow_subnormal=False),
    "rope_theta": st.floats(1, 1e9, allow_subnormal=False),
}
PLACES = {"out_dir", "dataset"}  # given by the test
EXAMPLES = {"max_examples": 30}
MORE = {"max_examples": 1000, "derandomize": False}
quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]


def values(name: str) -> st.SearchStrategy[Any]:
    """Valid values of an option alone, by its metadata."""
    if name in SMALL:
        return SMALL[name]
    field = FIELDS[name]
    known = field.metadata
    if known["choices"]:
        return st.sampled_from(known["choices"])
    if field.type == "bool":
        return st.booleans()
    if field.type == "int":
        high = known["high"] if known["high"] is not None else 2**63 - 1
        return st.integers(int(known["low"]), int(high)) | st.integers(0, 5).map(
            lambda n: n + int(known["low"])
        )
    if field.type == "float":
        high = known["high"] if known["high"] is not None else 1e6
        return st.floats(known["low"], high, allow_subnormal=False)
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
        str.strip
    )


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    """Some of the options, each valid and none in contradiction with another or a default."""
    names = draw(st.sets(st.sampled_from(sorted(FIELDS.keys() - PLACES))))
    names |= {"n_layer", "n_head", "n_embd", "block_size", "max_iters", "batch_size", "device",
              "gradient_accumulation_steps", "learning_rate", "min_lr", "family",
              "eval_iters"}  # fmt: skip
    options = {name: draw(values(name), label=name) for name in sorted(names)}
    if options["family"] == "gpt2":
        for name in ("n_kv_head", "head_dim", "qk_norm", "qkv_bias", "tie_embeddings"):
            options.pop(name, None)
        options["n_embd"] = options["n_embd"] * options["n_head"] if options["n_embd"] < 32 else 64
        options["n_head"] = options["n_head"] if options["n_embd"] % options["n_head"] == 0 else 2
    else:
        options.pop("bias", None)
        if options.get("qk_norm"):
            options.pop("qkv_bias", None)
        if options.get("n_kv_head"):
            options["n_head"] *= options["n_kv_head"]
        if not options.get("head_dim"):
            options["n_embd"] = 2 * options["n_head"] * max(1, options["n_embd"] // 8)
    if not options.get("distill_from"):
        for name in ("distill_weight", "distill_temperature"):
            options.pop(name, None)
    options["min_lr"] = min(options["min_lr"], options["learning_rate"])
    options["tokens_per_step"] = options["block_size"] * options.get("tokens_per_step", 0)
    return options


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "words"
    source = Source(name="words.txt", bytes=1200, sha256="0" * 64)
    prepare(Corpus(name="words", text=some_text(1200), sources=(source,)), folder)
    (folder.parent / "plain.toml").touch()  # nothing but the defaults
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: MonkeyPatch) -> Iterator[None]:
    """Do not measure the machine or compile; leave the process as it was."""
    monkeypatch.setattr(device, "measure_flops", lambda *_: 1e9)
    monkeypatch.setattr(device, "try_compile", lambda model, *_: model)
    yield
    torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def out_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder / "run"
    finally:
        shutil.rmtree(folder)


def command(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; never a traceback or an internal error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        code = cli.main(args)
    torch.set_flush_denormal(False)  # which a command sets, and hypothesis cannot bear
    said = err.getvalue()
    assert "Traceback" not in said and "internal error" not in said, said
    return code, out.getvalue(), said


def flags(options: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def goes_all_the_way(options: dict[str, Any], dataset: Path) -> None:
    """Train two iterations, resume for a third, sample, measure: each succeeds."""
    with out_dir() as run:
        start = ["train", str(dataset.parent / "plain.toml"), f"--dataset={dataset}"]
        code, _, err = command(*start, f"--out_dir={run}", *flags(options))
        assert code == 0, err
        assert run_folder.newest(run).name == "iter-00000002"
        entries = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert any(json.loads(entry)["type"] == "eval" for entry in entries)
        code, out, err = command("train", "--resume", f"--out_dir={run}", "--max_iters=3")
        assert code == 0, err
        assert f"resuming {run} at iteration 2" in out
        assert run_folder.newest(run).name == "iter-00000003"
        code, out, err = command(
            "sample", str(run), "--max_new_tokens=40", "--num_samples=2", "--json"
        )
        assert code == 0, err
        assert [len(text) for text in json.loads(out)["samples"]] == [41, 41]
        code, out, err = command("eval", str(run), "--json")
        assert code == 0, err
        assert math.isfinite(json.loads(out)["loss"])


@settings(**EXAMPLES, suppress_health_check=quiet)
@given(options=valid())
def test_a_valid_config_trains_resumes_and_samples(options: dict[str, Any], dataset: Path) -> None:
    goes_all_the_way(options, dataset)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(**MORE, suppress_health_check=quiet)
@given(options=valid())
def test_many_valid_configs_train_resume_and_sample(options: dict[str, Any], dataset: Path) -> None:
    goes_all_the_way(options, dataset)


def beyond(name: str) -> st.SearchStrategy[str]:
    """Values that an option cannot have, as they are typed."""
    field = FIELDS[name]
    known = field.metadata
    anything = st.sampled_from(["\0"] if field.default == "" else ["\0", "", " "])
    if field.type == "str" and not known["choices"]:
        return anything
    anything |= st.sampled_from(["maybe", "nan", "1e", "-", "[1]", "None", "1,5", "\u0661\u0662x"])
    if field.type in ("int", "float"):
        anything |= st.sampled_from(["inf", "-inf", "1e400", "-1e400", "9" * 5000, "true", "0x10"])
    if field.type == "int":
        anything |= st.sampled_from(["0.5", "1.5e0", "1e-3", "1e30", str(2**63), str(-(2**63) - 1)])
        anything |= st.integers(max_value=int(known["low"]) - 1).map(str)
        if known["high"] is not None:
            anything |= st.integers(min_value=int(known["high"]) + 1).map(str)
    if field.type == "float":
        anything |= st.floats(
            max_value=known["low"], exclude_max=True, allow_nan=False, allow_subnormal=False
        ).map(str)
        if known["high"] is not None:
            anything |= st.floats(
                min_value=known["high"], exclude_min=True, allow_nan=False, allow_subnormal=False
            ).map(str)
    return anything


# what is wrong together, by the options that are
CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    ("n_embd", {"family": "gpt2", "n_embd": 33, "n_head": 2}),
    ("learning_rate", {"learning_rate": 0, "min_lr": 0}),
    ("min_lr", {"learning_rate": 1e-4, "min_lr": 1e-3, "decay_lr": True}),
    ("fresh", {"fresh": True, "init_from": "resume"}),
    ("head size", {"family": "llama", "n_embd": 6, "n_head": 2, "head_dim": 0}),
    ("head size", {"family": "llama", "head_dim": 3}),
    ("n_kv_head", {"family": "llama", "n_head": 3, "n_kv_head": 2, "head_dim": 2}),
    ("n_kv_head", {"family": "llama", "n_head": 2, "n_kv_head": 4, "head_dim": 2}),
    ("bias", {"family": "llama", "bias": True}),
    ("head_dim", {"family": "gpt2", "head_dim": 8}),
    ("qk_norm", {"family": "gpt2", "qk_norm": True}),
    ("qkv_bias", {"family": "gpt2", "qkv_bias": True}),
    ("qkv_bias", {"family": "llama", "qk_norm": True, "qkv_bias": True}),
    ("n_kv_head", {"family": "gpt2", "n_kv_head": 1}),
    ("tie_embeddings", {"family": "gpt2", "tie_embeddings": True}),
    ("device", {"device": "tpu"}),
    ("device", {"device": "meta"}),
    ("device", {"device": "cpu:one"}),
    ("device", {"device": "\u202ecpu"}),
    ("dtype", {"dtype": "float16", "device": "cpu"}),
    ("backend", {"backend": "pigeon"}),
    ("vocab_size", {"vocab_size": 3}),
]


@st.composite
def invalid(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A valid configuration with something wrong in it, and what has to be named of it."""
    options = draw(valid())
    names: list[str] = draw(
        st.lists(st.sampled_from(sorted(FIELDS.keys() - PLACES)), max_size=3, unique=True)
    )
    for name in names:
        options[name] = draw(beyond(name), label=name)
    if not names or draw(st.booleans()):
        unknown = draw(st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
        assume(unknown not in FIELDS and unknown not in ("help", "resume", "debug"))
        options[unknown] = "1"
        names.append(f"unknown option {unknown}")
    return options, names


def is_refused(options: dict[str, Any], names: list[str], dataset: Path) -> None:
    with out_dir() as run:
        start = ["train", str(dataset.parent / "plain.toml"), f"--dataset={dataset}"]
        code, out, err = command(*start, f"--out_dir={run}", *flags(options))
        assert (code, out) == (2, ""), err
        last = err.splitlines()[-1]
        assert last.startswith("bardlet: ")
        assert all(name in err for name in names), err
        assert not run.exists()


@settings(**{**EXAMPLES, "max_examples": 150}, suppress_health_check=quiet)
@given(case=invalid())
def test_an_invalid_config_is_refused_with_all_its_names(
    case: tuple[dict[str, Any], list[str]], dataset: Path
) -> None:
    is_refused(*case, dataset)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(**{**MORE, "max_examples": 10_000}, suppress_health_check=quiet)
@given(case=invalid())
def test_many_invalid_configs_are_refused(
    case: tuple[dict[str, Any], list[str]], dataset: Path
) -> None:
    is_refused(*case, dataset)


@pytest.mark.parametrize(("name", "options"), CONTRADICTIONS, ids=str)
def test_a_contradiction_is_refused(name: str, options: dict[str, Any], dataset: Path) -> None:
    plain = {"n_layer": 1, "n_head": 1, "n_embd": 32, "block_size": 16, "max_iters": 0}
    is_refused({**plain, "device": "cpu", **options}, [name], dataset)


EXTREME = [
    "0", "1", "-1", "2", "1e-300", "5e-324", "1e300", "1.7e308", "1e9", str(2**31), str(2**32),
    str(2**62), str(2**63 - 1), "true", "false", "auto", "cpu", "cuda", "cuda:7", "mps", "xla",
    "float16", "\ud7ff", "a/b", "../x", "%s", "{}", "None", "[]", "\u202e", "'", '"', "\\",
]  # fmt: skip
# whose extremes are a matter of memory and time, which other tests look at
SIZES = {
    "batch_size", "gradient_accumulation_steps", "block_size", "n_layer", "n_head", "n_embd",
    "vocab_size", "n_kv_head", "head_dim", "mlp_dim", "max_iters", "eval_iters",
}  # fmt: skip


@st.composite
def whatever(draw: st.DrawFn) -> dict[str, Any]:
    """A valid configuration with extremes in it, which may be valid or not, or may diverge."""
    options = draw(valid())
    names = draw(st.lists(st.sampled_from(sorted(FIELDS.keys() - PLACES - SIZES)), max_size=4))
    return {**options, **{name: draw(st.sampled_from(EXTREME), label=name) for name in names}}


def comes_to_a_clear_end(options: dict[str, Any], dataset: Path) -> None:
    with out_dir() as run:
        start = ["train", str(dataset.parent / "plain.toml"), f"--dataset={dataset}"]
        code, _, err = command(*start, f"--out_dir={run}", *flags(options))
        assert code in (0, 1, 2), err
        if code == 2:
            assert err.splitlines()[-1].startswith("bardlet: ")
        elif code == 1:  # valid, and the numbers diverge
            assert "before its step" in err or "cannot be resumed" in err, err
        else:
            for args in (["inspect", str(run)], ["sample", str(run), "--max_new_tokens=3"]):
                code, _, err = command(*args)
                assert code == 0 or options.get("eval_only"), err
            code, _, err = command("train", "--resume", f"--out_dir={run}", "--max_iters=3")
            assert code in (0, 1, 2), err


@settings(**{**EXAMPLES, "max_examples": 40}, suppress_health_check=quiet)
@given(options=whatever())
def test_an_extreme_config_comes_to_a_clear_end(options: dict[str, Any], dataset: Path) -> None:
    comes_to_a_clear_end(options, dataset)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(**MORE, suppress_health_check=quiet)
@given(options=whatever())
def test_many_extreme_configs_come_to_a_clear_end(options: dict[str, Any], dataset: Path) -> None:
    comes_to_a_clear_end(options, dataset)
