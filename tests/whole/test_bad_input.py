"""What a user can get wrong, end to end: one clear line and an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pytest import CaptureFixture
from support import CHECKPOINT, RESUME, TEXT, Refused

from bardlet import cli
from bardlet.io.atomic import sha256
from bardlet.run import checkpoint, run_folder

TRAIN = ["train", "tiny.toml"]
pytestmark = pytest.mark.usefixtures("sent")


@pytest.fixture
def fails(refused: Refused) -> Refused:
    """Run a command that has to fail with exit code 1, or with the one given."""
    return partial(refused, code=1)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "text.txt is empty"),
        (b" \n\n", "text.txt is empty"),
        (b"a", "text has 1 character, too few to split"),
    ],
    ids=["nothing", "blank", "one character"],
)
def test_a_text_that_is_too_short_to_split(raw: bytes, problem: str, fails: Refused) -> None:
    Path("text.txt").write_bytes(raw)
    assert problem in fails("prepare", "text.txt")
    assert not Path("data/text").exists()


def test_a_text_shorter_than_block_size(fails: Refused) -> None:
    Path("text.txt").write_bytes(b"to be\n")
    assert cli.main(["prepare", "text.txt"]) == 0
    line = fails(*TRAIN, "--dataset=text", "--out_dir=out/b")
    assert "the train split of data/text has 5 tokens, block_size=32 needs at least 33" in line
    assert not Path("out/b").exists()


def test_a_split_that_just_holds_one_block_trains(capfd: CaptureFixture[str]) -> None:
    Path("text.txt").write_text(TEXT[:37], encoding="utf-8")  # 33 for training, 4 for validation
    assert cli.main(["prepare", "text.txt"]) == 0
    assert cli.main([*TRAIN, "--dataset=text", "--out_dir=out/b"]) == 0


def test_bytes_that_are_not_utf8(fails: Refused) -> None:
    Path("text.txt").write_bytes(b"caf\xe9, caf\xe9, caf\xe9\n")
    line = fails("prepare", "text.txt")
    for part in ("text.txt is not utf-8: byte 0xe9 at offset 3", "--encoding", "--errors replace"):
        assert part in line
    assert cli.main(["prepare", "text.txt", "--encoding=latin-1"]) == 0
    assert "\u00e9" in Path("data/text/tokenizer.json").read_text(encoding="utf-8")
    assert cli.main(["prepare", "text.txt", "--errors", "replace"]) == 0
    assert "\ufffd" in Path("data/text/tokenizer.json").read_text(encoding="utf-8")


def test_text_that_no_utf8_file_can_hold(fails: Refused) -> None:
    Path("text.txt").write_bytes(b"a lone surrogate: \\ud800, and more text\n")
    assert "surrogate" in fails("prepare", "text.txt", "--encoding=unicode_escape")
    assert not Path("data/text").exists()


@pytest.mark.parametrize(
    ("args", "code", "problem"),
    [
        (["prepare", "text.txt", "--encoding=utf-99"], 2, "unknown encoding 'utf-99'"),
        (["prepare", "text.txt", "--errors=hope"], 2, "unknown error handler 'hope'"),
        (["prepare", "none.txt"], 1, "'none.txt' is neither a file nor a folder"),
        (["prepare", "words.txt", "--tokenizer=bpf"], 2, "tokenizer=bpf is not known"),
        (["prepare", "words.txt", "--val_fraction=1"], 2, "val_fraction=1.0 must lie between"),
        (["prepare", "words.txt", "--shard_tokens=0"], 2, "shard_tokens=0 must be at least 1"),
        (["prepare", "words.txt", "--out", "out/a"], 1, "out/a is there and is not a dataset"),
        (["prepare", "words.txt", "--out", "words.txt/d"], 1, "words.txt/d"),
        ([*TRAIN, "--dataset=none"], 1, "no dataset at data/none"),
        ([*TRAIN, "--out_dir=words.txt"], 1, "cannot write to words.txt"),
        ([*TRAIN, "--out_dir=words.txt/b"], 1, "cannot write to words.txt/b"),
        (
            [*TRAIN, "--out_dir=out/a"],
            1,
            "out/a already holds a run, finished after 2 iterations. Train it on with --resume",
        ),
        ([*TRAIN, "--n_embd=9"], 2, "n_embd=9 is not divisible by n_head=2"),
        ([*RESUME, "--fresh"], 2, "fresh starts anew and resume continues"),
        (["train", "--resume", "--out_dir=none"], 2, "no run to resume at none"),
        (["train", "--resume", "--out_dir=out/a", "--n_embd=16"], 1, "n_embd=16, not 64"),
        ([*TRAIN, "--device=tpu"], 2, "device=tpu cannot be used"),
        ([*TRAIN, "--dtype=float16"], 2, "dtype=float16 needs a CUDA device"),
        ([*TRAIN, "--vocab_size=3"], 2, "vocab_size=3 is below the dataset's"),
        (["train", "none.toml"], 2, "cannot read none.toml: No such file"),
        (["sample", "none"], 1, "no run at none. Train one"),
        (["sample", "out/a", "--checkpoint=iter-7"], 1, "has no checkpoint 'iter-7'"),
        (["sample", "out/a", "--start=to {be}"], 1, "character '{' at position 3 is not in"),
        (["sample", "out/a", "--start="], 2, "the prompt is empty"),
        (["sample", "out/a", "--start=FILE:none.txt"], 1, "cannot read the prompt none.txt"),
        (["sample", "out/a", "--start=FILE:empty.txt"], 2, "the prompt is empty"),
        (["sample", "out/a", "--temperature=-1"], 2, "temperature=-1.0 must be at least 0"),
        (["sample", "out/a", "--temperature=nan"], 2, "temperature=nan must be"),
        (["sample", "out/a", "--num_samples=0"], 2, "num_samples=0 must be at least 1"),
        (["sample", "out/a", "--max_new_tokens=-1"], 2, "max_new_tokens=-1 must be at least 0"),
        (["sample", "out/a", "--top_k=-1"], 2, "top_k=-1 must be at least 0"),
        (["sample", "out/a", "--seed=-1"], 2, "seed=-1 must be from 0"),
        (["sample", "out/a", "--dtype=int8"], 2, "dtype=int8"),
        (["eval", "none"], 1, "no run at none"),
        (["eval", "out/a", "--dataset=none"], 1, "no dataset at data/none"),
        (["eval", "out/a", "--batch_size=0"], 2, "batch_size=0 must be at least 1"),
        (["inspect", "none"], 1, "none is not a dataset, run or checkpoint"),
        (["inspect", "words.txt"], 1, "words.txt is not a dataset, run or checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_has_its_line_and_code(
    args: list[str], code: int, problem: str, fails: Refused
) -> None:
    Path("empty.txt").touch()
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    assert problem in fails(*args, code=code)


@pytest.mark.parametrize(
    "args",
    [
        [*TRAIN, "--n_embd=1e12"],
        [*TRAIN, "--batch_size=1e13"],
        [*TRAIN, "--vocab_size=1e13"],
        [*TRAIN, "--block_size=1e15"],
    ],
    ids=lambda args: args[-1],
)
def test_a_huge_size_is_refused_for_want_of_memory_or_text(args: list[str], fails: Refused) -> None:
    fails(*args)


def test_a_huge_number_of_iterations_is_no_internal_error(capfd: CaptureFixture[str]) -> None:
    options = ["--max_iters=1e308", "--compile=false", "--eval_only", "--out_dir=out/b"]
    assert cli.main([*TRAIN, *options]) in (0, 2)
    err = capfd.readouterr().err
    assert "step 0: " in err or "max_iters=1e308 is out of range" in err


@pytest.mark.parametrize("option", ["num_samples", "max_new_tokens"])
def test_a_huge_number_of_samples_is_refused_at_once(option: str) -> None:
    command = ["sample", "out/a", "--device=cpu", f"--{option}=100000000000"]
    limited = f"ulimit -v {16 << 20}; exec {sys.executable} -m bardlet {' '.join(command)}"
    done = subprocess.run(
        ["bash", "-c", limited], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) in {(1, ""), (2, "")}
    assert option in done.stderr


def test_greedy_sampling_needs_no_luck(capfd: CaptureFixture[str]) -> None:
    texts = []
    for seed in ("1", "2"):
        capfd.readouterr()
        assert cli.main(["sample", "out/a", "--temperature=0", f"--seed={seed}"]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(fails: Refused) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "Permission denied" in fails("prepare", "words.txt", "--out", "closed/d")
    assert "Permission denied" in fails(*TRAIN, "--out_dir=closed/b")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def clear(path: Path) -> None:
    path.write_bytes(b"")


READ_BY_ALL = ("model.safetensors", "state.json", "config.json", "tokenizer.json")


@pytest.mark.parametrize("damage", [cut, clear, Path.unlink])
@pytest.mark.parametrize(
    ("command", "name"),
    [(command, name) for command in ("sample", "eval", "inspect") for name in READ_BY_ALL]
    + [("resume", name) for name in (*READ_BY_ALL, "optimizer.safetensors")],
)
def test_a_damaged_file_of_a_checkpoint_is_named(
    command: str, name: str, damage: Callable[[Path], None], fails: Refused
) -> None:
    damage(CHECKPOINT / name)
    assert name in fails(*(RESUME if command == "resume" else [command, "out/a"]))


@pytest.mark.parametrize("name", ["checksums.json", "config.json", "state.json"])
def test_a_checkpoint_of_a_newer_format_says_how_to_read_it(name: str, fails: Refused) -> None:
    path = CHECKPOINT / name
    document = {**json.loads(path.read_text(encoding="utf-8")), "format_version": 3}
    path.write_text(json.dumps(document), encoding="utf-8")
    if name != "checksums.json":  # else its checksum tells first
        run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    line = fails("sample", "out/a")
    assert f"{name} has format 3, this bardlet reads up to 2" in line
    assert "pip install -U bardlet" in line


@pytest.mark.parametrize("command", ["inspect", "resume"])
@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"format_version": 1}'])
def test_a_state_without_its_entries_is_damaged(command: str, text: str, fails: Refused) -> None:
    (CHECKPOINT / "state.json").write_text(text, encoding="utf-8")
    assert "state.json" in fails(*(RESUME if command == "resume" else [command, "out/a"]))


def test_a_dataset_of_a_newer_format_is_named(fails: Refused) -> None:
    path = Path("data/words/manifest.json")
    document = {**json.loads(path.read_text(encoding="utf-8")), "format_version": 2}
    path.write_text(json.dumps(document), encoding="utf-8")
    for args in ([*TRAIN, "--out_dir=out/b"], ["inspect", "data/words"], ["eval", "out/a"]):
        assert "manifest.json has format 2, this bardlet reads up to 1" in fails(*args)


def test_tokens_beyond_the_vocabulary_are_named(fails: Refused) -> None:
    path = Path("data/words/train-00000.bin")
    raw = path.read_bytes()
    path.write_bytes(raw[:32] + b"\xff\x7f" * ((len(raw) - 32) // 2))
    assert "its sha256 is not the one in the manifest" in fails(*TRAIN, "--out_dir=out/b")
    manifest = Path("data/words/manifest.json")
    document = json.loads(manifest.read_text(encoding="utf-8"))
    document["splits"]["train"]["shards"][0]["sha256"] = sha256(path)
    manifest.write_text(json.dumps(document), encoding="utf-8")
    assert "beyond the vocabulary" in fails(*TRAIN, "--out_dir=out/b")


def test_a_run_on_other_tokens_is_not_resumed_or_measured(fails: Refused) -> None:
    Path("words.txt").write_text(TEXT.replace("t", "z"), encoding="utf-8")
    assert cli.main(["prepare", "words.txt", "--fresh"]) == 0
    assert "was trained on other tokens than data/words has now" in fails(*RESUME)
    assert "was prepared with another tokenizer" in fails("eval", "out/a")


def test_a_fresh_start_over_a_run_is_possible_when_asked_for() -> None:
    assert cli.main([*TRAIN, "--out_dir=out/a", "--fresh"]) == 0


def test_a_refused_fresh_start_leaves_the_old_run(fails: Refused) -> None:
    fails(*TRAIN, "--out_dir=out/a", "--fresh", "--n_embd=1e12")
    assert cli.main(["sample", "out/a", "--max_new_tokens=1"]) == 0
