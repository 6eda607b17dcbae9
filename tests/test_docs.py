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
SOURCES = ("bardlet", "bench", "docs", "recipes", "tests")
FILES = [str(path.relative_to(ROOT)) for name in SOURCES for path in (ROOT / name).rglob("*.*")]
FILES += [path.name for path in ROOT.glob("*.*")]
DATA = {"data/NAME/", "checkpoints/iter-00002000/"}  # folders that bardlet writes or others have
CHINESE = ROOT / "README.zh.md"
PAGES = [ROOT / "README.md", CHINESE, *sorted((ROOT / "docs").glob("*.md"))]


def test_the_chinese_readme_has_the_same_commands_and_figures() -> None:
    """In its order: every block without its comments, every row's numbers, every heading's level.

    So the tests that run the commands of README.md run this page's.
    """

    def skeleton(text: str) -> dict[str, list]:
        blocks = re.findall(r"(?ms)^ *```(\w+)\n(.*?)^ *```", text)
        rows = re.findall(r"(?m)^\|.*\|$", text)
        return {
            "blocks": [(kind, re.sub(r"(?m) *#.*$", "", block)) for kind, block in blocks],
            "figures": [sorted(re.findall(r"\d[\d,.]*\d|\d", row)) for row in rows],
            "options": [sorted(re.findall(r"`[^`]+`", row)) for row in rows],
            "headings": re.findall(r"(?m)^(#+) ", re.sub(r"(?ms)^ *```.*?^ *```", "", text)),
        }

    english, chinese = skeleton(README), skeleton(CHINESE.read_text(encoding="utf-8"))
    for part in english:
        assert chinese[part] == english[part], part
    numbers = re.findall(r"\d+\.\d{2,}", CHINESE.read_text(encoding="utf-8"))
    assert sorted(numbers) == sorted(re.findall(r"\d+\.\d{2,}", README))


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
def test_files_that_pages_name_exist(page: Path) -> None:
    """Modules, C++ and tests by name or path, and folders, in spans of code, of any room."""
    assert unknown(page.read_text(encoding="utf-8"), strict=page.name == "architecture.md") == []


def unknown(text: str, strict: bool) -> list[str]:
    """Names of files and folders in the text that do not exist.

    A file is named by the end of its path; `strict` takes its room as well: the whole path in the
    checkout, in bardlet/, or in the folder that stands first in the same row of a table.
    """
    wrong = []
    for line in text.splitlines():
        spans = re.findall(r"`([\w./-]+)`", line)
        here = [span for span in spans if span.endswith("/")][:1] if line.startswith("|") else []
        for span in spans:
            if span in DATA or not re.search(r"\.(py|cpp|h)$|[\w-]/$", span):
                continue
            places = [ROOT / span, ROOT / "bardlet" / span]
            places += [ROOT / "bardlet" / folder / span for folder in here]
            loose = not strict and any(f"/{path}".endswith(f"/{span}") for path in FILES)
            if not loose and not any(place.exists() for place in places):
                wrong.append(span)
    return wrong


def test_a_name_that_leads_nowhere_is_seen() -> None:
    lines = ["`loader.py` `gemm.h`", "| `data/dataset/` | `loader.py`, `interop/gguf/file.py` |"]
    assert unknown(lines[0], strict=False) == [] == unknown(lines[1], strict=True)
    assert unknown(lines[0], strict=True) == ["loader.py", "gemm.h"]
    for name in ("interop/gguf/gone.py", "native/gone.h", "commands/gone.py", "test_gone.py"):
        assert unknown(f"`{name}`", strict=False) == [name]
    assert unknown("| `native/` | `loader.py` |", strict=True) == ["loader.py"]
    assert unknown("`gone/`", strict=False) == ["gone/"]


def test_every_preset_is_in_the_readme_or_on_a_page() -> None:
    text = README + "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in settings.preset_names():
        assert f"`{name}`" in text, name
