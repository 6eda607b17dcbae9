"""Every benchmark in one command, and the README's figures from what it measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "bench"))

import all as every
import readme

SCRIPT = """
import json, sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
ran = Path(__file__).with_name("ran")
ran.write_text(ran.read_text() + Path(__file__).stem if ran.exists() else Path(__file__).stem)
{body}
rows = [{{"case": "", "who": "bardlet", "s": {{"median": 2.0, "min": 1.0, "max": 3.0, "runs": 3}}}}]
out.write_text(json.dumps({{"runs": [1], "summary": rows, "commit": "abc", "peer_commit": None,
                          "versions": {{"torch": "2"}}, "said": sys.argv[1:]}}))
"""
BODIES = {"good": "", "bad": "raise SystemExit('reason')", "long": "time.sleep(60)"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three benchmarks: one that works, one that fails, one that takes too long."""
    for name, body in BODIES.items():
        (tmp_path / f"{name}.py").write_text(SCRIPT.format(body=body), encoding="utf-8")
    benchmarks = {name: every.Benchmark(f"{name} --text FILE", 1) for name in BODIES}
    benchmarks["good"] = every.Benchmark("good --text FILE --ours_args='--a --b'", 1)
    benchmarks["lacking"] = every.Benchmark("good", 1, ("no_such_package",))
    benchmarks["with_peer"] = every.Benchmark("good --peer PEER", 1)
    benchmarks["long"] = every.Benchmark("long --text FILE", 0.01)
    monkeypatch.setattr(every, "HERE", tmp_path)
    monkeypatch.setattr(every, "BENCHMARKS", benchmarks)
    (tmp_path / "text").write_text("to be", encoding="utf-8")
    return tmp_path


def run(bench: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    """Run all.py with options; the parts of its record."""
    command = ["all.py", f"--text={bench / 'text'}", f"--json={bench / 'all.json'}", *options]
    monkeypatch.setattr(sys, "argv", command)
    every.main()
    return json.loads((bench / "all.json").read_text(encoding="utf-8"))["parts"]


def ran(bench: Path) -> str:
    """The names of the scripts that ran since the last call, one after the other."""
    file = bench / "ran"
    names = file.read_text(encoding="utf-8") if file.exists() else ""
    file.unlink(missing_ok=True)
    return names


def test_each_runs_under_its_limit_and_what_ended_well_is_kept(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2 of 5 did not end well"):
        run(bench, monkeypatch)
    parts = json.loads((bench / "all.json").read_text(encoding="utf-8"))["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "good": "ok", "bad": "failed: exit code 1", "long": "cut short: its 0.01 minutes were up",
        "lacking": "left out: the package no_such_package is not installed",
        "with_peer": "left out: no --peer",
    }  # fmt: skip
    shown = "python bench/good.py --text FILE --ours_args='--a --b'"  # no path of this machine
    assert parts["good"]["command"] == shown
    said = parts["good"]["record"]["said"]
    assert said[:3] == ["--text", str(bench / "text"), "--ours_args=--a --b"]
    assert "| reason" in capfd.readouterr().out
    assert ran(bench).removesuffix("long") == "goodbad"
    with pytest.raises(SystemExit):
        run(bench, monkeypatch)
    assert ran(bench).removesuffix("long") == "bad"  # the same command goes on
    run(bench, monkeypatch, "--only", "good")
    assert ran(bench) == "good"  # measured again
    (bench / "good.py").write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(SystemExit):
        run(bench, monkeypatch, "--only", "good")
    parts = json.loads((bench / "all.json").read_text(encoding="utf-8"))["parts"]
    assert parts["good"]["status"] == "ok"  # an earlier result stays


def test_results_of_another_machine_or_kind_are_not_mixed(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bench, monkeypatch, "--only", "good", "--machine=one")
    with pytest.raises(SystemExit, match="has machine 'one', and this is 'two'"):
        run(bench, monkeypatch, "--only", "good", "--machine=two")
    with pytest.raises(SystemExit, match="has quick False"):
        run(bench, monkeypatch, "--only", "good", "--machine=one", "--quick")
    (bench / "all.json").write_text("[]", encoding="utf-8")
    with pytest.raises(SystemExit, match="not a file of this script"):
        run(bench, monkeypatch, "--only", "good")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--quick", "--write"], "leave out --write"),
        (["--peer=nowhere"], "nowhere is not a checkout of nanoGPT"),
        (["--texts=nothing"], "there is no file nothing"),
        (["--only", "frobnicate"], "invalid choice: 'frobnicate'"),
    ],
)
def test_wrong_options_are_named(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: list[str], why: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as error:
        run(bench, monkeypatch, *options)
    assert error.value.code == 2
    assert why in capsys.readouterr().err
    assert not (bench / "all.json").exists()


# --- the README's figures


def test_the_readmes_figures_are_those_that_were_measured() -> None:
    """In both languages: `python bench/readme.py` writes them."""
    for path, text in readme.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run bench/readme.py"


def test_every_result_names_its_machine_and_the_command_of_today() -> None:
    for name, entry in readme.results().items():
        assert entry["command"] == every.command(name)
        assert entry["machine"] and entry["summary"]
        assert entry.get("source") or re.fullmatch(r"[0-9a-f]{40}", entry["commit"]), name
    assert {benchmark for benchmark, _, _ in readme.SIDES.values()} <= every.BENCHMARKS.keys()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one figure in its README."""
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    monkeypatch.setattr(readme, "PAGES", {"README.md": "figures.md"})
    monkeypatch.setattr(readme, "CURVE", tmp_path / "curve.svg")
    sides = {"ours": ("good", "", "bardlet"), "theirs": ("old", "a", "peer")}
    monkeypatch.setattr(readme, "SIDES", sides)
    place = "<!-- figures: one -->\n{}<!-- end of figures -->\n"
    figures = (
        "{ours.s:.2f} ({ours.s.min:.0f} to {ours.s.max:.0f}) of {theirs.s:,.1f}: "
        "{ratio[theirs.s / ours.s]:.1f}x, {theirs.s.hours:.0f} h; {machines}\n"
    )
    (tmp_path / "figures.md").write_text(place.format(figures), encoding="utf-8")
    (tmp_path / "README.md").write_text("a\n" + place.format("") + "z\n", encoding="utf-8")
    rows = [{"case": "a case", "who": "peer", "s": {"median": 7200.0, "runs": 1}}]
    old = {"command": "c", "machine": "M1", "summary": rows}
    (tmp_path / "readme.json").write_text(json.dumps({"benchmarks": {"old": old}}), "utf-8")
    return tmp_path


def test_what_ended_well_is_taken_into_the_readme(
    checkout: Path, bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="--only good"):
        readme.write_pages()
    with pytest.raises(SystemExit, match="did not end well"):
        run(bench, monkeypatch, "--write", "--machine=M2", "--only", "bad", "good")
    text = (checkout / "README.md").read_text(encoding="utf-8")
    line = "2.00 (1 to 3) of 7,200.0: 3600.0x, 2 h; M2, torch 2 (good); M1 (old)"
    assert text.splitlines()[2] == line and text.startswith("a\n") and text.endswith("z\n")
    kept = readme.results()
    assert kept.keys() == {"good", "old"} and kept["good"]["commit"] == "abc"
    kept["old"]["recorded_ratios"] = {"theirs.s / ours.s": 5.0}  # of two benchmarks: not theirs
    kept["good"]["machine"] = "M1"
    shown = readme.rendered("{ratio[theirs.s / ours.s]:.1f} {machines}", kept)
    assert shown == "3600.0 M1"


def test_a_part_without_its_place_is_named(checkout: Path) -> None:
    (checkout / "README.md").write_text("a\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="one: a part of the figures without its place"):
        readme.write_pages()
