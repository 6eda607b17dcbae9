"""Where bardlet runs: what is compiled on each machine, the wheels' workflow, and their page."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
import tomllib
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from native_support import hatch_build
from support import ROOT

from bardlet import native
from bardlet.commands import COMMANDS

WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"
CORES = {f"native/src/core-{build}.so" for build in native.BUILDS}
BPE = {"data/tokenizers/core-bpe.so", "data/tokenizers/core-encoding.so"}


@pytest.fixture
def hatch() -> Any:
    return hatch_build()


def built(hatch: Any, monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> Any:
    """Which libraries pip compiles on such a machine, what it sets, and what it says."""
    said: list[str] = []
    libraries: set[str] = set()
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    hook = hatch.CompileCore()
    hook.app = SimpleNamespace(display_info=said.append, display_warning=said.append)
    hook.compile = lambda compiler, library, *_: libraries.add(library) or True
    about: dict[str, Any] = {}
    hook.initialize("standard", about)
    return libraries, about, "\n".join(said)


@pytest.mark.parametrize(
    ("system", "machine", "kinds"),
    [("linux", "x86_64", ("amx", "avx")), ("darwin", "x86_64", ("amx", "avx")),
     ("linux", "aarch64", ("neon",)), ("darwin", "arm64", ("neon",))],
)  # fmt: skip
def test_each_machine_compiles_the_builds_that_may_run_there(
    system: str, machine: str, kinds: tuple[str, ...], hatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    libraries, about, said = built(hatch, monkeypatch, system, machine)
    cores = {core for core in CORES if core.split("core-")[1].startswith(kinds)}
    assert libraries == {*cores, *BPE} and len(cores) > 1 and not said
    assert about == {"pure_python": False, "infer_tag": True}


def test_elsewhere_a_line_says_what_is_not_compiled(
    hatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for system, machine, words in [
        ("win32", "AMD64", "on Windows nothing is compiled"),
        ("darwin", "arm64", "xcode-select --install"),
        ("linux", "x86_64", "c++ is not installed"),
    ]:
        libraries, about, said = built(hatch, monkeypatch, system, machine)
        assert not libraries and not about and words in said and "torch computes" in said
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    libraries, _, said = built(hatch, monkeypatch, "linux", "riscv64")
    assert libraries == BPE and "not for riscv64 CPUs" in said


def test_the_builds_are_those_that_are_compiled(hatch: Any) -> None:
    assert set(hatch.BUILDS) == {*CORES, *BPE}
    for _, (source, _, _) in hatch.BUILDS.items():
        assert (ROOT / "bardlet" / source).exists()


def test_the_page_has_every_build_in_its_order() -> None:
    page = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    table = page[page.index("## CPUs") : page.index("## Systems")]
    rows = re.findall(r"^\| .+ \| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    assert [name for name, _ in rows] == list(native.BUILDS)
    for name, products in rows:
        assert ("bfloat16" in products) == (name not in ("avx2", "neon")), name
    for path in re.findall(r"`([\w./]+\.(?:py|yml))`", page):
        assert (ROOT / path).exists(), path


def steps() -> list[dict[str, Any]]:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_the_workflow_runs_actions_of_one_commit_each() -> None:
    pinned = re.compile(r"[\w-]+/[\w.-]+@[0-9a-f]{40}")
    actions = [step["uses"] for step in steps() if "uses" in step]
    assert len(actions) > 5 and all(pinned.fullmatch(action) for action in actions)


def test_every_command_of_the_workflow_is_one() -> None:
    """And those of bardlet are the README's, but for quotes and the device."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    wheels = settings["cibuildwheel"]
    commands = wheels["test-command"] + wheels["macos"]["test-command"]
    commands += [step["run"] for step in steps() if "run" in step]
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace('"', "")
    for command in commands:
        program, *words = shlex.split(command)
        if program == "bardlet":
            assert words[0] in COMMANDS
            assert " ".join((program, *words)).replace(" --device=cpu", "") in readme, command
        elif program == "python":
            assert words[0] == "-m" and words[1] in ("build", "cibuildwheel"), command
        else:
            assert program == "pip" and words[0] == "install", command
            assert all(word == "dist/*.whl" or "==" in word for word in words[1:]), command


def test_only_a_tag_publishes_and_no_secret_is_kept() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    publish = workflow["jobs"]["publish"]
    assert workflow["permissions"] == {"contents": "read"} and "secrets" not in text
    assert publish["permissions"] == {"id-token": "write"}
    assert (
        "github.ref_type == 'tag'" in publish["if"]
        and "github.event_name == 'push'" in (publish["if"])
    )
    assert set(publish["needs"]) == set(workflow["jobs"]) - {"publish"}


def test_the_versions_of_python_are_those_that_it_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    says = [line.rpartition(" ")[2] for line in project["classifiers"] if " :: 3." in line]
    assert f">={says[0]}" == project["requires-python"]
    matrix = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["plain"]["strategy"]
    assert matrix["matrix"]["python-version"] == [says[0], says[-1]]
