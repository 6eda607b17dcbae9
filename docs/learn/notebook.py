"""The walkthrough as a notebook: the same texts and blocks, with their outputs, in one file."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"<!-- block (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
INTRO = {
    "en": "# bardlet, step by step\n\nRun the cells from top to bottom; a CPU is enough, in Colab "
    "as well as at home. The first one installs bardlet where it is missing.",
    "zh": "# 一步一步学 bardlet\n\n从上到下依次运行各个单元格即可。Colab 或自己的电脑都行，"  # noqa: RUF001
    "只用 CPU 就够了。第一个单元格会在缺少 bardlet 时安装它。",
}
INSTALL = """import importlib.util

if importlib.util.find_spec("bardlet") is None:
    %pip install -q bardlet"""


def write(folder: Path, language: str, chapters: list[str], blocks: dict[str, list[Any]]) -> None:
    """Write walkthrough.LANGUAGE.ipynb beside the chapters' folders."""
    cells = [markdown(INTRO[language], language), code(INSTALL, "", "")]
    for chapter in chapters:
        path = folder / language / f"{chapter}.md"
        if not path.is_file():
            continue
        by_name = {block.name: block for block in blocks[chapter]}
        text, at = path.read_text(encoding="utf-8"), 0
        for match in BLOCK.finditer(text):
            cells.append(markdown(text[at : match.start()], language))
            at = match.end()
            block = by_name[match[1]]
            output = re.search(r"```text\n(.*?)\n```", match[2], re.DOTALL)
            picture = path.with_name(f"{chapter}-{block.name}.svg")
            svg = picture.read_text(encoding="utf-8") if block.picture else ""
            source = f"!{block.run}" if block.run else block.python.strip()
            cells.append(code(source, output[1] if output else "", svg))
        cells.append(markdown(text[at:], language))
    cells = [{**cell, "id": f"cell-{i}"} for i, cell in enumerate(cells) if cell["source"]]
    content = {
        "cells": cells, "nbformat": 4, "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    }  # fmt: skip
    made = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    (folder / f"walkthrough.{language}.ipynb").write_text(made, encoding="utf-8")


def markdown(text: str, language: str) -> dict[str, Any]:
    """A cell of text, without the comments that the build needs; links lead on from here."""
    text = re.sub(r"<!--.*?-->", "", text).strip()
    text = re.sub(r"\]\(([\w./]+)", lambda m: f"]({moved(m[1], language)}", text)
    return {"cell_type": "markdown", "metadata": {}, "source": lines(text)}


def moved(target: str, language: str) -> str:
    """A relative link of a chapter as it is from the folder above."""
    return posixpath.normpath(posixpath.join(language, target))


def code(source: str, output: str, svg: str) -> dict[str, Any]:
    """A cell of code with what it printed and drew."""
    outputs: list[dict[str, Any]] = []
    if output:
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(output + "\n")})
    if svg:
        outputs.append({
            "output_type": "display_data", "metadata": {}, "data": {"image/svg+xml": lines(svg)}
        })  # fmt: skip
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "source": lines(source),
            "outputs": outputs}  # fmt: skip


def lines(text: str) -> list[str]:
    """A text as notebooks keep it: its lines, each with its end."""
    return text.splitlines(keepends=True)
