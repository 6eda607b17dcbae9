"""JSON, TOML and Python files that someone sent: bombs and lies are refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import CHECKPOINT, DATA, READERS, RESUME, RUN, Refused

from bardlet import cli
from bardlet.commands.settings import LARGEST
from bardlet.data.tokenizers import json_file
from bardlet.io import safe_read
from bardlet.run import checkpoint, run_folder
from bardlet.run.state import Checksums
from bardlet.training.metrics_lines import lines_until

pytestmark = pytest.mark.usefixtures("sent")


@pytest.fixture(autouse=True)
def one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer may be larger than other documents; a test need not write that much."""
    monkeypatch.setattr(json_file, "MAX_FILE_BYTES", safe_read.MAX_BYTES)


def edited(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def inner(value: str) -> Callable[[str], str]:
    """Add an entry to the object, beside those that are wanted."""
    return lambda text: text.rstrip().removesuffix("}") + f', "more": {value}}}'


def twice(text: str) -> str:
    """The first key again, with its own value."""
    key, value = next(iter(json.loads(text).items()))
    return inner("0")(text).replace('"more": 0', f'"{key}": {json.dumps(value)}')


BOMBS: dict[str, Callable[[str], str]] = {
    "lists in lists": lambda _: "[" * 100_000 + "]" * 100_000,
    "lists without end": lambda _: "[" * 1_000_000,
    "objects in objects": lambda _: '{"a":' * 100_000 + "1" + "}" * 100_000,
    "deep where nobody looks": inner("[" * 500 + "]" * 500),
    "beyond float64": inner("1e400"),
    "100,000 digits": inner("1" + "0" * 100_000),
    "1,000 digits": inner("9" * 1_000),
    "the same key twice": twice,
    "the same inner key twice": inner('{"a": 1, "b": 2, "a": 1}'),
    "a gigantic string": lambda text: inner(f'"{"x" * safe_read.MAX_BYTES}"')(text),
    "not text": lambda _: "\x00\x01\x02",
    "a list": lambda _: "[]",
    "null": lambda _: "null",
    "a number": lambda _: "7",
    "empty": lambda _: "",
}
OF_CHECKPOINT = ["state.json", "config.json", "tokenizer.json", "checksums.json"]


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", OF_CHECKPOINT)
def test_a_json_bomb_in_a_checkpoint(name: str, bomb: str, refused: Refused) -> None:
    edited(CHECKPOINT / name, BOMBS[bomb])
    if name != "checksums.json":
        run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    for command in READERS.values():
        assert name in refused(*command)


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json"])
def test_a_json_bomb_in_a_dataset(name: str, bomb: str, refused: Refused) -> None:
    edited(DATA / name, BOMBS[bomb])
    for command in (["inspect", str(DATA)], READERS["eval"], RESUME):
        assert name in refused(*command)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_json_bomb_among_the_losses_is_no_evaluation(bomb: str) -> None:
    edited(CHECKPOINT / "eval.json", BOMBS[bomb])
    files = run_folder.read_checksums(CHECKPOINT)
    files["eval.json"] = run_folder.checksum(CHECKPOINT / "eval.json")
    run_folder.write_versioned(CHECKPOINT / "checksums.json", Checksums(files=files))
    assert run_folder.read_scores(CHECKPOINT) is None
    for command in READERS.values():
        assert cli.main(command) == 0


@pytest.mark.parametrize("bomb", [name for name in BOMBS if name != "a gigantic string"])
def test_a_json_bomb_in_the_metrics_is_a_lost_line(bomb: str) -> None:
    path = RUN / "metrics.jsonl"
    good = path.read_text(encoding="utf-8").splitlines(keepends=True)
    line = BOMBS[bomb](good[-1]).replace("\n", " ") + "\n"
    path.write_text("".join([line, *good]), encoding="utf-8")
    assert line not in lines_until(path, 2)
    assert set(lines_until(path, 2)) <= set(good)
    assert cli.main(RESUME) == 0


LIES: list[tuple[str, list[Any], Any]] = [
    ("state.json", ["iter"], -1), ("state.json", ["iter"], "2"), ("state.json", ["iter"], True),
    ("state.json", ["iter"], 1.5), ("state.json", ["iter"], 9**99), ("state.json", ["tokens"], []),
    ("state.json", ["sequences"], -1), ("state.json", ["sequences"], 0.5),
    ("state.json", ["wandb_id"], 7),
    ("state.json", ["dataset"], "words"), ("state.json", ["dataset", "name"], 7),
    ("state.json", ["dataset", "name"], "x" * 10_000), ("state.json", ["dataset", "hash"], None),
    ("state.json", ["scaler"], None), ("state.json", ["config"], []),
    ("state.json", ["config", "max_iters"], "many"), ("state.json", ["config", "patience"], [1]),
    ("state.json", ["config", "n_layer"], {"a": 1}), ("state.json", ["guards"], [1]),
    ("state.json", ["guards", "losses"], ["high"]), ("state.json", ["guards", "losses"], 3),
    ("state.json", ["guards", "skipped"], {}), ("state.json", ["best_val_loss"], "low"),
    ("state.json", ["best_val_loss"], 10**300), ("state.json", ["computes"], 1),
    ("config.json", ["format_version"], "2"), ("config.json", ["format_version"], None),
    ("tokenizer.json", ["model", "vocab"], {}), ("tokenizer.json", ["model", "vocab"], []),
    ("tokenizer.json", ["model", "vocab", "a"], 10**12),
    ("tokenizer.json", ["model", "vocab", "\ud800"], 15),
    ("tokenizer.json", ["model", "vocab", "\u20ac"], 15),
]  # fmt: skip


def set_in(path: Path, keys: list[Any], value: Any) -> None:
    document = part = json.loads(path.read_text(encoding="utf-8"))
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(("name", "keys", "value"), LIES, ids=lambda v: str(v)[:30])
def test_a_value_that_cannot_be_in_a_checkpoint(
    name: str, keys: list[Any], value: Any, refused: Refused
) -> None:
    set_in(CHECKPOINT / name, keys, value)
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    for command in READERS.values():
        assert name in refused(*command)


SPLIT = ["splits", "train"]


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["name"], ["words"]), (["hash"], 7), (["tokenizer_hash"], None), (["notes"], "none"),
        (["notes"], [{}]), (["sources"], {}), (["sources", 0, "bytes"], "many"), (SPLIT, None),
        (["sources", 0], "words.txt"), (["sources", 0, "sha256"], 7), ([*SPLIT, "tokens"], -5),
        ([*SPLIT, "tokens"], 10**300), ([*SPLIT, "bytes"], None), ([*SPLIT, "shards"], {}),
        ([*SPLIT, "shards", 0], "train-00000.bin"), ([*SPLIT, "shards", 0, "file"], 7),
        (["splits", "more"], 7), (["format_version"], "1"), (["splits"], []),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_be_in_a_manifest(
    keys: list[Any], value: Any, refused: Refused
) -> None:
    set_in(DATA / "manifest.json", keys, value)
    assert "manifest.json" in refused("inspect", str(DATA))
    assert "manifest.json" in refused(*RESUME)


def test_a_dataset_without_tokens_is_described() -> None:
    set_in(DATA / "manifest.json", [*SPLIT, "tokens"], 0)
    assert cli.main(["inspect", str(DATA)]) == 0


@pytest.mark.parametrize("name", ["iter", "tokens", "scaler", "dataset"])
def test_an_entry_that_is_missing_is_named(name: str, refused: Refused) -> None:
    path = CHECKPOINT / "state.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document[name]
    path.write_text(json.dumps(document), encoding="utf-8")
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    for command in READERS.values():
        assert f"state.json is missing or damaged: it has no {name}" in refused(*command)


OPTIONS = {
    "x.toml": [
        "x = " + "[" * 100_000,
        "x = " + "[" * 400 + "]" * 400,
        "x = " + "{a = " * 100_000,
        "a." * 50_000 + "b = 1",
        "\n".join("a." * 2_000 + f"b{i} = 1" for i in range(32)),
        "[" + "a." * 50_000 + "b]",
        "seed = 0x" + "f" * 100_000,
        "seed = " + "9" * 100_000,
        "learning_rate = 1e400",
        "dropout = nan",
        'out_dir = "a\\u0000b"',
        'dataset = "' + "x" * (2 * LARGEST) + '"',
        "seed = 1\nseed = 2",
        "seed = 1979-05-27",
        "[cpu.cpu]\nseed = 1",
        "[[cpu]]\nseed = 1",
        "\x00",
    ],
    "x.py": [
        "seed = " + "(" * 100_000,
        "seed = " + "(" * 4_000,
        "seed = (\n" + "-\n" * 60_000 + "1)",
        "seed = (\n" + "1 +\n" * 30_000 + "1)",
        "seed = " + "[" * 4_000,
        "seed = 0x" + "f" * 100_000,
        "seed = 10 ** 100000",
        "a = 9" + "*9" * 2_000,
        "a = " + "9" * 250 + "\n" + "b = a * a\n",
        "seed = 1 << 100000",
        "seed = 'x' * 10**9",
        "a = 'x'\n" + "a = a + a\n" * 40 + "dataset = a",
        "seed = ['x'] * 10**9",
        "seed = (1,) * 10**9",
        "dataset = f'{1:1000000000}'",
        "dataset = '%1000000000d' % 1",
        "import os",
        "seed = __import__('os').mkdir('boom')",
        "\x00",
    ],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name, texts in OPTIONS.items() for text in texts],
    ids=lambda value: value[:20],
)
def test_a_bomb_in_a_file_of_options(name: str, text: str, refused: Refused) -> None:
    Path(name).write_text(text, encoding="utf-8")
    began = time.process_time()
    assert name in refused("train", name, "--device=cpu")
    assert time.process_time() - began < 10
    assert not Path("boom").exists()


@pytest.mark.parametrize("name", ["x.toml", "x.py"])
def test_a_long_file_of_options_is_not_cut(name: str, refused: Refused) -> None:
    """Here to a whole one."""
    text = "seed = 1\n" + "#\n" * LARGEST
    Path(name).write_text(text[:LARGEST], encoding="utf-8")
    assert cli.main(["train", "tiny.toml", name, "--fresh"]) == 0
    Path(name).write_text(text[: LARGEST + 1], encoding="utf-8")
    assert f"more than {LARGEST:,} bytes" in refused("train", "tiny.toml", name, "--fresh")
