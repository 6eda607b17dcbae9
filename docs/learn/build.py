"""The walkthrough, run for real: `python docs/learn/build.py` writes outputs, pictures, notebooks.

Chapter NN is `NN.toml` (its blocks: a command of bardlet or Python, and how its output is
compared) and a text in each language, `en/NN.md` and `zh/NN.md`. In the texts, what stands between
`<!-- block NAME -->` and `<!-- end -->` is written here, and so is the number before a comment with
the name of a value: `1,422<!--his-->`. Links of code with a line are brought up to date.

    python docs/learn/build.py              all chapters, in order, in a new folder
    python docs/learn/build.py 01 02 --work DIR     some, where DIR has what those before made
    python docs/learn/build.py --again --work DIR   texts from what was run there last
    python docs/learn/build.py --check      compare instead of writing; exit 1 where texts are wrong
    python docs/learn/build.py --links      lines of code only; nothing is run
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# a run's losses follow from the number of threads, too: as in the tests, which run this again
os.environ["OMP_NUM_THREADS"] = "1"

import compare
import notebook
import pictures

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORPUS = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"  # taken where it is there
LANGUAGES = ("en", "zh")
BLOCK = re.compile(r"(<!-- block (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(\d[\d,.]*%?)(\**)<!--(\w+)-->")
LINK = re.compile(r"\[`([^`]+)`\]\(((?:\.\./)+)(bardlet/[\w/]+\.py)(?:#L\d+)?\)")


@dataclass
class Block:
    """A command or a piece of Python, and what became of it."""

    name: str
    run: str = ""  # a command of bardlet
    python: str = ""
    hidden: bool = False  # run for its values or picture alone
    keep: str = ""  # lines of the output that are shown, by a pattern; default: all
    limit: int = 0  # lines that are shown; 0: all
    compare: str = "exact"  # how outputs are compared: a name of compare.py
    tolerance: float | None = None  # in nats or points, in place of that of compare.py
    values: dict[str, str] = field(default_factory=dict)  # by name, a pattern with a group
    picture: str = ""  # an expression of Python that gives an SVG
    holds: list[str] = field(default_factory=list)  # expressions over `output` that must be true
    output: str = ""
    svg: dict[str, str] = field(default_factory=dict)  # by language

    def measured(self) -> dict[str, str]:
        """Its values, as they stand in the output."""
        result = {}
        for name, pattern in self.values.items():
            match = re.search(pattern, self.output, re.MULTILINE)
            assert match, f"block {self.name}: nothing is like {pattern!r} in\n{self.output}"
            result[name] = match[1]
        return result


def chapters() -> list[str]:
    """The numbers of all chapters, in order."""
    return sorted(path.stem for path in HERE.glob("[0-9][0-9].toml"))


def blocks_of(chapter: str) -> list[Block]:
    plan = tomllib.loads((HERE / f"{chapter}.toml").read_text(encoding="utf-8"))
    return [Block(**block) for block in plan["block"]]


def is_fast(chapter: str) -> bool:
    """Whether a chapter needs no trained model: tests run it every time."""
    plan = tomllib.loads((HERE / f"{chapter}.toml").read_text(encoding="utf-8"))
    return bool(plan.get("fast"))


# --- running


def run_chapter(chapter: str, names: dict[str, Any], corpus: Path | None) -> list[Block]:
    """Run a chapter's blocks in the current folder; Python in `names`, which blocks share."""
    blocks = blocks_of(chapter)
    for block in blocks:
        raw = command(block.run, corpus) if block.run else python(block.python, names)
        block.output = shown(block, raw)
        names["output"] = raw
        for claim in block.holds:
            assert eval(claim, names), f"{chapter}, block {block.name}: {claim} does not hold"
        if block.picture:
            for language in LANGUAGES:
                block.svg[language] = eval(block.picture, {**names, "t": pick(language)})
    return blocks


def recalled(chapter: str, made: dict[str, Any]) -> list[Block]:
    """A chapter's blocks with what they gave when they were run last."""
    blocks = blocks_of(chapter)
    for block in blocks:
        block.output, block.svg = made[block.name]
    return blocks


def pick(language: str) -> Any:
    """What chooses among texts of the languages, for pictures."""
    return lambda *texts: texts[LANGUAGES.index(language)]


def command(line: str, corpus: Path | None) -> str:
    """What a command of bardlet prints, on stdout and stderr together."""
    from bardlet.cli import main

    program, *args = shlex.split(line)
    assert program == "bardlet", line
    if args[:2] == ["prepare", "tinyshakespeare"] and corpus is not None:
        args += ["--file", str(corpus)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(args)
    assert code in (0, 1) and "Traceback" not in out.getvalue(), f"{line}:\n{out.getvalue()}"
    assert "bardlet: " not in out.getvalue(), out.getvalue()
    return out.getvalue()


def python(code: str, names: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<block>", "exec"), names)
    return out.getvalue()


def shown(block: Block, raw: str) -> str:
    """The lines of an output that the text shows, without spaces at their ends."""
    lines = [line.rstrip() for line in raw.splitlines()]
    lines = [line for line in lines if re.search(block.keep, line)]
    cut = [*lines[: block.limit], "..."] if 0 < block.limit < len(lines) else lines
    return "\n".join(cut).strip("\n")


# --- texts


def filled(text: str, blocks: list[Block], chapter: str, language: str) -> str:
    """A chapter's text with the outputs, pictures and values of its blocks."""
    by_name = {block.name: block for block in blocks}
    values = {name: value for block in blocks for name, value in block.measured().items()}

    def write(match: re.Match[str]) -> str:
        block = by_name[match[2]]
        parts = []
        if not block.hidden:
            kind, code = ("sh", block.run) if block.run else ("python", block.python.strip())
            parts += [f"```{kind}\n{code}\n```"]
            parts += [f"```text\n{block.output}\n```"] * bool(block.output)
        if block.svg:
            parts.append(f"![{match[2]}]({chapter}-{block.name}.svg)")
        return match[1] + "\n".join(parts) + "\n" + match[3]

    text = BLOCK.sub(write, text)
    return VALUE.sub(lambda m: f"{values.get(m[3], m[1])}{m[2]}<!--{m[3]}-->", text)


def outputs_in(text: str) -> dict[str, str]:
    """What a chapter's text has as the output of each of its blocks."""
    result = {}
    for match in BLOCK.finditer(text):
        inside = re.search(r"```text\n(.*?)\n```", match[0], re.DOTALL)
        result[match[2]] = inside[1] if inside else ""
    return result


def values_in(text: str) -> list[tuple[str, str]]:
    """Every value of a chapter's text: its name, and the number that stands there."""
    return [(match[3], match[1]) for match in VALUE.finditer(text)]


def with_links(text: str) -> str:
    """The text with the line of every link of code; AssertionError where that code is gone."""

    def write(match: re.Match[str]) -> str:
        name, up, file = match[1], match[2], match[3]
        return f"[`{name}`]({up}{file}#L{line_of(ROOT / file, name)})"

    return LINK.sub(write, text)


def line_of(path: Path, name: str) -> int:
    """Where a function, a class, Class.method or a line of code stands in a file, from 1."""
    code = path.read_text(encoding="utf-8")
    if path.name.removesuffix(".py") == Path(name).stem and name.endswith(".py"):
        return 1
    for full, line in definitions(ast.parse(code)):
        if full == name.removesuffix("()"):
            return line
    for number, line in enumerate(code.splitlines(), 1):
        if line.strip().startswith(name):
            return number
    raise AssertionError(f"{path.name} has no {name}, which a chapter points to")


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node.lineno
            yield from definitions(node, f"{prefix}{node.name}.")


def problems(text: str, blocks: list[Block]) -> list[str]:
    """Where a chapter's text has other outputs or values than its blocks, beyond tolerance."""
    shown_there, wrong = outputs_in(text), []
    for block in blocks:
        if not block.hidden and block.name in shown_there:
            there, now = shown_there[block.name], block.output
            other = compare.differences(block.compare, there, now, block.tolerance)
            wrong += [f"block {block.name}: {one}" for one in other]
    by_value = {
        name: (value, block) for block in blocks for name, value in block.measured().items()
    }
    for name, there in values_in(text):
        if name not in by_value:
            wrong.append(f"no block has the value {name}")
            continue
        value, block = by_value[name]
        if compare.differences(block.compare, there, value, block.tolerance):
            wrong.append(f"{name} is {there} in the text, and {value} by block {block.name}")
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="build or check the walkthrough")
    parser.add_argument("chapters", nargs="*", help="numbers, such as 01; default: all")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--links", action="store_true", help="lines of code only; run nothing")
    parser.add_argument("--again", action="store_true", help="run nothing: what --work has")
    parser.add_argument("--work", type=Path, help="folder with what chapters before have made")
    args = parser.parse_args(argv)
    names = args.chapters or chapters()
    corpus = CORPUS if CORPUS.is_file() else None
    assert args.work or not args.again, "--again needs --work"
    if args.links:
        for path in (path for language in LANGUAGES for path in (HERE / language).glob("*.md")):
            path.write_text(with_links(path.read_text(encoding="utf-8")), encoding="utf-8")
        write_notebooks()
        return 0
    wrong = []
    with contextlib.ExitStack() as stack:
        work = (args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        work.mkdir(parents=True, exist_ok=True)
        stack.enter_context(contextlib.chdir(work))
        for chapter in names:
            saved = Path(f"{chapter}.json")
            if args.again:
                blocks = recalled(chapter, json.loads(saved.read_text(encoding="utf-8")))
            else:
                began = time.perf_counter()
                blocks = run_chapter(chapter, {"__name__": "learn", **pictures.FUNCTIONS}, corpus)
                print(f"chapter {chapter}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
                made = {block.name: [block.output, block.svg] for block in blocks}
                saved.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
            for language in LANGUAGES:
                path = HERE / language / f"{chapter}.md"
                if not path.is_file():
                    continue
                text = path.read_text(encoding="utf-8")
                if args.check:
                    wrong += [f"{language}/{chapter}: {one}" for one in problems(text, blocks)]
                    continue
                path.write_text(with_links(filled(text, blocks, chapter, language)), "utf-8")
                for block in blocks:
                    if block.svg:
                        picture = path.with_name(f"{chapter}-{block.name}.svg")
                        picture.write_text(block.svg[language], encoding="utf-8")
    if not args.check:
        write_notebooks()
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


def write_notebooks() -> None:
    """Both languages' notebooks of all chapters, as their texts are."""
    for language in LANGUAGES:
        notebook.write(HERE, language, chapters(), {c: blocks_of(c) for c in chapters()})


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(main())
