"""The walkthrough: both languages, their blocks, links and notebooks; the fast ones are run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import CORPUS, ROOT, some_text

LEARN = ROOT / "docs" / "learn"
sys.path.insert(0, str(LEARN))

import build  # noqa: E402
import compare  # noqa: E402
import notebook  # noqa: E402
import pictures  # noqa: E402

CHAPTERS = build.chapters()
FAST = [chapter for chapter in CHAPTERS if build.is_fast(chapter)]
TEXTS = {
    (language, chapter): (LEARN / language / f"{chapter}.md").read_text(encoding="utf-8")
    for language in build.LANGUAGES for chapter in CHAPTERS
}  # fmt: skip
each_text = pytest.mark.parametrize(("language", "chapter"), TEXTS, ids=lambda part: part)


def test_there_are_chapters() -> None:
    assert len(CHAPTERS) >= 10
    assert len(FAST) >= 3


@each_text
def test_a_chapter_has_what_every_chapter_has(language: str, chapter: str) -> None:
    text = TEXTS[language, chapter]
    title = text.splitlines()[0]
    assert title.startswith(f"# {int(chapter)}. ")
    assert title.endswith(("?", "？"))  # noqa: RUF001
    assert text.count("<details><summary>") == text.count("</details>") == 2
    shown = [name for name, _ in blocks_of(text)]
    there = build.blocks_of(chapter)
    assert shown == [name for name, _ in blocks_of(TEXTS["en", chapter])]
    assert len(set(shown)) == len(shown)
    assert {b.name for b in there if not b.hidden or b.picture} == set(shown)
    known = {name for block in there for name in block.values}
    assert {name for name, _ in build.values_in(text)} == known
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)
    for name, inside in blocks_of(text):
        block = next(block for block in there if block.name == name)
        assert (block.run or block.python.strip()) in inside or block.hidden
        assert f"({chapter}-{name}.svg)" in inside or not block.picture


def blocks_of(text: str) -> list[tuple[str, str]]:
    return [(match[2], match[0]) for match in build.BLOCK.finditer(text)]


@pytest.mark.parametrize(
    "page", sorted(LEARN.glob("*/*.md")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    build.with_links(text)  # every function that is named is in its file
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_a_link_to_code_that_is_gone_is_noticed() -> None:
    link = "[`{}`](../../../bardlet/model.py#L1)"
    line = int(re.search(r"#L(\d+)", build.with_links(link.format("GPT.forward")))[1])  # type: ignore
    assert (ROOT / "bardlet/model.py").read_text().splitlines()[line - 1].strip() == "def forward("
    with pytest.raises(AssertionError, match=r"has no GPT\.sing"):
        build.with_links(link.format("GPT.sing"))


def test_pictures_are_drawings_in_both_languages() -> None:
    for chapter in CHAPTERS:
        for block in build.blocks_of(chapter):
            for language in build.LANGUAGES if block.picture else ():
                path = LEARN / language / f"{chapter}-{block.name}.svg"
                assert ElementTree.parse(path).getroot().tag.endswith("svg")
    shown = pictures.bars([("<b>", 2), ("c", 1)], "a & b")
    assert ElementTree.fromstring(shown).get("aria-label") == "a & b"


@pytest.mark.parametrize("language", build.LANGUAGES)
def test_notebooks_are_those_of_the_texts(language: str, tmp_path: Path) -> None:
    for chapter in CHAPTERS:
        for path in (LEARN / language).glob(f"{chapter}*"):
            (tmp_path / language).mkdir(exist_ok=True)
            (tmp_path / language / path.name).write_bytes(path.read_bytes())
    notebook.write(tmp_path, language, CHAPTERS, {c: build.blocks_of(c) for c in CHAPTERS})
    name = f"walkthrough.{language}.ipynb"
    assert (LEARN / name).read_bytes() == (tmp_path / name).read_bytes(), "run make learn"
    made = json.loads((LEARN / name).read_text(encoding="utf-8"))
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    sources = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
    assert "%pip install" in sources[0]
    for source in sources[1:]:
        if not source.startswith("!bardlet "):
            compile(source, name, "exec")
    for target in re.findall(r"\]\(([\w./]+)", json.dumps(made)):
        assert (LEARN / target).exists(), target
    for cell in made["cells"]:
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )


@pytest.mark.parametrize(
    ("kind", "there", "now", "same"),
    [
        ("exact", "1,422 times", "1,422 times", True), ("exact", "1,422", "1,423", False),
        ("losses", "val loss 1.595", "val loss 1.620", True),
        ("losses", "val loss 1.595", "val loss 1.630", False),
        ("losses", "step 40: 1.5", "step 41: 1.5", False),
        ("losses", "a 1.5\nb 2.5", "a 1.5", False),
        ("shares", '"s" 57.1%', '"s" 61.9%', True), ("shares", '"s" 57.1%', '"s" 62.2%', False),
        ("shape", "whatever", "else", True),
    ],
)  # fmt: skip
def test_outputs_are_compared_within_tolerance(kind: str, there: str, now: str, same: bool) -> None:
    assert (compare.differences(kind, there, now) == []) is same


def test_a_block_may_have_a_tolerance_of_its_own() -> None:
    assert compare.differences("losses", "last 2.053", "last 1.981", 0.15) == []
    assert compare.differences("shares", '"s" 57.6%', '"s" 44.8%', 25) == []
    assert compare.differences("shares", "57.6", "44.8", 25) == []
    assert compare.differences("shares", '"s" 57.6%', '"s" 31.0%', 25) != []
    block = build.Block(name="a", output="last 1.98", compare="losses", values={"n": r"last (.+)"})
    text = "2.05<!--n-->\n<!-- block a -->\n```text\nlast 2.05\n```\n<!-- end -->\n"
    assert len(build.problems(text, [block])) == 2
    block.tolerance = 0.1
    assert build.problems(text, [block]) == []


def test_a_wrong_number_in_a_text_is_noticed() -> None:
    block = build.Block(name="a", output="there are 12 of them", values={"n": r"are (\d+)"})
    text = "Here: 12<!--n-->.\n<!-- block a -->\n```text\nthere are 12 of them\n```\n<!-- end -->\n"
    assert build.problems(text, [block]) == []
    assert build.problems(text.replace("12<", "13<"), [block]) != []
    assert build.problems(text.replace("are 12", "are 13"), [block]) != []
    mended = build.filled(text.replace("12", "13"), [block], "01", "en")
    assert build.problems(mended, [block]) == []


@pytest.mark.parametrize("chapter", FAST)
def test_a_fast_chapter_runs(chapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real text its outputs are those of both texts; on another one it runs."""
    monkeypatch.chdir(tmp_path)
    corpus = CORPUS
    if not CORPUS.is_file():
        letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        corpus = tmp_path / "made.txt"
        corpus.write_text(some_text(60_000) + letters + " his qu thou" * 20, encoding="utf-8")
    build.command("bardlet prepare tinyshakespeare", corpus)
    blocks = build.run_chapter(chapter, {"__name__": "learn", **pictures.FUNCTIONS}, corpus)
    if CORPUS.is_file():
        for language in build.LANGUAGES:
            assert build.problems(TEXTS[language, chapter], blocks) == []


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_file(), reason="needs the canonical text")
@pytest.mark.timeout(1800)
def test_all_chapters_are_as_they_say(tmp_path: Path) -> None:
    assert build.main(["--check", "--work", str(tmp_path)]) == 0
