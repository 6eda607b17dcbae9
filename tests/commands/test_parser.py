"""Help: every option of every command with its default."""

from __future__ import annotations

import re

import pytest
from pytest import CaptureFixture, MonkeyPatch

from bardlet import cli
from bardlet.commands import COMMANDS
from bardlet.commands.tokenizer import ACTIONS

CALLS = [*([name] for name in COMMANDS), *(["tokenizer", action] for action in ACTIONS)]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_option_has_its_default(
    call: list[str], capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        cli.main([*call, "--help"])
    text = capsys.readouterr().out
    entries = re.split(r"\n(?=  -)", text)[1:]
    assert entries[0].startswith("  -h, --help")
    for entry in entries[1:]:
        words = " ".join(re.split(r"\n\n|\n\w", entry)[0].split())
        assert "default" in words, words


@pytest.mark.parametrize(
    ("call", "words"),
    [("sample", "(default 0.8)"), ("sample", "(default 1337)"), ("eval", "(default 16)"),
     ("plan", "(default 3.0)"), ("prepare", "(default off)"), ("train", "(default 12)"),
     ("doctor", "machine-readable (default off)")],
)  # fmt: skip
def test_defaults_are_values(call: str, words: str, capsys: CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([call, "--help"])
    assert words in " ".join(capsys.readouterr().out.split())
