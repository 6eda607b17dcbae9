"""The visit to a GPU: results are kept when a part's time is up, and what travels is unpacked."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT

sys.path.insert(0, str(ROOT / "bench"))

import gpu_parts

# by its file: tests/gpu has the same name
SPEC = importlib.util.spec_from_file_location("gpu_visit", ROOT / "bench" / "gpu.py")
assert SPEC is not None and SPEC.loader is not None
gpu: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu)

PART = """
import subprocess, sys, time
print('RESULT {"a": 1}', flush=True)
print("RESULT not JSON")
print("a word", flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if sys.argv[1] == "tests":
    open(SAID, "w").close()
    time.sleep(600)
sys.exit(sys.argv[1] == "plan")
"""


def test_a_part_cut_short_has_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is killed with what it has started; the record is whole, and says how each part ended."""
    (tmp_path / "bench").mkdir()
    said = tmp_path / "said"
    part_code = PART.replace("SAID", repr(str(said)))
    (tmp_path / "bench" / "gpu_parts.py").write_text(part_code, encoding="utf-8")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "MIN_S", 1.0)
    record: dict[str, Any] = {"parts": {}}
    out = tmp_path / "gpu.json"

    class Process(subprocess.Popen[str]):
        def wait(self, timeout: float | None = None) -> int:
            while timeout == 1 and not said.exists():  # however long it takes to start
                time.sleep(0.01)
            return super().wait(timeout)

    monkeypatch.setattr(gpu.subprocess, "Popen", Process)
    before = threading.enumerate()
    for part, limit in (("machine", 60), ("tests", 1), ("plan", 60), ("classic", 0.5)):
        gpu.run_part(part, [], [], limit, record, out)
        assert threading.enumerate() == before  # one would wait for what still holds the pipe
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert [parts[part]["status"] for part in ("machine", "tests", "plan", "classic")] == [
        "ok", "cut short: its time was up", "failed: exit code 1", "left out: no time",
    ]  # fmt: skip
    assert parts["machine"]["results"] == parts["tests"]["results"] == [{"a": 1}]
    assert parts["tests"]["tail"] == ["a word"] and "tail" not in parts["machine"]


def test_wheels_are_unpacked_where_a_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "packed" / gpu.WHEELS
    wheels.mkdir(parents=True)
    monkeypatch.setattr(gpu, "PACKAGES", {"numpy": "", "not_here_at_all": "not-here-at-all"})
    for name in ("numpy-1.0-py3-none-any", "not_here_at_all-1.0-py3-none-any"):
        with zipfile.ZipFile(wheels / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name.partition('-')[0]}/__init__.py", "")
    assert gpu.unpacked(None, tmp_path) == []
    (folder,) = gpu.unpacked(tmp_path / "packed", tmp_path)
    assert [path.name for path in Path(folder).iterdir()] == ["not_here_at_all"]


def test_what_bardlet_needs_travels_with_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split("[^a-z0-9-]", line)[0] for line in project["dependencies"]}
    assert {name.replace("-", "_") for name in names} - {*gpu.PACKAGES} == {"torch"}


def test_every_part_has_a_limit_and_the_important_ones_fit() -> None:
    assert gpu.LIMITS.keys() == gpu_parts.PARTS.keys()
    ours = [limit for part, limit in gpu.LIMITS.items() if not part.startswith("peer")]
    assert sum(ours) <= gpu.VISIT_S
    assert gpu.VISIT_S + 60 * 4 + 120 <= 15 * 60, "a second visit, and the machine's start"
    assert gpu.limits_of(list(gpu.LIMITS), gpu.VISIT_S) == gpu.LIMITS
    few = {part: gpu.LIMITS[part] for part in ("plan", "techniques")}
    assert sum(gpu.limits_of(list(few), 240).values()) == pytest.approx(240), "all of a short visit"


def test_evaluations_are_reported_while_a_run_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations are handed out once each; a line that is half written waits."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu_parts, "result", lambda **values: said.append(values))
    path = tmp_path / "metrics.jsonl"
    line = {"type": "eval", "iter": 250, "train_loss": 2.0, "val_loss": 2.1}
    with gpu_parts.evaluations_reported(path):
        text = json.dumps({"type": "iter"}) + "\n" + json.dumps(line) + "\n" + '{"type": "ev'
        path.write_text(text, encoding="utf-8")
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        assert [one["iter"] for one in said] == [250]
        path.write_text(text + 'al", "iter": 9, "train_loss": 1.0, "val_loss": 1.0}\n', "utf-8")
    assert [(one["iter"], one["seed"]) for one in said] == [(250, (1.97, 2.06)), (9, None)]


def test_an_iteration_of_the_peer_is_timed_between_two_that_it_logs() -> None:
    """An evaluation between them does not count, and neither does what the peer says itself."""
    lines = [
        (9.0, "step 0: train loss 4.2, val loss 4.3"), (10.0, "iter 0: loss 4.2, time 900.00ms"),
        (10.5, "iter 10: loss 4.1, time 400.00ms"), (12.0, "saving checkpoint to out"),
        (12.1, "step 20: train loss 4.0, val loss 4.1"), (12.2, "iter 20: loss 4.0, time 9.00ms"),
        (12.4, "iter 21: loss 4.0, time 1.00ms"), (13.0, "PEAK 5"),
    ]  # fmt: skip
    assert gpu_parts.peer_times(lines) == pytest.approx([50.0, 200.0])


def test_checkpoints_of_the_peer_are_kept_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 250 and 5,000 iterations, and the best one; what it computes is its own."""
    script = """
import sys, torch
for it, loss in ((250, 2.0), (500, 1.5), (750, 1.8), (5000, 1.7)):
    torch.save({"iter_num": it, "best_val_loss": torch.tensor(loss)}, "ckpt.pt")
assert sys.argv[2:] == ["--device=cpu"], sys.argv
"""
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "save", torch.save)  # which it replaces
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["-c", ".", "250,5000", "--device=cpu"])
    exec(gpu_parts.PEER_TRAIN, {})
    assert capsys.readouterr().out.startswith("PEAK ")
    kept = {path.name: torch.load(path)["iter_num"] for path in tmp_path.glob("*.pt")}
    assert kept == {"ckpt-250.pt": 250, "ckpt-5000.pt": 5000, "ckpt-best.pt": 500}


def test_the_first_iterations_are_left_out_of_the_median() -> None:
    assert gpu_parts.median_ms([900.0] * 10 + [2.0, 4.0, 3.0]) == 3.0
    assert gpu_parts.median_ms([900.0, 5.0]) == 5.0
