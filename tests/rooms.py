"""The rooms of the package, who imports whom among them, and how many lines each has.

    python tests/rooms.py [CHECKOUT]

prints a table and the number of arrows between rooms, of this tree or of another checkout.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
NESTED = ("data",)  # folders whose own folders are the rooms
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def modules(package: Path) -> dict[str, Path]:
    """Every module by its name in the package: "data.text.plays", "" for the package itself."""
    paths = sorted(package.rglob("*.py"))
    return {".".join(p.relative_to(package).with_suffix("").parts).removesuffix("__init__")
            .removesuffix("."): p for p in paths}  # fmt: skip


def room(name: str) -> str:
    """The room of a module: its folder, or its own name at the top of the package."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in NESTED else parts[0]


def imported(nodes: Iterable[ast.AST], known: Iterable[str]) -> set[str]:
    """The full names of what these nodes import, `from a import b` as a.b where that is ours."""
    names: set[str] = set()
    ours = {f"bardlet.{name}" for name in known}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in ours else str(node.module))
    return names


def of_package(names: Iterable[str]) -> set[str]:
    """Those of the package, by their names in it."""
    return {n.removeprefix("bardlet").lstrip(".") for n in names if n.split(".")[0] == "bardlet"}


def graph(package: Path) -> dict[str, set[str]]:
    """What each module imports of the package, anywhere in it."""
    found = modules(package)
    return {
        name: of_package(imported(ast.walk(ast.parse(path.read_text("utf-8"))), found)) - {name}
        for name, path in found.items()
    }


def arrows(imports: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Pairs of a room and one that it imports from."""
    pairs = {(room(name), room(other)) for name, used in imports.items() for other in used}
    return {(one, other) for one, other in pairs if one != other and one and other}


def includes(folder: Path) -> dict[str, set[str]]:
    """What each C++ file includes of its own folder."""
    paths = [*folder.glob("*.h"), *folder.glob("*.cpp")]
    return {path.name: set(INCLUDE.findall(path.read_text("utf-8"))) for path in paths}


def scripts(folder: Path) -> dict[str, set[str]]:
    """What each script imports of the others in its folder, by file name without .py."""
    trees = {path.stem: ast.parse(path.read_text("utf-8")) for path in folder.glob("*.py")}
    return {
        name: imported(ast.walk(tree), ()) & trees.keys() - {name} for name, tree in trees.items()
    }


def cycle(imports: Mapping[str, set[str]]) -> list[str]:
    """Files that import each other, directly or through others; empty where there are none.

    The package's own module, "", is left out: it names what it loads when asked, far above it.
    """
    done: set[str] = {""}

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(imports.get(name, ())):
            if loop := search(other, [*path, name]):
                return loop
        done.add(name)
        return []

    return next((loop for name in sorted(imports) if (loop := search(name, []))), [])


def main(checkout: Path) -> None:
    package = checkout / "bardlet"
    imports = graph(package)
    found = modules(package)
    pairs = arrows(imports)
    for name in sorted({room(n) for n in found if n}):
        inside = [found[n] for n in found if n and room(n) == name]
        lines = sum(len(p.read_text("utf-8").splitlines()) for p in inside)
        uses = " ".join(sorted(other for one, other in pairs if one == name))
        print(f"{name:16} {len(inside):3} files {lines:6,} lines  <- {uses}")
    total = sum(len(path.read_text("utf-8").splitlines()) for path in found.values())
    rooms = len({room(n) for n in found if n})
    print(f"{rooms} rooms, {len(pairs)} arrows between them, {total:,} lines of Python")
    print("files that import each other:", " -> ".join(cycle(imports)) or "none")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
