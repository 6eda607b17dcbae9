"""A dataset prepared in parts and merged."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import TEXTS, jsonl, made, texts_of, words

from bardlet import cli
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
    assert f"goes by {name}, and {value!r} is no number" in caught.value.message


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
