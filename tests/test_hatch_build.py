"""What installing compiles, and when it does."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from native_support import hatch_build

SOURCE = """extern "C" const char* bardlet_source() { return BARDLET_SOURCE; }\n"""


@pytest.fixture
def build() -> Any:
    return hatch_build()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is compiled there")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler")
def test_an_installation_after_another_compiles_what_has_changed(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "BUILDS", {"core.so": ("core.cpp", (), [])})
    folder, how = tmp_path / "bardlet", tmp_path / "hatch_build.py"
    folder.mkdir()
    (folder / "core.cpp").write_text(SOURCE)
    how.touch()
    os.utime(how, (1e9, 1e9))
    compiled: list[list[str]] = []
    run = build.subprocess.run
    monkeypatch.setattr(
        build.subprocess,
        "run",
        lambda command, **how: (compiled.append(command), run(command, **how)),
    )
    hook = build.CompileCore()
    hook.root, hook.app = str(tmp_path), SimpleNamespace(display_warning=print, display_info=print)

    def compiles(version: str = "editable") -> bool:
        before, data = len(compiled), dict[str, Any]()
        hook.initialize(version, data)
        assert data["infer_tag"] and (folder / "core.so").is_file()
        return len(compiled) > before

    (folder / "core.so").write_bytes(build.source_hash(folder).encode() + b" of another machine")
    assert compiles() and not compiles()
    assert compiles("standard"), "what is given away is made anew"
    (folder / "core.cpp").write_text(SOURCE + "// another version\n")
    assert compiles() and not compiles()
    os.utime(how)  # which has the flags
    os.utime(folder / "core.so", (1e9, 1e9))
    assert compiles() and not compiles()
    monkeypatch.setenv("CXX", "c++")
    assert compiles(), "another compiler may make another"
