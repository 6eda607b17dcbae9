"""The figures of README.md and README.zh.md, from what was measured: bench/results/readme.json.

    python bench/readme.py            # writes both from the file, as `bench/all.py --write` does

Between `<!-- figures: NAME -->` and `<!-- end of figures -->` the pages have the part NAME of
bench/results/figures.en.md or figures.zh.md, in which these stand for numbers:
`{bardlet_188.total_s:.1f}` is the median of what a side of `SIDES` measured, `.min` and `.max` its
range, `.hours` and `.seconds` the same of seconds and minutes; `{ratio[A.key / B.key]:.1f}` is a
quotient of two medians, and `{machines}` where the part's figures were measured.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = {"README.md": "figures.en.md", "README.zh.md": "figures.zh.md"}
CURVE = ROOT / "docs" / "loss_curve.svg"
PART = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)
# by the name that figures have: the benchmark of all.py, how its case begins, and who measured
SIDES = {
    "nano_188": ("loss_1.88", "", "nanoGPT"),
    "bardlet_188": ("loss_1.88", "", "bardlet"),
    "nano_147": ("loss_1.47", "", "nanoGPT, projected"),
    "bardlet_147": ("loss_1.47", "", "bardlet"),
    "demo": ("demo", "", "bardlet, demo"),
    "best": ("best", "", "bardlet, shakespeare-char-best"),
    "classic_cpu": ("classic_cpu", "", "bardlet, shakespeare-char-classic-cpu"),
    "nano_parity": ("parity", "", "nanoGPT"),
    "bardlet_parity": ("parity", "", "bardlet"),
    "nano_4L": ("throughput_4L", "4L/128", "nanoGPT, float32"),
    "bardlet_4L": ("throughput_4L", "4L/128", "bardlet, auto"),
    "bardlet_4L_float32": ("throughput_4L", "4L/128", "bardlet, float32"),
    "nano_6L": ("throughput_6L", "6L/384", "nanoGPT, float32"),
    "nano_6L_dropout": ("throughput_6L", "6L/384", "nanoGPT, documented: dropout 0.2"),
    "bardlet_6L": ("throughput_6L", "6L/384", "bardlet, auto"),
    "nano_memory": ("memory", "", "nanoGPT, float32"),
    "bardlet_memory": ("memory", "", "bardlet, auto"),
    "nano_step": ("first_step", "as documented", "nanoGPT"),
    "bardlet_step": ("first_step", "as documented", "bardlet"),
    "nano_0M8": ("sampling", "0.8M, one text", "nanoGPT"),
    "bardlet_0M8": ("sampling", "0.8M, one text", "bardlet"),
    "nano_10M7": ("sampling", "10.7M, one text", "nanoGPT"),
    "bardlet_10M7": ("sampling", "10.7M, one text", "bardlet"),
    "nano_124M": ("sampling", "124M, one text", "nanoGPT"),
    "bardlet_124M": ("sampling", "124M, one text", "bardlet"),
    "nano_ten": ("sampling", "10.7M, ten texts", "nanoGPT, one after another"),
    "bardlet_ten": ("sampling", "10.7M, ten texts", "bardlet"),
    "nano_prepare": ("prepare", "", "nanoGPT"),
    "bardlet_prepare": ("prepare", "", "bardlet"),
    "nano_loader": ("loader", "", "nanoGPT"),
    "bardlet_loader": ("loader", "", "bardlet"),
    "tiktoken": ("tokenizers", "GPT-2, one thread", "tiktoken"),
    "gpt2": ("tokenizers", "GPT-2, one thread", "bardlet"),
    "gpt2_plain": ("tokenizers", "GPT-2, one thread", "bardlet without its core"),
    "tiktoken_cores": ("tokenizers", "GPT-2, all", "tiktoken"),
    "gpt2_cores": ("tokenizers", "GPT-2, all", "bardlet"),
    "tiktoken_english": ("tokenizers_english", "GPT-2, one thread", "tiktoken"),
    "gpt2_english": ("tokenizers_english", "GPT-2, one thread", "bardlet"),
    "gpt2_english_plain": (
        "tokenizers_english", "GPT-2, one thread", "bardlet without its core"
    ),
    "rustbpe": ("tokenizers", "32,768 tokens", "rustbpe"),
    "library": ("tokenizers", "32,768 tokens", "tokenizers"),
    "trainer": ("tokenizers", "32,768 tokens", "bardlet"),
    "nano_ascii": ("tokenizers", "characters, ASCII", "a dictionary"),
    "bardlet_ascii": ("tokenizers", "characters, ASCII", "bardlet"),
    "nano_others": ("tokenizers", "characters, other", "a dictionary"),
    "bardlet_others": ("tokenizers", "characters, other", "bardlet"),
    "transformers": ("formats", "124M, one text", "transformers, bfloat16"),
    "llama_bfloat16": ("formats", "124M, one text", "llama.cpp, bfloat16"),
    "llama_int8": ("formats", "124M, one text", "llama.cpp, int8"),
    "llama_int4": ("formats", "124M, one text", "llama.cpp, int4"),
    "bardlet_bfloat16": ("formats", "124M, one text", "bardlet, bfloat16"),
    "bardlet_int8": ("formats", "124M, one text", "bardlet, int8"),
    "bardlet_int4": ("formats", "124M, one text", "bardlet, int4"),
    "llama_serving": ("serving", "", "llama.cpp, 64 at once"),
    "bardlet_serving": ("serving", "", "bardlet, 64 at once"),
    "page": ("page", "demo", "float32"),
}  # fmt: skip


class Measured(float):
    """A median, with the range around it."""

    min: float
    max: float

    @property
    def hours(self) -> float:
        """Of a time in seconds."""
        return self / 3600

    @property
    def seconds(self) -> float:
        """Of a time in minutes."""
        return self * 60


class Side:
    """What one side measured, by key."""

    def __init__(self, name: str, results: dict[str, Any]) -> None:
        self.name = name
        benchmark, case, who = SIDES[name]
        if benchmark not in results:
            raise SystemExit(
                f"there is no figure of {benchmark}: run bench/all.py --only {benchmark}"
            )
        self.entry = results[benchmark]
        rows = [row for row in self.entry["summary"]
                if row["who"] == who and row["case"].startswith(case)]  # fmt: skip
        if len(rows) != 1:
            raise SystemExit(
                f"{benchmark} has {len(rows)} rows of {who}, {case!r}: one is expected"
            )
        self.row = rows[0]

    def __getattr__(self, key: str) -> Measured:
        if not isinstance(self.row.get(key), dict):
            raise SystemExit(f"{SIDES[self.name][0]} has no {key} of {self.row['who']}")
        value = self.row[key]
        measured = Measured(value["median"])
        measured.min, measured.max = value.get("min", measured), value.get("max", measured)
        return measured


class Ratios:
    """Quotients of medians; where a benchmark's medians are rounded, the ratio that it recorded."""

    def __init__(self, sides: dict[str, Side]) -> None:
        self.sides = sides

    def __getitem__(self, expression: str) -> float:
        (above, key), (below, other) = (word.split(".") for word in expression.split(" / "))
        one, two = self.sides[above], self.sides[below]
        recorded = one.entry.get("recorded_ratios", {})
        if one.entry is two.entry and expression in recorded:
            return recorded[expression]
        return getattr(one, key) / getattr(two, other)


def rendered(part: str, results: dict[str, Any]) -> str:
    """A part of a page with its figures."""
    sides = {name: Side(name, results) for name in SIDES if re.search(rf"\b{name}\.", part)}
    where: dict[str, list[str]] = {}
    for side in sides.values():
        names = where.setdefault(side.entry["machine"], [])
        if (name := SIDES[side.name][0]) not in names:
            names.append(name)
    last = len(where) - 1
    machines = "; ".join(
        f"{one} ({', '.join(names)})" if last else one for one, names in where.items()
    )
    return part.format(**sides, ratio=Ratios(sides), machines=machines)


def page_with_figures(page: str, figures: str, results: dict[str, Any]) -> str:
    """`page` with the parts of `figures` in their places."""
    parts = {name: text for _, name, text, _ in PART.findall(figures)}
    places = {name for _, name, _, _ in PART.findall(page)}
    if places != parts.keys():
        odd = ", ".join(sorted(places ^ parts.keys()))
        raise SystemExit(
            f"{odd}: a part of the figures without its place in the page, or the reverse"
        )
    return PART.sub(lambda at: at[1] + rendered(parts[at[2]], results) + at[4], page)


def results() -> dict[str, Any]:
    """What was measured, by benchmark."""
    return json.loads((RESULTS / "readme.json").read_text(encoding="utf-8"))["benchmarks"]


def pages() -> dict[Path, str]:
    """Both pages as they have to be."""
    measured = results()
    wanted = {}
    for name, figures in PAGES.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        text = (RESULTS / figures).read_text(encoding="utf-8")
        wanted[ROOT / name] = page_with_figures(page, text, measured)
    return wanted


def take(record: dict[str, Any], curve: Path) -> None:
    """Put what ended well in a record of all.py into the results, and write both pages from them.

    `curve` is the picture that goes with it, where there is one.
    """
    file = RESULTS / "readme.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    for name, part in record["parts"].items():
        if part["status"] != "ok":
            continue
        ran = part["record"]
        kept["benchmarks"][name] = {
            "command": part["command"],
            "machine": f"{record['machine']}, torch {ran['versions'].get('torch', 'unknown')}",
            "commit": ran["commit"], "peer_commit": ran["peer_commit"], "load": part["load"],
            "summary": ran["summary"],
        }  # fmt: skip
        if name == "loss_curve" and curve.is_file():
            shutil.copyfile(curve, CURVE)
    file.write_text(
        json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write_pages()


def write_pages() -> None:
    """Write both pages from the results."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def joined(folder: Path) -> str:
    """PYTHONPATH with a folder before what it has."""
    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(folder), before] if before else [str(folder)])


if __name__ == "__main__":
    write_pages()
