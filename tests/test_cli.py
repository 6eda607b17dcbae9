"""The command line: what it prints where, its exit codes, and the whole way from text to text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from pytest import CaptureFixture, MonkeyPatch

import bardlet
from bardlet import cli
from bardlet.commands import COMMANDS
from bardlet.errors import CheckpointError

TEXT = "".join(f"line {i}: to be, or not to be?\n" for i in range(60))
CONFIG = """
dataset = "plays"
family = "llama"
n_layer = 1
n_head = 2
n_embd = 32
block_size = 16
batch_size = 2
gradient_accumulation_steps = 1
max_iters = 4
eval_interval = 2
eval_iters = 1
warmup_iters = 1
device = "cpu"
dtype = "float32"
log_interval = 1
"""
TRAIN = ["train", "tiny.toml"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """Every test runs in an empty folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


class Ran(NamedTuple):
    """A command's exit code and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capfd: CaptureFixture[str]) -> Run:
    """Run one command in this process."""

    def command(*args: str) -> Ran:
        capfd.readouterr()
        code = cli.main(args)
        return Ran(code, *capfd.readouterr())

    return command


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )  # fmt: skip


def test_the_collector_is_off_at_the_very_end_only() -> None:
    """What a command registers for the end runs while the collector still collects."""
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print('last', gc.get_freeze_count() > 0))\n"
        "from bardlet.cli import main\n"
        "main(['--version'])\n"
        "atexit.register(lambda: print('first', gc.get_freeze_count() > 0))\n"
    )
    assert python("-c", script).stdout.splitlines()[1:] == ["first False", "last True"]


@pytest.mark.parametrize(
    "args", [["--help"], ["-h"], ["--version"], ["nonsense"], ["train", "--help"],
             ["sample", "--help"], ["prepare", "--help"], ["train", "demoo"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_usage_errors_do_not_wait_for_torch(args: list[str]) -> None:
    code = (
        "import sys\nfrom bardlet.cli import main\n"
        f"try: main({args})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_lists_the_commands_and_exits_with_0() -> None:
    done = python("-m", "bardlet", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {name}" in done.stdout for name in COMMANDS)


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"bardlet {bardlet.__version__}\n", "")


def test_no_command_at_all_prints_the_help_and_exits_with_2(run: Run) -> None:
    code, out, _ = run()
    assert code == 2
    assert out.startswith("usage: bardlet COMMAND")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["trian"], "bardlet: no command 'trian'. Did you mean train?"),
        (["xyzzy"], "Commands are demo, prepare, train"),
        (["train", "--n-layr=4"], "unknown option n_layr, did you mean n_layer?"),
        (["train", "--n_layr=4", "--zzz=4"], "unknown option zzz"),
        (["sample", "--temprature=1"], "unknown option temprature, did you mean temperature?"),
        (["eval", "--splt", "val", "--jsn"], "split?; unknown option jsn, did you mean json?"),
        (["prepare", "x", "--tokeniser=char"], "did you mean tokenizer? `bardlet prepare --help`"),
        (["inspect"], "the following arguments are required: path"),
        (["sample", "--seed=x"], "argument --seed: invalid int value: 'x'"),
        (["eval", "--split=test"], "invalid choice: 'test'"),
        (["train", "shakespear-char"], "Did you mean shakespeare-char?"),
        (["train", "--n_layer"], "argument --n_layer: expected one argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_with_the_nearest_name_and_exits_with_2(
    args: list[str], line: str, run
) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("bardlet: ")
    assert "Traceback" not in err


ERRORS = [
    (CheckpointError("no run at x", "Train one"), 1, "bardlet: no run at x. Train one"),
    (KeyboardInterrupt(), 130, "bardlet: interrupted"),
    (ZeroDivisionError("by\nzero"), 1, "internal error, ZeroDivisionError: by. `--debug`"),
    (OSError(28, "No space left on device", "a.bin"), 1, "a.bin: No space left on device"),
    (MemoryError(), 1, "out of memory. Lower --batch_size or --block_size"),
    (RuntimeError("CUDA out of memory. Tried"), 1, "out of memory. Lower --batch_size"),
]


@pytest.mark.parametrize(("error", "code", "line"), ERRORS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_one_line_and_a_traceback_only_with_debug(
    error: BaseException, code: int, line: str, debug: bool, run, monkeypatch: MonkeyPatch
) -> None:
    def fail(*args: object) -> int:
        raise error

    monkeypatch.setattr("bardlet.commands.demo.run", fail)
    ran = run("demo", *(["--debug"] if debug else []))
    assert (ran.code, ran.out) == (code, "")
    assert line in ran.err.splitlines()[-1]
    assert ("Traceback" in ran.err) == debug
    assert debug or len(ran.err.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error(run: Run) -> None:
    run("prepare", "plays.txt")
    line = f"{sys.executable} -m bardlet inspect data/plays | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )  # fmt: skip
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_the_whole_way_from_text_to_text(run: Run) -> None:
    ran = run("prepare", "plays.txt")
    assert (ran.code, ran.err) == (0, "")
    assert f"{len(TEXT):,} characters, vocabulary {len(set(TEXT))}" in ran.out

    ran = run(*TRAIN, "--out-dir", "out/a")
    assert ran.code == 0
    for part in (
        "iter 0: loss",
        "iter 3: loss",
        "step 4: train loss",
        "saving checkpoint to out/a",
    ):
        assert part in ran.out
    assert ran.out.splitlines()[-1] == "write text with it: bardlet sample out/a"

    ran = run("eval", "out/a", "--device=cpu", "--dtype=float32", "--checkpoint=last")
    assert ran.code == 0
    last = json.loads(Path("out/a/metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert ran.out.startswith(f"val loss {last['val_loss']:.4f} nats per token")

    ran = run("sample", "out/a", "--num_samples=2", "--max_new_tokens=20", "--start=to be")
    assert ran.code == 0
    samples = ran.out.split("\n---------------\n")
    assert [len(sample) for sample in samples] == [25, 25, 0]
    assert all(sample.startswith("to be") for sample in samples[:2])
    assert "40 tokens in" in ran.err

    assert "after 4 iterations" in run("inspect", "out/a").out
    ran = run("train", "--resume", "--out_dir=out/a", "--max_iters=6")
    assert (ran.code, ran.err) == (0, "")
    assert "resuming out/a at iteration 4" in ran.out
    assert "after 6 iterations" in run("inspect", "out/a").out


def test_json_has_the_documented_keys(run: Run) -> None:
    manifest = json.loads(run("prepare", "plays.txt", "--json").out)
    assert {"format_version", "name", "hash", "vocab_size", "splits"} <= manifest.keys()
    assert run(*TRAIN, "--out_dir=out/a").code == 0
    scores = json.loads(run("eval", "out/a", "--json", "--device=cpu", "--dtype=float32").out)
    assert scores.keys() == {
        "checkpoint", "dataset", "split", "loss", "perplexity", "bits_per_byte", "tokens", "iter",
        "device", "dtype",
    }  # fmt: skip
    assert (scores["split"], scores["dataset"], scores["device"]) == ("val", "plays", "cpu")
    options = ["--start=to", "--max_new_tokens=3", "--num_samples=2", "--seed=5"]
    written = json.loads(run("sample", "out/a", "--json", *options).out)
    assert written.keys() == {
        "checkpoint", "prompt", "samples", "seed", "temperature", "top_k", "top_p", "min_p",
        "repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "logprobs",
        "finish_reasons", "tokens", "new_tokens", "tokens_per_s",
    }  # fmt: skip
    assert (written["prompt"], written["seed"], written["new_tokens"]) == ("to", 5, 3)
    assert [len(text) for text in written["samples"]] == [5, 5]
    run_facts = json.loads(run("inspect", "out/a", "--json").out)
    assert run_facts.keys() == {"kind", "path", "best", "last"}
    facts = json.loads(run("inspect", run_facts["last"]["path"], "--json").out)
    assert {"kind", "path", "parameters", "vocab_size", "model", "iter", "eval"} <= facts.keys()
    data = json.loads(run("inspect", "data/plays", "--json").out)
    assert (data["kind"], data["hash"]) == ("dataset", manifest["hash"])


def test_one_sample_is_streamed_and_equals_the_json_one(run: Run) -> None:
    run("prepare", "plays.txt")
    run(*TRAIN, "--out_dir=out/a")
    options = ["--num_samples=1", "--max_new_tokens=30", "--seed=3"]
    streamed = run("sample", "out/a", *options).out
    whole = json.loads(run("sample", "out/a", *options, "--json").out)
    assert streamed == whole["samples"][0] + "\n---------------\n"
    assert streamed.startswith("\n")


def test_without_a_run_the_newest_one_is_taken(run: Run) -> None:
    ran = run("sample")
    assert (ran.code, ran.out) == (2, "")
    assert "no run named, and none in out/" in ran.err
    run("prepare", "plays.txt")
    for name in ("old", "new"):
        assert run(*TRAIN, f"--out_dir=out/{name}").code == 0
    assert "no run named: taking the newest one, out/new" in run("sample").err
    assert "out/new" in json.loads(run("eval", "--json").out)["checkpoint"]
    written = json.loads(run("sample", "--out_dir=out/old", "--json").out)
    assert "out/old" in written["checkpoint"]


def test_the_demo_prints_its_steps_and_stops_at_the_first_that_fails(run: Run) -> None:
    ran = run("demo", "--file", "missing.txt")
    assert (ran.code, ran.out) == (1, "")
    assert "$ bardlet prepare tinyshakespeare --file missing.txt" in ran.err
    assert "bardlet train" not in ran.err
