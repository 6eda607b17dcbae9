"""Names and links that lead elsewhere, and files that never end, in what someone sent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import CHECKPOINT, DATA, READERS, RESUME, RUN, Refused

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.errors import CheckpointError
from bardlet.run import checkpoint, run_folder

pytestmark = [
    pytest.mark.usefixtures("sent"),
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.name == "nt", reason="links need rights there, and pipes have no names"),
]
MINE = Path("mine.txt")
PRIVATE = "what is not theirs to read, or to write\n"


@pytest.fixture(autouse=True)
def mine(sent: Path) -> None:
    """A file of the user's that no one sent."""
    MINE.write_text(PRIVATE, encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["../../mine.txt", "/etc/passwd", "..", ".", "", "a/../train-00000.bin", "./train-00000.bin",
     "..\\..\\mine.txt", "C:mine.txt", "train-00000.bin\0", "more/train-00000.bin"],
)  # fmt: skip
def test_the_name_of_a_shard_is_no_path(name: str, refused: Refused) -> None:
    shutil.copytree(DATA, DATA / "more")
    path = DATA / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["splits"]["train"]["shards"][0]["file"] = name
    path.write_text(json.dumps(document), encoding="utf-8")
    for command in (["inspect", str(DATA)], RESUME):
        line = refused(*command)
        assert "manifest.json is damaged" in line and "is not the name of a file" in line


@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.parametrize(
    "target",
    ["../../b/checkpoints/iter-00000009", "../../b", "..", "/etc", "", "x" * 9999],
    ids=lambda target: target[:20],
)  # fmt: skip
def test_a_pointer_names_a_checkpoint_of_its_run(name: str, target: str) -> None:
    other = Path("out/b/checkpoints/iter-00000009")
    shutil.copytree(CHECKPOINT, other)
    absolute = str(other.resolve())
    for text in (target, absolute):
        (RUN / "checkpoints" / name).write_text(text, encoding="utf-8")
        assert run_folder.read_pointer(RUN, name) is None
        assert run_folder.find(RUN, name) == CHECKPOINT


def test_the_checkpoint_asked_for_is_one_of_the_run(refused: Refused) -> None:
    shutil.copytree(CHECKPOINT, "out/b/checkpoints/iter-00000009")
    for which in ("../../b/checkpoints/iter-00000009", "../../../mine.txt", "/etc", "."):
        assert "has no checkpoint" in refused("sample", str(RUN), f"--checkpoint={which}")


def test_a_run_trains_on_where_it_is_and_not_where_it_says() -> None:
    victim = Path("out/victim")
    shutil.copytree(RUN, victim)
    before = {p: p.read_bytes() for p in victim.rglob("*") if p.is_file()}
    path = CHECKPOINT / "state.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["config"] |= {"out_dir": str(victim.resolve()), "fresh": True}
    path.write_text(json.dumps(document), encoding="utf-8")
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    text = f'out_dir = "{victim.resolve()}"\nfresh = true\n'
    (RUN / "config.toml").write_text(text, encoding="utf-8")
    assert cli.main(RESUME) == 0
    assert run_folder.newest(RUN).name == "iter-00000003"
    assert {p: p.read_bytes() for p in victim.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["../../../mine", "/etc", "/dev/zero", "a\x1b]0;b", "x" * 4000])
def test_the_dataset_that_a_run_names_is_only_read(name: str, refused: Refused) -> None:
    path = CHECKPOINT / "state.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["dataset"]["name"] = document["config"]["dataset"] = name
    path.write_text(json.dumps(document), encoding="utf-8")
    run_folder.write_checksums(CHECKPOINT, checkpoint.FILES)
    before = sorted(Path().iterdir())
    for command in (READERS["eval"], RESUME):
        refused(*command)
    assert sorted(Path().iterdir()) == before


def moved_out(path: Path) -> Path:
    """Move a file or folder elsewhere, and leave a link to it."""
    elsewhere = Path("elsewhere") / path.name
    elsewhere.parent.mkdir(exist_ok=True)
    path.rename(elsewhere)
    path.symlink_to(elsewhere.resolve())
    return elsewhere


@pytest.mark.parametrize("name", ["train-00000.bin", "manifest.json", "tokenizer.json"])
def test_a_file_of_a_dataset_does_not_lie_elsewhere(name: str, refused: Refused) -> None:
    moved_out(DATA / name)
    for command in (["inspect", str(DATA)], RESUME):
        line = refused(*command)
        assert name in line and f"leads out of {DATA}" in line


@pytest.mark.parametrize("name", [*checkpoint.FILES, "checksums.json"])
def test_a_file_of_a_checkpoint_does_not_lie_elsewhere(name: str, refused: Refused) -> None:
    moved_out(CHECKPOINT / name)
    line = refused(*RESUME)
    assert name in line and f"leads out of {CHECKPOINT}" in line
    (CHECKPOINT / "checksums.json").unlink()  # as in format 1, without the checksums' own check
    config = CHECKPOINT / "config.json"
    document = json.loads(config.read_text(encoding="utf-8"))
    shutil.copy(config.resolve(), "copy.json")
    if name != "config.json":
        config.write_text(json.dumps({**document, "format_version": 1}), encoding="utf-8")
    if name != "checksums.json":
        assert f"leads out of {CHECKPOINT}" in refused(*RESUME)


@pytest.mark.parametrize("path", [CHECKPOINT, RUN / "checkpoints"], ids=str)
def test_a_checkpoint_of_a_run_does_not_lie_elsewhere(path: Path, refused: Refused) -> None:
    """Else to prune the run that was sent would remove another's checkpoints."""
    elsewhere = moved_out(path)
    before = sorted(elsewhere.rglob("*"))
    for command in (*READERS.values(), ["train", "demo", f"--out_dir={RUN}", "--dataset=words"]):
        assert f"leads out of {RUN}" in refused(*command)
    assert sorted(elsewhere.rglob("*")) == before
    with pytest.raises(CheckpointError, match="leads out"):
        run_folder.prune(RUN, 1)


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_pointer_does_not_lie_elsewhere(name: str) -> None:
    Path("elsewhere").write_text(CHECKPOINT.name, encoding="utf-8")
    pointer = RUN / "checkpoints" / name
    pointer.unlink()
    pointer.symlink_to(Path("elsewhere").resolve())
    assert run_folder.read_pointer(RUN, name) is None
    assert cli.main(RESUME) == 0
    assert Path("elsewhere").read_text(encoding="utf-8") == CHECKPOINT.name


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml", ".lock", "checkpoints/last"])
def test_nothing_is_written_through_a_link(name: str) -> None:
    (RUN / name).unlink(missing_ok=True)
    (RUN / name).symlink_to(MINE.resolve())
    with contextlib.suppress(SystemExit):
        cli.main(RESUME)
    assert MINE.read_text(encoding="utf-8") == PRIVATE


def test_the_folders_themselves_may_be_links() -> None:
    moved_out(RUN)
    moved_out(DATA)
    for command in (*READERS.values(), ["inspect", str(DATA)]):
        assert cli.main(command) == 0


def test_a_link_within_its_folder_is_as_good_as_the_file() -> None:
    shard = DATA / "train-00000.bin"
    shard.rename(DATA / "shard")
    shard.symlink_to("shard")
    assert len(Dataset(DATA).splits["train"]) == 5400
    assert cli.main(RESUME) == 0


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


special = pytest.mark.parametrize("make", [pipe, endless, folder])


@special
def test_a_text_that_is_no_file(make: Callable[[Path], None], refused: Refused) -> None:
    Path("texts").mkdir()
    make(Path("texts/a.txt"))
    if make is not folder:  # one is a source itself
        line = refused("prepare", "texts/a.txt")
        assert "texts/a.txt" in line and "not a regular file" in line and "give -" in line
        assert "a.txt" in refused("prepare", "texts")
    assert "texts/a.txt" in refused("prepare", "tinyshakespeare", "--file=texts/a.txt")
    assert "texts/a.txt" in refused("sample", str(RUN), "--start=FILE:texts/a.txt")


@special
@pytest.mark.parametrize("name", ["x.toml", "x.py"])
def test_options_that_are_no_file(
    name: str, make: Callable[[Path], None], refused: Refused
) -> None:
    make(Path(name))
    assert name in refused("train", name)


@special
@pytest.mark.parametrize("name", ["train-00000.bin", "val-00000.bin", "tokenizer.json"])
def test_a_part_of_a_dataset_that_is_no_file(
    name: str, make: Callable[[Path], None], refused: Refused
) -> None:
    (DATA / name).unlink()
    make(DATA / name)
    for command in (["inspect", str(DATA)], RESUME):
        assert name in refused(*command)


@special
@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("name", [*checkpoint.FILES, "checksums.json"])
def test_a_part_of_a_checkpoint_that_is_no_file(
    name: str, checksums: bool, make: Callable[[Path], None], refused: Refused
) -> None:
    if not checksums:
        (CHECKPOINT / "checksums.json").unlink()
        path = CHECKPOINT / "config.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**document, "format_version": 1}), encoding="utf-8")
    (CHECKPOINT / name).unlink(missing_ok=True)
    make(CHECKPOINT / name)
    assert name in refused(*RESUME)
    if name == "model.safetensors":
        refused("sample", str(CHECKPOINT))


@special
@pytest.mark.parametrize("name", ["best", "last"])
def test_a_pointer_that_is_no_file(name: str, make: Callable[[Path], None]) -> None:
    (RUN / "checkpoints" / name).unlink()
    make(RUN / "checkpoints" / name)
    assert cli.main(READERS["sample"]) == 0


@special
def test_metrics_that_are_no_file(make: Callable[[Path], None]) -> None:
    (RUN / "metrics.jsonl").unlink()
    make(RUN / "metrics.jsonl")
    assert cli.main(RESUME) == (1 if make is folder else 0)
