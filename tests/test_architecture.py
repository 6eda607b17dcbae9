"""The shape of the package: who imports whom, how long a module may be, what none may do."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import rooms

import bardlet

PACKAGE = Path(bardlet.__file__).parent
CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"

# What each room may import, itself aside; a room is a folder, or a file at the top.
BELOW = ("errors", "io", "config", "system")
MODEL = ("model", "lora", "native", "gpu")
DATA = ("data.text", "data.tokenizers", "data.dataset")
ROOMS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "io": ("errors",),
    "config": ("errors", "io"),
    "system": ("errors", "io", "config"),
    "model": (),
    "lora": ("model",),
    "native": ("errors", "model", "system"),
    "gpu": ("model",),
    "data.text": BELOW,
    "data.tokenizers": (*BELOW, "data.text"),
    "data.dataset": (*BELOW, "data.text", "data.tokenizers"),
    "data.prepare": (*BELOW, *DATA),
    "optim": (*BELOW, *MODEL),
    "evaluate": (*BELOW, *MODEL, *DATA),
    "sampling": ("errors", "model", "gpu"),
    "sample": (*BELOW, *MODEL, "sampling"),
    "run": (*BELOW, *DATA, "model", "lora"),
    "training": (*BELOW, *DATA, *MODEL, "optim", "evaluate", "run"),
    "train": (*BELOW, *DATA, *MODEL, "optim", "evaluate", "run", "training"),
    "planning": (*BELOW, *DATA, "data.prepare", *MODEL, "optim", "evaluate", "run", "training",
                 "train"),
    "analysis": (*BELOW, *DATA, *MODEL, "sampling", "training"),
    "web": ("errors", "io"),
    "report": (*BELOW, *DATA, "run", "training", "analysis", "web"),
    "interop": (*BELOW, *DATA, *MODEL, "run", "sampling", "sample", "web"),
    "serve": (*BELOW, *DATA, *MODEL, "evaluate", "run", "sampling", "sample", "interop", "analysis",
              "web", "report"),
    "suites": (*BELOW, *DATA, *MODEL, "evaluate", "run", "sampling", "sample", "interop", "serve"),
    "commands": (*BELOW, *DATA, "data.prepare", *MODEL, "optim", "evaluate", "sampling",
                 "sample", "run", "training", "train", "planning", "analysis", "web", "report",
                 "interop", "serve", "suites"),
    "cli": ("errors", "io", "commands"),
    "__main__": ("cli",),
}  # fmt: skip
NANOGPT = "interop.nanogpt"
DISTRIBUTIONS = {"yaml": "pyyaml"}  # packages whose name at the index is another
# of serve: what is behind fastapi
HTTP = ("answers", "app", "embeddings", "events", "looking", "metrics", "pages", "responses",
        "runs", "schema", "server", "texts")  # fmt: skip
TOP = 12  # files at the top of the package
BUDGETS = {"config": 300, "model": 330, "train": 336, "sample": 300, "errors": 60}


MODULES = rooms.modules(PACKAGE)
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
GRAPH = rooms.graph(PACKAGE)
# what `bardlet --help` and a command's own help load
LIGHT = ["", "errors", "config", "cli", "__main__",
         *(name for name in MODULES if name.split(".")[0] in ("io", "commands")),
         "run", "run.lock", "run.run_folder", "run.state", "system", "system.signals"]  # fmt: skip
each_module = pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "__init__")


def outside(names: set[str]) -> set[str]:
    """Top-level packages that are neither bardlet nor Python's own."""
    tops = {name.split(".")[0] for name in names}
    return tops - {"bardlet"} - sys.stdlib_module_names


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when the module is imported: all but bodies of functions, and what types need."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            todo += ast.iter_child_nodes(node)


def test_every_room_has_a_row() -> None:
    found = {rooms.room(name) for name in MODULES if name} - {"data"}
    assert found == set(ROOMS), "a new room is added to ROOMS, and to docs/architecture.md"


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_what_its_row_allows(name: str) -> None:
    used = {(module, other) for module, others in GRAPH.items() for other in others
            if module and rooms.room(module) == name}  # fmt: skip
    allowed = {name, *ROOMS[name]}
    assert [pair for pair in sorted(used) if pair[1] and rooms.room(pair[1]) not in allowed] == []


def test_rows_name_rooms_above_only() -> None:
    for row, (name, allowed) in enumerate(ROOMS.items()):
        assert set(allowed) <= set(list(ROOMS)[:row]), name


def test_the_page_has_the_same_rows() -> None:
    """docs/architecture.md's table: the rooms in this order, and what each may import."""
    page = (rooms.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    groups = {"base": BELOW, "tokens": DATA, "maths": MODEL}
    rows: dict[str, set[str]] = {}
    for name, cell in re.findall(
        r"(?m)^\| `([\w/.]+)`.*\| ([^|]+) \|$", page.split("## Decisions")[0]
    ):
        allowed = set(re.findall(r"`([\w.]+)`", cell))
        for group in re.findall(r"\bbase\b|\btokens\b|\bmaths\b", cell):
            allowed |= set(groups[group])
        if "the row above" in cell:
            allowed |= list(rows.values())[-1]
        if cell == "all of the above":
            allowed = set(rows)
        rows[name.removesuffix(".py").rstrip("/").replace("/", ".")] = allowed
    assert rows == {name: set(allowed) for name, allowed in ROOMS.items()}
    assert list(rows) == list(ROOMS)


def test_no_files_import_each_other() -> None:
    assert rooms.cycle(GRAPH) == []
    for folder in (PACKAGE / "native" / "src", PACKAGE / "data" / "tokenizers"):
        assert rooms.cycle(rooms.includes(folder)) == []
    bench = rooms.scripts(rooms.ROOT / "bench")
    assert "common" in bench["ngram"]
    assert rooms.cycle(bench) == []
    assert rooms.cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_the_package_shows_its_rooms() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= TOP
    loose = [name for name in MODULES if name.startswith("data.") and name.count(".") == 1]
    assert sorted(loose) == ["data.dataset", "data.prepare", "data.text", "data.tokenizers"]


def test_the_model_needs_torch_alone() -> None:
    used = rooms.imported(ast.walk(TREES["model"]), MODULES)
    assert outside(used) == {"torch"}
    assert not any("distributed" in name or "optim" in name for name in used)


@pytest.mark.parametrize("name", LIGHT, ids=lambda name: name or "__init__")
def test_the_command_line_loads_nothing_heavy(name: str) -> None:
    """At import, a light module imports light modules and Python's own, and so all of them do."""
    used = rooms.imported(at_import(TREES[name]), MODULES)
    assert outside(used) == set()
    assert rooms.of_package(used) <= set(LIGHT)


def test_the_loop_has_little_code_for_many_processes() -> None:
    """Lines that ask a group, or a module for several processes."""
    text = MODULES["train"].read_text(encoding="utf-8")
    names = re.compile(r"\b(distributed|exchanges|sharding|group)\.")
    assert len([line for line in text.splitlines() if names.search(line)]) <= 15


def test_torch_distributed_and_its_launcher_are_named_in_one_room() -> None:
    users = [n for n in MODULES if any("torch.distributed" in i for i in imported(n))]
    assert users == [
        "system.distributed", "system.exchanges", "system.launch_check", "system.meeting",
        "system.sharding", "system.sharing",
    ]  # fmt: skip


def imported(name: str) -> set[str]:
    return rooms.imported(ast.walk(TREES[name]), MODULES)


@each_module
def test_a_module_keeps_to_its_budget(name: str) -> None:
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= BUDGETS.get(name, 250)


@each_module
def test_no_function_is_longer_than_a_screen(name: str) -> None:
    functions = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.FunctionDef)]
    lengths = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions}
    assert {name: length for name, length in lengths.items() if length > 80} == {}


@each_module
def test_a_module_says_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(TREES[name])
    assert text
    assert text.splitlines()[0].endswith((".", ":"))


@each_module
def test_no_module_can_run_what_it_reads(name: str) -> None:
    forbidden = {"eval", "exec", "__import__"}
    unsafe = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "runpy"}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Name):
            assert node.id not in forbidden | unsafe
        elif isinstance(node, ast.Attribute):
            # model.eval() and torch.compile() are other things
            if name != NANOGPT:
                assert (owner(node), node.attr) not in {("torch", "load"), ("torch", "save")}
            assert node.attr not in {"load_module", "exec_module"}
        elif isinstance(node, ast.keyword):
            assert node.arg not in {"allow_pickle", "shell"}
            assert name == NANOGPT or node.arg != "weights_only"
    assert not {full.split(".")[0] for full in imported(name)} & unsafe
    assert "torch.serialization" not in imported(name)


def test_every_package_that_is_imported_is_declared() -> None:
    """What is imported as it is must be a dependency; what a module looks for first, an extra."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    names = {e: {re.split(r"[^\w-]", n)[0].replace("-", "_") for n in needed}
             for e, needed in project["project"]["optional-dependencies"].items()}  # fmt: skip
    listed = project["project"]["dependencies"]
    always = {re.split(r"[^\w-]", n)[0].replace("-", "_") for n in listed}
    for module, tree in TREES.items():
        # commands.serve asks for this extra before it imports them
        extra_of = names["serve"] if module.removeprefix("serve.") in HTTP else set()
        tried = {node for part in ast.walk(tree) if isinstance(part, ast.Try)
                 if any("ImportError" in ast.unparse(h) for h in part.handlers)
                 for node in ast.walk(part)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                packages = outside(rooms.imported([node], MODULES))
                sure = all(f"find_spec('{p}')" in ast.unparse(tree) for p in packages)
                optional = node in tried or sure
                declared = set().union(*names.values()) if optional else always | extra_of
                assert packages <= declared
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "need":
                package, extra = node.args[:2]
                if isinstance(package, ast.Constant) and isinstance(extra, ast.Constant):
                    name = str(package.value).split(".")[0]
                    assert DISTRIBUTIONS.get(name, name) in names[str(extra.value)]


def test_nanogpts_checkpoints_are_read_as_weights_only() -> None:
    """Its format is torch's: the one module that may use it reads tensors and plain values."""
    calls = [node for node in ast.walk(TREES[NANOGPT]) if isinstance(node, ast.Call)]
    loads = [c for c in calls if isinstance(c.func, ast.Attribute)
             and (owner(c.func), c.func.attr) == ("torch", "load")]  # fmt: skip
    assert len(loads) == 1
    told = {k.arg: k.value for k in loads[0].keywords}["weights_only"]
    assert isinstance(told, ast.Constant) and told.value is True


def owner(node: ast.Attribute) -> str:
    return node.value.id if isinstance(node.value, ast.Name) else ""


def test_the_version_is_the_newest_of_the_changelog() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    versions = [heading for heading in headings if heading[0].isdigit()]
    assert headings[0] == "Unreleased" or headings[0] in versions
    assert versions, "a version heading such as ## [0.1.0]"
    assert bardlet.__version__ == versions[0]
