"""Which files of a folder are read, each once, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.text import sources
from bardlet.errors import DataError

links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def write(folder: Path, *names: str, raw: bytes = b"some text\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def found(source: Path | str, **asked: Any) -> tuple[list[str], dict[str, int]]:
    """The names of the inputs of a source, and how many were left out for each reason."""
    collection = sources.find([str(source)], asked=sources.Asked(**asked))
    counts = {reason: entry.number for reason, entry in collection.counts.entries.items()}
    return [entry.name for entry in collection.inputs], counts


@links
def test_links_are_followed_and_each_file_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "real/x.txt", "real/deep/y.txt", "corpus/a.txt", "corpus/sub/b.txt", "c.txt")
    corpus = tmp_path / "corpus"
    (corpus / "big").symlink_to("../real")
    (corpus / "again").symlink_to("../real")  # the same folder, by a name that comes before
    (corpus / "0sub").symlink_to("sub")  # what is there without a link keeps its own name
    (corpus / "loop").symlink_to(".")
    (corpus / "sub" / "up").symlink_to("../..")
    (tmp_path / "real" / "back").symlink_to("../corpus")
    (corpus / "c.txt").symlink_to("../c.txt")
    (corpus / "c2.txt").symlink_to("../c.txt")
    os.link(corpus / "a.txt", corpus / "z.txt")
    names, counts = found(corpus)
    assert names == ["a.txt", "again/deep/y.txt", "again/x.txt", "c.txt", "sub/b.txt"]
    assert counts == {"linked": 7}
    names, counts = found(f"{corpus}/**/*.txt")
    assert [Path(name).name for name in names] == ["a.txt", "y.txt", "x.txt", "c.txt", "b.txt"]
    assert counts == {"linked": 7}


@links
def test_a_link_to_a_large_folder_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "real/x.txt", raw=b"hello\n" * 99)
    write(tmp_path, "corpus/a.txt", raw=b"a\n" * 99)
    (tmp_path / "corpus" / "big").symlink_to("../real")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["prepare", "corpus"]) == 0
    manifest = Dataset(Path("data/corpus")).manifest
    assert sum(split["bytes"] for split in manifest["splits"].values()) == 99 * 8
    assert manifest["notes"] == [] == capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("source", [".", "**", "**/*"])
def test_datasets_and_runs_are_left_out(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.txt", "b.md", raw=b"words of mine\n" * 20)
    write(tmp_path, "data/old/train.bin", "data/old/val.bin", "out/r/checkpoints/best")
    write(tmp_path, "out/r/config.toml", "hf/config.json", "hf/model.safetensors", "hf/README.md")
    command = ["prepare", source, "--out", "data/mine"]
    assert cli.main(command) == 0
    first = Dataset(Path("data/mine")).manifest
    assert [entry["name"] for entry in first["sources"]] == ["a.txt", "b.md"]
    assert first["counts"]["own"]["number"] == 3
    assert sorted(first["counts"]["own"]["examples"]) == ["data/old/", "hf/", "out/r/"]
    capsys.readouterr()
    assert cli.main(command) == 0
    assert "data/mine is up to date" in capsys.readouterr().err
    assert Dataset(Path("data/mine")).hash == first["hash"]
    assert cli.main(["prepare", "data/mine"]) == 1
    assert "data/mine is a dataset, and no text. bardlet train --data" in capsys.readouterr().err
    write(tmp_path, "data/old/input.txt")
    assert found("data/old", ext="txt")[0] == ["input.txt"], "a folder that is named is read"


def test_what_is_text_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    texts = ["a.html", "a.log", "a.markdown", "a.org", "a.py", "a.rst", "a.srt", "a.tex", "a.text",
             "a.txt.gz.bak", "a.unknown", "no_ending"]  # fmt: skip
    write(tmp_path, *texts)
    write(tmp_path, "pic.png", raw=b"\x89PNG\r\n\x1a\n\0\0")
    write(tmp_path, "sub/data.bin", "sub/nul", raw=bytes(range(256)))
    write(tmp_path, ".hidden", ".git/x.txt", ".git/y/z", "tokenizer.json", raw=b"1234")
    write(tmp_path, "records", raw=b'{"text": "a"}\n')
    names, counts = found(tmp_path)
    assert names == [*texts, "records"]
    assert counts == {"hidden": 3, "vocabulary": 1, "not_text": 3, "json_as_text": 1}
    (_, _, note, _) = sources.find([str(tmp_path)]).notes
    assert note == "3 files that are not text were passed over (522 bytes): .png, .bin, no ending"
    names, counts = found(tmp_path, ext=".txt,PY,.bak")
    assert names == ["a.py", "a.txt.gz.bak"]
    assert counts == {"hidden": 3, "vocabulary": 1, "other_endings": 14}
    assert found(f"{tmp_path}/*", ext="rst")[0] == [f"{tmp_path.as_posix()}/a.rst"]
    for i in range(9):
        write(tmp_path, f"b.{i}", raw=b"\0\1")
    [note] = [n for n in sources.find([str(tmp_path)]).notes if "not text" in n]
    assert note.endswith(": .0, .1, .2, .3, .4, .5, .6, .7, ...")


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, ".hidden")
    with pytest.raises(DataError, match=r"has no text that can be read: 1 hidden file was left"):
        found(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no text that can be read\. Read are \.txt"):
        found(tmp_path / "empty")
    write(tmp_path, "empty/a.txt")
    with pytest.raises(DataError, match=r"1 file with an ending that --ext does not name"):
        found(tmp_path / "empty", ext=".md")


def test_json_of_another_kind_is_left_out_of_a_folder_and_counted(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "a"}', encoding="utf-8")
    (tmp_path / "other.json").write_text('[{"body": "b"}]', encoding="utf-8")
    (tmp_path / "stories.json").write_text('[{"text": "c"}]', encoding="utf-8")
    (tmp_path / "lines.json").write_text('["d", "e"]', encoding="utf-8")
    (tmp_path / "empty.json").write_text("[]", encoding="utf-8")
    collection = sources.find([str(tmp_path)])
    names = [entry.name for entry in collection.inputs]
    assert names == ["empty.json", "lines.json", "stories.json"]
    assert collection.counts.entries["other_json"].number == 2
    by_body = sources.find([str(tmp_path)], asked=sources.Asked(keys=("body",)))
    assert "other.json" in [entry.name for entry in by_body.inputs]
    named = sources.find([str(tmp_path / "package.json")])  # whose reader says what is missing
    assert len(named.inputs) == 1
    for name in ("stories.json", "lines.json", "empty.json"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="2 JSON files without what --text_key names"):
        sources.find([str(tmp_path)])
