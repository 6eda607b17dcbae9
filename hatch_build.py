"""Compiles bardlet's core (bardlet/native/) while the package is installed.

Without an x86-64 CPU or a C++ compiler that knows the instructions, the package is complete without
it: everything then runs through torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# one build for each kind of CPU; bardlet.native takes the best that runs
BUILDS = {
    "avx512bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    "avx2": ["-march=x86-64-v3"],
}
FLAGS = [
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread",
]  # fmt: skip


def source_hash(folder: Path) -> str:
    """A hash of the sources, which bardlet.native compares with what lies beside the core."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.h"), *folder.glob("*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class CompileCore(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        """Compile, and add what was compiled to the wheel, which then fits this platform only."""
        folder = Path(self.root) / "bardlet" / "native"
        if platform.machine().lower() not in ("x86_64", "amd64"):
            self.app.display_info("bardlet: not an x86-64 CPU, the core is not compiled")
            return
        if sys.platform == "win32":
            self.app.display_info("bardlet: the core is not compiled on Windows yet")
            return
        with ThreadPoolExecutor() as pool:
            made = list(pool.map(lambda build: self.compile(folder, *build), BUILDS.items()))
        if any(made):
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def compile(self, folder: Path, build: str, march: list[str]) -> bool:
        """Write core-BUILD.so; a message and False where the compiler cannot."""
        compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("c++") or "c++"]
        target = folder / f"core-{build}.so"
        partial = folder / f"core-{build}.{os.getpid()}.tmp"
        source = f'-DBARDLET_SOURCE="{source_hash(folder)}"'
        command = [*compiler, *FLAGS, *march, source, str(folder / "core.cpp"), "-o", str(partial)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            partial.replace(target)
        except (OSError, subprocess.CalledProcessError) as error:
            for path in (partial, target):
                with contextlib.suppress(OSError):  # a read-only folder
                    path.unlink(missing_ok=True)
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[:1]
            self.app.display_warning(f"bardlet: core-{build} was not compiled: {' '.join(reason)}")
            return False
        return True
