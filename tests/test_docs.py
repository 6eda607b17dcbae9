"""The documents say what is so: generated pages are current, links and names lead on."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from bardlet.commands import settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
