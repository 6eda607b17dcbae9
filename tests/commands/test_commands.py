"""Every command, with nothing after it and with each argument of its help alone."""

from __future__ import annotations

import functools
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest import CaptureFixture, MonkeyPatch

from bardlet import cli
from bardlet.commands import COMMANDS
from bardlet.commands.tokenizer import ACTIONS
from bardlet.data.text import corpus
from bardlet.data.tokenizers import factory
from bardlet.errors import DataError

CALLS = [*([name] for name in COMMANDS), *(["tokenizer", action] for action in ACTIONS)]
JUDGES = {"doctor", "launch-check"}  # 1 is their verdict, which they print
SHORT = {"sample": ["--max_new_tokens=2"]}  # before the argument, which may say otherwise
VALUES = ("", "=", "=-1", "=1", "=x", "=words.txt")
EXISTING = functools.cache(factory.existing)  # GPT-2's vocabulary takes half a second to open


def arguments(call: list[str], capsys: CaptureFixture[str]) -> list[str]:
    """The options that a command's help names."""
    with pytest.raises(SystemExit) as done:
        cli.main([*call, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    return sorted(set(re.findall(r"(?<![\w-])--\w+", text)))


@pytest.fixture
def stubbed(original: Path, monkeypatch: MonkeyPatch) -> None:
    """Nothing is fetched, measured, trained or served: what is tried is what comes before.

    `original` is of the session, and made before training does nothing.
    """

    def unreachable(*args: Any, **options: Any) -> Any:
        raise DataError("there is no network")

    monkeypatch.setattr(corpus, "fetched_text", unreachable)
    monkeypatch.setattr(factory, "existing", EXISTING)
    done = SimpleNamespace(stopped=False, best_val_loss=1.0, train_s=0.1)
    monkeypatch.setattr("bardlet.train.train", lambda *args, **options: done)
    monkeypatch.setattr("bardlet.planning.estimate.plan", unreachable)
    monkeypatch.setattr("bardlet.planning.sizing.sized", lambda *args: ({"max_iters": 1}, 1))
    monkeypatch.setattr("bardlet.commands.verify_resume.verify_resume", unreachable)
    monkeypatch.setattr("bardlet.commands.serve.serve", lambda *args: None)
    monkeypatch.setattr("bardlet.commands.report.serve", lambda *args: None)


@pytest.mark.parametrize("place", ["empty", "sent"])
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_no_argument_alone_ends_in_an_internal_error(
    call: list[str], place: str, tmp_path: Path, stubbed: None, monkeypatch: MonkeyPatch,
    request: pytest.FixtureRequest, capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if place == "sent":
        request.getfixturevalue("sent")
    options = arguments(call, capsys)
    assert "--help" in options
    alone = [f"{option}{value}" for option in options if option != "--help" for value in VALUES]
    for extra in [[], *([argument] for argument in alone), ["words.txt"], ["out/a"], ["nowhere"]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"to be 1")))
        code = cli.main([*call, *(SHORT.get(call[0], []) if extra else []), *extra])
        out, err = capsys.readouterr()
        assert code in (0, 1, 2), (extra, err)
        assert "internal error" not in err and "Traceback" not in err, (extra, err)
        one_line = sum(line.startswith("bardlet: ") for line in err.splitlines()) == 1
        assert code == 0 or one_line or (code == 1 and call[0] in JUDGES and out.strip()), extra
