"""Files of conversations to a dataset: ids, masks, counts, and the template in its manifest."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bardlet import cli
from bardlet.data.dataset.folder import Dataset
from bardlet.data.tokenizers.chat import ChatTemplate


def talk(*contents: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


def prepared(folder: Path, records: list[Any], *options: str, name: str = "a.jsonl") -> Dataset:
    lines = "\n".join(json.dumps(record) for record in records)
    (folder / name).write_text(lines, encoding="utf-8")
    out = folder / "data"
    assert cli.main(["prepare", str(folder / name), f"--out={out}", *options]) == 0
    return Dataset(out)


GOOD = [talk(f"What is {i}?", f"It is {i}.", "And?", "No more.") for i in range(40)]


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_a_dataset_is_its_conversations_one_after_another(tokenizer: str, tmp_path: Path) -> None:
    data = prepared(tmp_path, GOOD, f"--tokenizer={tokenizer}")
    template = ChatTemplate(data.chat_template, data.tokenizer)
    wanted = {
        ids.tobytes(): counts for ids, counts in (template.encode(c["messages"]) for c in GOOD)
    }
    for stream in data.splits.values():
        ids, counts = stream.read(0, len(stream)), stream.counts(0, len(stream))
        starts = [*np.flatnonzero(ids == data.end_of_text), len(ids)]
        assert starts[0] == 0
        for start, end in itertools.pairwise(starts):
            assert wanted.pop(ids[start:end].tobytes()).tolist() == counts[start:end].tolist()
    assert not wanted and not data.pairs
    assert data.manifest["masked"] and data.manifest["options"]["messages_key"] == "messages"


def test_bad_conversations_are_counted_and_the_others_kept(tmp_path: Path, capsys: Any) -> None:
    bad = [talk("x"), {"messages": [{"role": "tool", "content": "x"}]}, talk("", "b"),
           talk(*["a", "b"] * 600), talk("I say <|im_start|> and <|im_end|>", "b")]  # fmt: skip
    data = prepared(tmp_path, [*GOOD, *bad])
    assert {reason: entry["number"] for reason, entry in data.manifest["counts"].items()} == {
        "unanswered": 1, "other_roles": 1, "empty_turns": 1, "long_conversations": 1,
        "role_tokens": 2,
    }  # fmt: skip
    documents = [data.manifest["splits"][split]["documents"] for split in ("train", "val")]
    assert sum(documents) == 41
    special = data.tokenizer.special()
    ids = np.concatenate([s.read(0, len(s)) for s in data.splits.values()])
    assert (ids == special["<|im_start|>"]).sum() == 4 * 40 + 2  # and none that was typed
    said = capsys.readouterr().err
    assert "1 conversation without an answer was left out (1 byte)" in said
    assert "2 names of special tokens in what somebody wrote were kept as plain text" in said


def test_one_that_is_not_text_is_an_error_with_its_line(tmp_path: Path, capsys: Any) -> None:
    broken = {"messages": [{"role": "user", "content": 5}]}
    (tmp_path / "a.jsonl").write_text(
        "\n".join(map(json.dumps, [GOOD[0], broken])), encoding="utf-8"
    )
    assert cli.main(["prepare", str(tmp_path / "a.jsonl"), f"--out={tmp_path / 'data'}"]) == 1
    assert "a.jsonl, line 2, turn 1: its content is not text" in capsys.readouterr().err
    prepared(tmp_path, [*GOOD, broken], "--skip_unreadable")


def test_parquet_has_lists_of_turns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    of_jsonl = prepared(tmp_path, GOOD).hash
    parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "a.parquet")
    out = tmp_path / "other"
    assert cli.main(["prepare", str(tmp_path / "a.parquet"), f"--out={out}"]) == 0
    assert Dataset(out).hash == of_jsonl


def test_a_template_of_ones_own_names_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(
        "{% for m in messages %}{% if m.role == 'assistant' %}<|bot|>{% generation %}"
        "{{ m.content }}<|over|>{% endgeneration %}{% else %}<|me|>{{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}",
        encoding="utf-8",
    )
    data = prepared(tmp_path, GOOD, f"--chat_template={path}", "--tokenizer=byte")
    assert [*data.tokenizer.special()][1:] == ["<|bot|>", "<|over|>", "<|me|>"]
    stream = data.splits["train"]
    ids, counts = stream.read(0, 60), stream.counts(0, 60)
    end = ids.tolist().index(data.end_of_text)  # behind, where a template does not begin with it
    shown = data.tokenizer.decode(ids[: end + 1])
    assert shown.startswith("<|me|>What is ") and shown.endswith("No more.<|over|><|endoftext|>")
    answers = data.tokenizer.decode(ids[: end + 1][counts[: end + 1]])
    assert answers.startswith("It is ") and answers.endswith("<|over|>No more.<|over|>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split=position"], "split=position would cut responses"),
        (["--messages_key=x"], "'x' is not there"),
        (["--chat_template=x"], "chat_template=x is neither a file nor one of chatml, llama3"),
        (["--messages_key=x", "--prompt_key=a", "--response_key=b"], "of two kinds"),
    ],
)
def test_what_a_user_gets_wrong(
    options: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD[0]), encoding="utf-8")
    command = ["prepare", str(tmp_path / "a.jsonl"), f"--out={tmp_path / 'data'}", *options]
    assert cli.main(command) in (1, 2)
    assert message in capsys.readouterr().err
