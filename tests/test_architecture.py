"""The shape of the package: who imports whom, how long a module may be, what none may do."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bardlet

PACKAGE = Path(bardlet.__file__).parent
CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"

# A module imports modules of earlier rows only, and what BESIDE lets it import of its own row.
LAYERS = (
    ("", "errors"),
    ("compiled", "files", "schema", "terminal", "untrusted"),
    ("arguments", "config", "runs", "config_file", "device", "distributed", "memory", "signals",
     "history", "doctor"),
    ("data", "data.fetch", "data.plays", "data.named", "data.text", "data.corpus"),
    ("data.stream", "data.permutation"),
    ("data.pieces", "data.patterns", "data.tokenizer_json", "data.json_values", "data.sources",
     "data.packed", "data.progress", "data.workers", "data.journal"),
    ("data.records",),
    ("data.documents",),
    ("data.units", "data.options"),
    ("data.char", "data.byte", "data.bpe", "data.foreign"),
    ("data.tokenizer",),
    ("data.pretrained", "data.bpe_training"),
    ("data.vocabulary", "data.plain_pickle"),
    ("data.nanogpt",),
    ("data.comparison",),
    ("data.dataset", "data.mixture", "data.loader"),
    ("data.manifest", "data.encoding", "data.remarks"),
    ("data.shards", "data.survey"),
    ("data.prepare", "data.merge", "data.samples"),
    ("model",),
    ("lora",),
    ("native",),
    ("native.training", "native.decoding", "native.muon"),
    ("weights",),
    ("optim", "evaluate", "checkpoint", "metrics", "sample", "memorization"),
    ("preflight", "guards", "saving", "probe", "sizing", "ways"),
    ("interop", "interop.extras"),
    ("interop.families",),
    ("interop.comparison", "interop.hf_config"),
    ("interop.model_card", "interop.nanogpt"),
    ("interop.gguf_numbers", "interop.llamacpp"),
    ("interop.gguf_file", "interop.gguf_vocab"),
    ("interop.gguf_model",),
    ("interop.sources", "interop.huggingface", "interop.gguf", "interop.onnx"),
    ("interop.export",),
    ("train", "writing", "inspection", "verification"),
    ("finetuning", "trial", "plan"),
    ("demo", "commands"),
    ("commands.demo", "commands.prepare", "commands.train", "commands.sample", "commands.eval",
     "commands.tokenizer", "commands.inspect", "commands.import", "commands.export",
     "commands.verify_resume", "commands.doctor", "commands.plan"),
    ("cli",),
    ("__main__",),
)  # fmt: skip
BESIDE = {
    "errors": [],
    "config_file": ["config", "device", "runs"],
    "doctor": ["history"],
    "commands.verify_resume": ["commands.train"],
    "commands.plan": ["commands.train"],
    "data.plays": ["data.fetch"],
    "data.named": ["data.plays"],
    "data.corpus": ["data.fetch", "data.plays", "data.named", "data.text"],
    "data.tokenizer_json": ["data.patterns"],
    "data.foreign": ["data.bpe"],
    "data.mixture": ["data.dataset"],
    "data.loader": ["data.dataset"],
}
# Where a row would allow more than the design does: these and no others of the package.
ONLY = {
    "model": [],
    "lora": ["model"],
    "native": ["compiled", "model"],
    "native.training": ["model", "native"],
    "native.decoding": ["model", "native"],
    "native.muon": ["native"],
    "sample": ["errors", "model", "native", "native.decoding"],
    "demo": [],
    "commands": ["arguments", "errors"],
    "__main__": ["cli"],
}
NANOGPT = "interop.nanogpt"
BUDGETS = {
    "model": 330, "train": 336, "sample": 300, "optim": 220, "evaluate": 120, "checkpoint": 250,
    "config": 250, "config_file": 250, "device": 200, "distributed": 120, "metrics": 200,
    "data.corpus": 250, "data.plays": 250, "data.prepare": 250,
    "data.dataset": 200, "data.loader": 200, "cli": 120, "errors": 40,
}  # fmt: skip


def module_name(path: Path) -> str:
    """ "data.loader" for bardlet/data/loader.py, "" for bardlet/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
LIGHT = ["", "errors", "files", "schema", "terminal", "untrusted", "arguments", "config", "runs",
         "config_file", "cli", "__main__", "demo",
         *(name for name in MODULES if name.split(".")[0] == "commands")]  # fmt: skip
each_module = pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "__init__")


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """The full names of what these nodes import, `from a import b` as a.b where that is ours."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                ours = full.removeprefix("bardlet.") in MODULES
                found.add(full if ours else str(node.module))
    return found


def of_package(names: set[str]) -> set[str]:
    return {n.removeprefix("bardlet").lstrip(".") for n in names if n.split(".")[0] == "bardlet"}


def outside(names: set[str]) -> set[str]:
    """Top-level packages that are neither bardlet nor Python's own."""
    tops = {name.split(".")[0] for name in names}
    return tops - {"bardlet"} - sys.stdlib_module_names


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when the module is imported: all but the bodies of functions."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def test_every_module_has_a_place_in_the_table() -> None:
    placed = [name for row in LAYERS for name in row]
    assert sorted(MODULES) == sorted(placed), "new modules are added to LAYERS"


@each_module
def test_a_module_imports_what_the_table_allows(name: str) -> None:
    row = next(i for i, names in enumerate(LAYERS) if name in names)
    earlier = {below for names in LAYERS[:row] for below in names}
    allowed = set(ONLY[name]) if name in ONLY else earlier | set(BESIDE.get(name, []))
    assert of_package(imports(ast.walk(TREES[name]))) - allowed == set()


def test_training_knows_nothing_of_what_is_done_with_a_model() -> None:
    used = of_package(imports(ast.walk(TREES["train"])))
    assert used & {"sample", "writing", "demo", "inspection", "cli", "config_file"} == set()
    assert not [name for name in used if name.split(".")[0] == "interop"]


def test_the_model_needs_torch_alone() -> None:
    used = imports(ast.walk(TREES["model"]))
    assert outside(used) == {"torch"}
    assert not any("distributed" in name or "optim" in name for name in used)


@pytest.mark.parametrize("name", LIGHT, ids=lambda name: name or "__init__")
def test_the_command_line_loads_nothing_heavy(name: str) -> None:
    """At import, a light module imports light modules and Python's own, and so all of them do."""
    used = imports(at_import(TREES[name]))
    assert outside(used) == set()
    assert of_package(used) <= set(LIGHT)


def test_torch_distributed_and_its_launcher_are_named_in_one_module() -> None:
    users = [n for n in MODULES if any("torch.distributed" in i for i in imported(n))]
    assert users == ["distributed"]


def imported(name: str) -> set[str]:
    return imports(ast.walk(TREES[name]))


@each_module
def test_a_module_keeps_to_its_budget(name: str) -> None:
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= BUDGETS.get(name, 250)


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
