"""What the tests share: a small corpus and dataset, and tiny models of both families."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Two tests at once, or a busy machine, must not make threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What --deterministic sets is read once, at the first product on a GPU, which is another test's.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import browsing
import pytest
from hypothesis import HealthCheck, settings
from pytest import CaptureFixture, MonkeyPatch
from support import DATA, FAMILIES, RUN, TEXT, Refused, some_text, tiny_config

from bardlet import cli
from bardlet.config import to_toml
from bardlet.data.prepare.pipeline import prepare
from bardlet.data.text.corpus import Corpus, Source
from bardlet.system import device

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A shell that runs the tests in the background has them ignore Ctrl-C, and every process that they
# start; nohup, that the terminal is closed, which this process goes on doing, and those do not.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

# Every run measures the machine for as long as a tiny one takes: of a session, the first one does.
device.measure_flops = functools.cache(device.measure_flops)


# Only a machine that stops loses what was written; a process that is killed does not. A tiny run
# waits for its disk 32 times, for 2 ms or, where others write to it, 40.
os.fsync = lambda descriptor: None

# No time counts, since machines are busy, and each session has the same examples, so that what one
# finds by chance is found when it is written. The slow tests draw others each time.
busy = [HealthCheck.too_slow]
settings.register_profile(
    "daily", derandomize=True, database=None, deadline=None, suppress_health_check=busy
)
settings.load_profile("daily")

MOST_PROCESSES = 4  # beyond, starting them and what each sets up for itself gains little


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes share the tests: one a core for whole folders, none for named files.

    Each process needs some seconds to import torch and to collect, and up to 1.5 GB.
    """
    if not any(Path(name).is_dir() for name in config.args):
        return 0
    cores = min(
        MOST_PROCESSES,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
    return cores if cores > 1 else 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests of pages were skipped, which one number of all that were does not."""
    skipped = terminalreporter.getreports("skipped")
    count = sum(browsing.MISSING in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.section("PAGES ARE NOT TESTED", red=True)
        terminalreporter.line(f"{count} tests need Chromium and playwright (BARDLET_BROWSER=path)")


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A prepared dataset of 6,000 characters."""
    text = some_text(6000)
    source = Source(name="words.txt", bytes=len(text), sha256="0" * 64)
    folder = tmp_path / "data" / "words"
    prepare(Corpus(name="words", text=text, sources=(source,)), folder)
    return folder


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `sent` copies; the compiled core can compute its model."""
    folder = tmp_path_factory.mktemp("original")
    with MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("words.txt").write_text(TEXT, encoding="utf-8")
        shape = {"n_embd": 64, "n_head": 2, "n_kv_head": 1, "block_size": 32, "max_iters": 2}
        Path("tiny.toml").write_text(to_toml(tiny_config(DATA, RUN, **shape)), encoding="utf-8")
        assert cli.main(["prepare", "words.txt"]) == 0
        assert cli.main(["train", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def sent(original: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """The folder that the test runs in: words.txt is prepared as DATA, tiny.toml trained as RUN."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capfd: CaptureFixture[str]) -> Refused:
    """Run a command that has to fail, with `code` if given, at once and in one line; return it."""

    def command(*args: str, code: int | None = None) -> str:
        capfd.readouterr()
        began = time.monotonic()
        given = cli.main(args)
        out, err = capfd.readouterr()
        result = "" if args[0] == "train" else out  # whose log may have begun
        assert (given in ((code,) if code else (1, 2)), result) == (True, ""), err
        assert "Traceback" not in err and "internal error" not in err, err
        assert time.monotonic() - began < 60
        lines = err.splitlines()
        assert [line for line in lines if line.startswith("bardlet: ")] == lines[-1:]
        return lines[-1]

    return command


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium for a module; its tests are skipped where it is not installed."""
    with browsing.chromium() as one:
        yield one


@pytest.fixture
def visit(browser: Browser) -> Iterator[browsing.Visitor]:
    """Opens pages: `page = visit(url, viewport=...)`; at the end none has complained.

    None may have asked for anything of another origin than that of the first page.
    """
    visitor = browsing.Visitor(browser)
    yield visitor
    visitor.close()
    visitor.check()
