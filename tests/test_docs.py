"""The documents say what is so: commands parse, generated pages are current, links lead on."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from bardlet.cli import main
from bardlet.commands import COMMANDS, settings
from bardlet.config import FIELDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[list[str]]:
    """Every `bardlet ...` line in the README's code blocks, as arguments."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", README, re.S))
    lines = [line.split("#")[0] for line in blocks.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("bardlet ")]


@pytest.mark.parametrize("args", commands(), ids=" ".join)
def test_readme_commands_parse(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command's options and presets exist: its help is reached with them in place."""
    assert args[0] in COMMANDS
    for arg in args[1:]:
        if args[0] == "train" and arg.startswith("--"):
            name = arg[2:].split("=")[0]
            assert name in FIELDS or name in ("resume", "budget"), arg
        if args[0] == "train" and not arg.startswith("--"):
            assert arg in settings.preset_names()
    with pytest.raises(SystemExit) as end:
        main([args[0], *args[1:], "--help"])
    assert end.value.code == 0


def test_there_are_commands_to_test() -> None:
    assert len(commands()) >= 8


def test_ci_runs_the_readmes_test_command() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = "pip install -c constraints.txt -e '.[test]' && pytest\n"
    assert command in README and command in run


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words its help by version")
def test_command_reference_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == module.document(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:data/)?[a-z_]+\.py)`", text):
        assert (ROOT / "bardlet" / name).exists() or (ROOT / "tests" / name).exists(), name


def test_every_preset_is_in_the_readme() -> None:
    for name in settings.preset_names():
        assert f"`{name}`" in README, name
