"""What Windows does not have: the package runs without it, simulated in a process of its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bardlet

PACKAGE = Path(bardlet.__file__).parent
# names that Python has on POSIX alone, and modules
POSIX_ONLY = {
    "signal": {"SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "SIGPIPE", "SIGCHLD",
               "SIG_BLOCK", "SIG_SETMASK", "SIG_UNBLOCK", "pthread_sigmask", "setitimer", "alarm",
               "sigwait", "pthread_kill"},
    "os": {"fork", "forkpty", "register_at_fork", "killpg", "getpgid", "setsid", "getuid",
           "geteuid", "getgid", "posix_spawn", "POSIX_SPAWN_OPEN", "POSIX_SPAWN_DUP2",
           "sched_getaffinity", "sched_setaffinity", "statvfs", "uname", "mkfifo", "pread",
           "pwrite", "sendfile", "posix_fadvise", "posix_fallocate", "copy_file_range", "fchmod",
           "nice", "sysconf", "getloadavg", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK",
           "WNOHANG", "wait", "fchown", "chown"},
    "mmap": {"MADV_WILLNEED", "MADV_SEQUENTIAL", "MADV_DONTNEED"},
    "socket": {"AF_UNIX"},
    "time": {"tzset", "clock_gettime"},
}  # fmt: skip
MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "readline", "syslog"}
FORKS = {"fork", "register_at_fork", "killpg", "setsid", "getloadavg", "nice", "mkfifo"}
GUARDS = ("sys.platform", "hasattr", "os.name", "suppress(ImportError)")
ELSEWHERE = {"interop/html/chromium.py"}  # its program() names none on Windows, so none is started
SIMULATED = """
import importlib, os, signal, socket, sys, warnings
from pathlib import Path
import filelock, numpy, safetensors.torch, tokenizers, torch, torch.distributed
import multiprocessing.resource_tracker, subprocess, tempfile, webbrowser
for name in OTHERS:  # they look for a real Windows
    try: importlib.import_module(name)
    except ImportError: pass
fsync, fcntl, unlink = os.fsync, __import__("fcntl"), Path.unlink
def only_writable(descriptor):
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")  # as Windows does
    fsync(descriptor)
def rename(self, target):
    if Path(target).exists(): raise FileExistsError(17, "File exists", str(target))
    return self.replace(target)
def not_open(self, missing_ok=False):
    if self.name == ".lock": raise PermissionError(13, "it is open", str(self))
    return unlink(self, missing_ok)
os.fsync, Path.rename, Path.unlink = only_writable, rename, not_open
os.O_ACCMODE = 3
for name in POSIX_ONLY["signal"]: delattr(signal, name)
for name in FORKS: delattr(os, name)
for name in MODULES: sys.modules[name] = None  # importing it raises ImportError
sys.platform = "win32"
warnings.filterwarnings("error", category=EncodingWarning, module="bardlet")
import bardlet
for path in sorted(Path(bardlet.__file__).parent.rglob("*.py")):
    if path.stem != "__main__":
        parts = path.relative_to(Path(bardlet.__file__).parents[1]).with_suffix("").parts
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
from bardlet import native
from bardlet.cli import main
native.library = lambda: None  # nothing is compiled there
assert main(["prepare", "words.txt", "--workers=1"]) == 0
small = ["--n_layer=1", "--n_head=2", "--n_embd=32", "--block_size=16", "--eval_interval=2",
         "--device=cpu", "--batch_size=2"]
assert main(["train", "--dataset=words", "--out_dir=out/a", "--max_iters=2", *small]) == 0
assert main(["train", "--out_dir=out/a", "--resume", "--max_iters=4"]) == 0
assert main(["train", "--dataset=gone", "--out_dir=out/b"]) == 1
assert main(["verify-resume", "--dataset=words"]) == 2
sys.stdout.flush()
assert main(["sample", "out/a", "--num_samples=1", "--max_new_tokens=20"]) == 0
"""


def posix_only(tree: ast.AST) -> set[str]:
    """The names and modules of POSIX alone that are used somewhere in it."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used |= {node.attr} & POSIX_ONLY.get(node.value.id, set())
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names} & MODULES
        if isinstance(node, ast.ImportFrom):
            used |= {node.module or ""} & MODULES
    return used


def test_what_only_posix_has_is_asked_for_first() -> None:
    """In the same function or class."""
    places = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        for statement in ast.parse(text).body:
            if name in ELSEWHERE or not (used := posix_only(statement)):
                continue
            places += 1
            source = ast.get_source_segment(text, statement) or ""
            assert any(guard in source for guard in GUARDS), (name, used)
    assert places > 5


def test_it_prepares_trains_resumes_and_writes_without_it(tmp_path: Path) -> None:
    """Pipes are in the encoding of Western Windows to begin with, the text is not."""
    text = "床前明月光\n疑是地上霜\n" * 200
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    others = ["fastapi", "uvicorn", "pyarrow", "rich.progress", "huggingface_hub", "asyncio"]
    code = f"{POSIX_ONLY=}\n{FORKS=}\n{MODULES=}\nOTHERS={others}\n{SIMULATED}"
    result = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", code], cwd=tmp_path, check=False,
        capture_output=True, timeout=250,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1",
             "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    said = result.stderr.decode(errors="replace")
    assert result.returncode == 0, said
    assert "verify-resume needs signals, which Windows does not have" in said
    assert any(character in result.stdout.decode("utf-8") for character in set(text) - {"\n"})


@pytest.mark.skipif(sys.platform == "win32", reason="they are there")
def test_the_names_are_those_that_posix_has() -> None:
    """Or the first test would look for misspelt ones."""
    for module in ("signal", "os"):
        there = vars(__import__(module))
        missing = {name for name in POSIX_ONLY[module] if name not in there}
        assert sys.platform != "linux" or not missing
