"""Compiles what bardlet has in C++ while the package is installed.

Without a compiler, or where one does not know the instructions, the package is complete without it:
everything then runs through other libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
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

X86 = ("x86_64", "amd64")
ARM = ("aarch64", "arm64")
AVX512BF16 = ["-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"]
# each library, its source, the machines that it is for, if not for all, and the compiler's flags;
# bardlet.native takes the best core that runs
BUILDS = {
    "native/src/core-amx.so": (
        "native/src/core.cpp", X86, [*AVX512BF16, "-mamx-tile", "-mamx-bf16"],
    ),
    "native/src/core-avx512bf16.so": ("native/src/core.cpp", X86, AVX512BF16),
    "native/src/core-avx2.so": ("native/src/core.cpp", X86, ["-march=x86-64-v3"]),
    "native/src/core-neonbf16.so": ("native/src/core.cpp", ARM, ["-march=armv8.2-a+bf16"]),
    "native/src/core-neon.so": ("native/src/core.cpp", ARM, []),
    "data/tokenizers/core-bpe.so": ("data/tokenizers/bpe_training.cpp", (), []),
    "data/tokenizers/core-encoding.so": ("data/tokenizers/bpe_encoding.cpp", (), []),
}  # fmt: skip
FLAGS = [
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread",
]  # fmt: skip


def source_hash(folder: Path) -> str:
    """A hash of the sources, which system/native_library.py compares with a library's own."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.h"), *folder.glob("*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def is_current(library: Path, sources: str, script: Path, cpu_flags: list[str]) -> bool:
    """Whether a library exists, is of the sources with this hash, and newer than this script.

    One without flags for a kind of CPU must load, too: it may come from another kind of machine.
    """
    try:
        if not cpu_flags:
            ctypes.CDLL(str(library))
        newer = library.stat().st_mtime > script.stat().st_mtime
        return newer and sources.encode() in library.read_bytes()
    except OSError:
        return False


class CompileCore(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        """Compile, and add what was compiled to the wheel, which then fits this platform only.

        An editable installation after another compiles what has changed.
        """
        if sys.platform == "win32":
            self.app.display_info("bardlet: on Windows nothing is compiled, torch computes")
            return
        machine = platform.machine().lower()
        if machine not in X86 + ARM:
            self.app.display_info(f"bardlet: the core is not for {machine} CPUs, torch computes")
        compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
        if not shutil.which(compiler[0]):
            self.app.display_warning(
                f"bardlet: {compiler[0]} is not installed, nothing is compiled, torch computes. "
                "With a C++ compiler (macOS: xcode-select --install; Debian: apt install g++), "
                "install bardlet again"
            )
            return
        reuse = version == "editable" and not os.environ.get("CXX")
        builds = [
            (compiler, library, source, cpu_flags, reuse)
            for library, (source, machines, cpu_flags) in BUILDS.items()
            if not machines or machine in machines
        ]
        with ThreadPoolExecutor() as pool:
            compiled = list(pool.map(lambda build: self.compile(*build), builds))
        if any(compiled):
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def compile(
        self, compiler: list[str], library: str, source: str, cpu_flags: list[str], reuse: bool
    ) -> bool:
        """Write a library, or reuse a current one; a message and False where the compiler fails."""
        package = Path(self.root) / "bardlet"
        target, path = package / library, package / source
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        sources, script = source_hash(path.parent), Path(self.root) / "hatch_build.py"
        if reuse and is_current(target, sources, script, cpu_flags):
            return True
        version = f'-DBARDLET_SOURCE="{sources}"'
        command = [*compiler, *FLAGS, *cpu_flags, version, str(path), "-o", str(partial)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            partial.replace(target)
        except (OSError, subprocess.CalledProcessError) as error:
            for stale in (partial, target):
                with contextlib.suppress(OSError):  # a read-only folder
                    stale.unlink(missing_ok=True)
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[:1]
            self.app.display_warning(f"bardlet: {library} was not compiled: {' '.join(reason)}")
            return False
        return True
