"""A dataset prepared in parts and merged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import TEXTS, jsonl, made, texts_of, words
from support import a_data_folder

from bardlet import cli
from bardlet.commands import inspect as inspection
from bardlet.commands import prepare as prepare_command
from bardlet.data.dataset.folder import SPLITS, Dataset
from bardlet.data.prepare.merge import merge
from bardlet.errors import DataError, UsageError


@pytest.mark.usefixtures("small_units")
def test_parts_merged_are_the_documents_of_the_whole(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [words(40, i) for i in range(300)])
    whole = made(tmp_path / "whole", path, split="document")
    parts = [tmp_path / f"part{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        made(part, path, part=(i, 3), shard_tokens=5000)
    merged = merge(parts[::-1], tmp_path / "merged")
    merged.verify()
    for split in SPLITS:
        assert sorted(texts_of(merged, split)) == sorted(texts_of(whole, split))
        for key in ("documents", "characters", "bytes", "tokens"):
            counts = [d.manifest["splits"][split][key] for d in (merged, whole)]
            assert counts[0] == counts[1]
    with pytest.raises(DataError, match="part 2/3 is missing"):
        merge([parts[0], parts[2]], tmp_path / "e")
    with pytest.raises(DataError, match="are both part 1/3"):
        merge([parts[0], parts[0]], tmp_path / "e")
    made(parts[1], path, part=(2, 3), val_fraction=0.3)
    with pytest.raises(DataError, match="is of another split"):
        merge(parts, tmp_path / "e")
    with pytest.raises(UsageError, match="needs a tokenizer that all parts share"):
        made(tmp_path / "f", path, part=(1, 2), tokenizer="char")


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "{0}", "SLURM_NTASKS": "3"},
        {"RANK": "{0}", "WORLD_SIZE": "3"},
        {"SLURM_ARRAY_TASK_ID": "{1}", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
         "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("small_units")
def test_parts_by_rank_and_merged_by_command(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in [name for names in prepare_command.RANKS for name in names if name]:
        monkeypatch.delenv(name, raising=False)
    jsonl(tmp_path / "a.jsonl", TEXTS)
    command = ["prepare", "a.jsonl", "--tokenizer=byte"]
    assert cli.main([*command, "--part=auto"]) == 2
    assert "there are none. Start it with srun" in capsys.readouterr().err
    assert cli.main([*command, "--out=data/whole"]) == 0
    for i in range(3):
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(i, i + 1))
        assert cli.main([*command, "--part=auto"]) == 0
    parts = [f"data/a.part-{i}" for i in (1, 2, 3)]
    assert [Dataset(Path(p)).manifest["options"]["part"] for p in parts] == ["1/3", "2/3", "3/3"]
    assert cli.main(["prepare", "--merge", *parts, "--out=data/merged"]) == 0
    whole, merged = Dataset(Path("data/whole")), Dataset(Path("data/merged"))
    for split in SPLITS:
        assert sorted(texts_of(merged, split)) == sorted(texts_of(whole, split))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_an_array_of_jobs_may_have_a_step(step: int) -> None:
    array = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}
    array["SLURM_ARRAY_TASK_STEP"] = str(step)
    ids = [str(3 + i * step) for i in range(4)]
    parts = [prepare_command.of_ranks({**array, "SLURM_ARRAY_TASK_ID": i}) for i in ids]
    assert parts == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": ""},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_STEP": "-1"},
    ],
)
def test_a_variable_that_is_no_number_is_named(variables: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        prepare_command.of_ranks(variables)
    name, value = next((n, v) for n, v in variables.items() if not v.isdecimal())
    assert f"goes by {name}, and {value!r} is not a number" in caught.value.message


def test_a_machine_without_a_unit_has_an_empty_part(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", TEXTS)
    parts = [made(tmp_path / f"{i}", tmp_path / "a.jsonl", part=(i, 2)).folder for i in (1, 2)]
    assert not len(Dataset(parts[1]).splits["train"])
    whole = made(tmp_path / "d", tmp_path / "a.jsonl")
    assert merge(parts, tmp_path / "m").hash == whole.hash
    jsonl(tmp_path / "b.jsonl", TEXTS[:1])
    parts = [made(tmp_path / f"b{i}", tmp_path / "b.jsonl", part=(i, 2)).folder for i in (1, 2)]
    with pytest.raises(DataError, match=r"no document of b falls to .* without --part"):
        merge(parts, tmp_path / "e")


def damaged(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are others there")
@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link.bin", "pipe.bin", "."])
def test_no_file_out_of_a_part_or_that_never_ends_is_merged(name: str, tmp_path: Path) -> None:
    """Not the list of documents either, which nothing else opens; its sha256 is the right one."""
    part = made(tmp_path / "a", jsonl(tmp_path / "a.jsonl", TEXTS), val_fraction=0.3).folder
    (tmp_path / "secret").write_bytes(b"secret")
    (part / "link.bin").symlink_to("../secret")
    os.mkfifo(part / "pipe.bin")
    sha = hashlib.sha256(b"secret").hexdigest()
    docs = {"file": name, "sha256": sha, "count": 1}
    damaged(part, lambda m: m["splits"]["train"]["shards"][0].update(docs=docs))
    with pytest.raises(DataError, match=rf"^{part} is damaged: .*{name}"):
        merge([part], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_folder_of_nanogpts_is_not_merged(tmp_path: Path) -> None:
    folder = a_data_folder(tmp_path / "nano")
    with pytest.raises(DataError, match=rf"^{folder} was written by nanoGPT, .*\. Train on sev"):
        merge([folder], tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.pop("options"), "has no options"),
        (lambda m: m.pop("split"), "has no split"),
        (lambda m: m.pop("masked"), "has no masked"),
        (lambda m: m["splits"]["val"].pop("documents"), "has no documents"),
        (lambda m: m["options"].update(part="one/two"), "part 'one/two' is not i/N"),
        (lambda m: m["options"].update(part=5), "part 5 is not i/N"),
        (lambda m: m["options"].update(part="1/99999999999"), "is not i/N"),
        (lambda m: m["options"].update(part="2/1"), "is not i/N"),
    ],
)
def test_a_part_that_says_too_little_of_itself_is_named(
    change: Any, problem: str, tmp_path: Path
) -> None:
    part = made(tmp_path / "a", jsonl(tmp_path / "a.jsonl", TEXTS)).folder
    with pytest.raises(DataError, match=rf"^{damaged(part, change)} cannot be merged: .*{problem}"):
        merge([part], tmp_path / "m")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(split={}),
        lambda m: m.update(split="by"),
        lambda m: m.update(tokenizer=[]),
        lambda m: m["split"].update(val_fraction="0.1"),
        lambda m: m["splits"]["train"].update(documents="many"),
        lambda m: m.update(masked=None),
    ],
)
def test_what_inspect_and_merge_read_of_a_manifest_is_checked(change: Any, tmp_path: Path) -> None:
    part = made(tmp_path / "a", jsonl(tmp_path / "a.jsonl", TEXTS)).folder
    with pytest.raises(DataError, match=r"manifest\.json is damaged: it\.(split|tok|masked)"):
        inspection.describe_dataset(Dataset(damaged(part, change)))
