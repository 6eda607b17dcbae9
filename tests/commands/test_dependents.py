"""A dataset that runs were trained on is replaced only when that is asked for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest import CaptureFixture
from support import DATA, TEXT, Refused, some_text

from bardlet import cli
from bardlet.commands.dependents import trained_on

OTHER = some_text(5000, seed=7).upper()


def sums(folder: Path = DATA) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture
def other(sent: Path) -> str:
    """The name of another text, beside a dataset that a run was trained on."""
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    return "other.txt"


@pytest.mark.parametrize("options", [[], ["--tokenizer=byte"], ["--split=position", "--workers=2"]])
def test_it_is_kept_and_the_runs_are_named(
    other: str, options: list[str], refused: Refused
) -> None:
    shutil.copytree("out/a", "out/group/b")
    before = sums()
    line = refused("prepare", other, f"--out={DATA}", *options, code=1)
    assert f"{DATA} has the tokens that out/a, out/group/b learnt from" in line
    assert "--out" in line and "--fresh" in line
    assert sums() == before
    assert cli.main(["eval", "out/a"]) == 0


def test_a_named_corpus_of_another_source_is_kept(other: str, refused: Refused) -> None:
    command = ["prepare", "tinyshakespeare", "--file"]
    assert cli.main([*command, "words.txt"]) == 0
    run = ["--dataset=tinyshakespeare", "--out_dir=out/b"]
    assert cli.main(["train", "tiny.toml", *run]) == 0
    before = sums(Path("data/tinyshakespeare"))
    assert "out/b learnt from" in refused(*command, other, code=1)
    assert sums(Path("data/tinyshakespeare")) == before


def test_it_is_replaced_with_fresh(other: str, capsys: CaptureFixture[str]) -> None:
    assert cli.main(["prepare", other, f"--out={DATA}", "--fresh"]) == 0
    assert f"{DATA} is replaced: out/a can no longer be resumed" in capsys.readouterr().err
    assert cli.main(["eval", "out/a", "--dataset=words"]) == 1


@pytest.mark.parametrize("mixture", [False, True])
def test_it_is_kept_for_a_mixture_too(mixture: bool, other: str, refused: Refused) -> None:
    shutil.rmtree("out")
    shutil.copytree(DATA, "data/more")
    name = "words:0.5,data/more:0.5" if mixture else "more"
    assert cli.main(["train", "tiny.toml", f"--dataset={name}", "--out_dir=out/m"]) == 0
    assert "out/m" in refused("prepare", other, "--out=data/more", code=1)


def damaged() -> None:
    path = DATA / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("change", "options"),
    [(lambda: None, ["--shard_tokens=1000"]), (damaged, []), (lambda: shutil.rmtree("out"), [])],
    ids=["same tokens", "damaged", "no run"],
)
def test_what_loses_no_run_is_done(
    change: Callable[[], None], options: list[str], other: str
) -> None:
    change()
    text = "words.txt" if Path("out").exists() else other
    assert cli.main(["prepare", text, f"--out={DATA}", *options]) == 0
    assert not Path("out").exists() or cli.main(["eval", "out/a", "--split=train"]) == 0


def test_parts_that_are_merged_replace_nothing_either(other: str, refused: Refused) -> None:
    Path("texts").mkdir()
    for i in range(40):
        Path(f"texts/{i}.txt").write_text(f"{TEXT[i * 7 : i * 7 + 300]}\n", encoding="utf-8")
    parts = [f"part-{i}" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        command = ["prepare", "texts", "--tokenizer=byte", f"--part={i}/2", f"--out={part}"]
        assert cli.main(command) == 0
    assert "out/a" in refused("prepare", "--merge", *parts, f"--out={DATA}", code=1)
    assert cli.main(["prepare", "--merge", *parts, f"--out={DATA}", "--fresh"]) == 0


def test_a_damaged_run_depends_on_nothing(sent: Path) -> None:
    for path in Path("out/a/checkpoints").glob("*/state.json"):
        path.write_text("{", encoding="utf-8")
    assert trained_on(DATA, "0" * 64) == []


@pytest.mark.parametrize("place", [DATA, Path("out/a/checkpoints/iter-00000002")])
def test_no_tokenizer_takes_the_place_of_one_that_explains_tokens(
    place: Path, other: str, refused: Refused
) -> None:
    before = sums(place)
    command = ["tokenizer", "train", other, "--tokenizer=char", f"--out={place}/tokenizer.json"]
    assert "a dataset or a model is there" in refused(*command, code=1)
    assert sums(place) == before
