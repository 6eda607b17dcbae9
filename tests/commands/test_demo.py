"""The demo uses what is there, goes on with it, or takes another folder: nothing is lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pytest import MonkeyPatch
from support import TEXT, some_text

from bardlet import cli
from bardlet.commands import settings
from bardlet.commands.demo import demo

PRESET = """
out_dir = "out/demo"
dataset = "tinyshakespeare"
n_layer = 1
n_head = 2
n_embd = 8
block_size = 16
batch_size = 2
gradient_accumulation_steps = 1
max_iters = 3
eval_interval = 3
eval_iters = 1
warmup_iters = 1
device = "cpu"
"""


@pytest.fixture
def text(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """A text in an empty folder, where the preset of the demo is a tiny one."""
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/demo.toml").write_text(PRESET, encoding="utf-8")
    monkeypatch.setattr(settings, "PRESETS", Path("presets"))
    Path("words.txt").write_text(TEXT, encoding="utf-8")
    return Path("words.txt")


def steps(file: Path | None) -> list[list[str]]:
    """The commands that a demo runs, each of which succeeds."""
    ran = []

    def command(args: Sequence[str]) -> int:
        ran.append(list(args))
        return cli.main([*args, "--max_new_tokens=1"] if args[0] == "sample" else args)

    assert demo(file, command) == 0
    return ran


def sums(folder: str) -> dict[str, str]:
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def names(ran: list[list[str]]) -> list[str]:
    return [args[0] for args in ran]


def test_the_second_demo_uses_what_the_first_has_made(text: Path) -> None:
    assert steps(text) == [
        ["prepare", "tinyshakespeare", "--file", "words.txt"], ["train", "demo"],
        ["sample", "out/demo", "--num_samples=2", "--max_new_tokens=400"],
    ]  # fmt: skip
    before = sums("out") | sums("data")
    assert names(steps(text)) == ["sample"]
    assert names(steps(None)) == ["sample"]
    assert sums("out") | sums("data") == before


def test_a_demo_that_was_trained_on_is_used_as_it_is(text: Path) -> None:
    steps(text)
    assert cli.main(["train", "--resume", "--out_dir=out/demo", "--max_iters=7"]) == 0
    before = sums("out")
    assert names(steps(text)) == ["sample"]
    assert sums("out") == before


def test_an_unfinished_demo_is_gone_on_with(text: Path) -> None:
    command = ["train", "demo", "--save_interval=1", "--max_iters=2"]
    assert cli.main(["prepare", "tinyshakespeare", "--file", "words.txt"]) == 0
    assert cli.main(command) == 0
    state = Path("out/demo/checkpoints/iter-00000002/state.json")
    Path("out/demo/checkpoints/iter-00000002/eval.json").unlink()  # as a kill leaves it
    raw = json.loads(state.read_text(encoding="utf-8"))
    raw["config"] |= {"max_iters": 3, "save_interval": 0}
    state.write_text(json.dumps(raw), encoding="utf-8")
    sealed = state.with_name("checksums.json")
    table = json.loads(sealed.read_text(encoding="utf-8"))
    table["files"].pop("eval.json")
    table["files"]["state.json"] = {
        "bytes": state.stat().st_size, "sha256": hashlib.sha256(state.read_bytes()).hexdigest()
    }  # fmt: skip
    sealed.write_text(json.dumps(table), encoding="utf-8")
    assert names(steps(text)) == ["train", "sample"]
    lines = Path("out/demo/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    iters = [e["iter"] for line in lines if (e := json.loads(line))["type"] == "iter"]
    assert iters == [0, 1, 2]


@pytest.mark.parametrize("what", ["an unfinished run of other options", "a run on another text"])
def test_another_run_is_left_alone(what: str, text: Path) -> None:
    assert cli.main(["prepare", "tinyshakespeare", "--file", "words.txt"]) == 0
    options = ["--n_layer=2"]
    if what == "a run on another text":
        Path("other.txt").write_text(some_text(3000, seed=3), encoding="utf-8")
        assert cli.main(["prepare", "other.txt"]) == 0
        options = ["--dataset=other"]
    assert cli.main(["train", "demo", *options]) == 0
    if what != "a run on another text":
        for path in Path("out/demo/checkpoints").glob("*/eval.json"):
            path.unlink()  # so that the last evaluation is to come
    before = sums("out/demo")
    assert steps(text)[0] == ["train", "demo", "--out_dir=out/demo-2"]
    assert sums("out/demo") == before


def test_another_text_gets_folders_of_its_own(text: Path) -> None:
    steps(text)
    before = sums("out") | sums("data")
    other = Path("other.txt")
    other.write_text(some_text(4000, seed=5), encoding="utf-8")
    assert steps(other) == [
        ["prepare", "tinyshakespeare", "--file", "other.txt", "--out", "data/tinyshakespeare-2"],
        ["train", "demo", "--dataset=data/tinyshakespeare-2", "--out_dir=out/demo-2"],
        ["sample", "out/demo-2", "--num_samples=2", "--max_new_tokens=400"],
    ]
    after = sums("out") | sums("data")
    assert {name: after[name] for name in before} == before
    assert names(steps(other)) == ["sample"]
