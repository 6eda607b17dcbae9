"""Losses as a picture: what is drawn is what the file says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import RUN, Refused

from bardlet import cli
from bardlet.report import plot


class Axes(list[Any]):
    """Takes what is plotted."""

    def plot(self, x: Any, y: Any, label: str = "", **style: Any) -> None:
        self.append((label, list(x), list(y)))


def a_run(folder: Path, iters: int, every: int = 1) -> Path:
    folder.mkdir()
    with (folder / "metrics.jsonl").open("w") as file:
        for it in range(0, iters, every):
            facts = {"loss": 4.0 - it / iters, "time_ms": 500.0, "tokens": (it + 1) * 64}
            file.write(json.dumps({"type": "iter", "iter": it, **facts}) + "\n")
        file.write(json.dumps({"type": "eval", "iter": iters // 2, "val_loss": 3.5}) + "\n")
    return folder


@pytest.mark.parametrize(("x", "unit"), [("iterations", 1), ("tokens", 64), ("seconds", 0.5)])
def test_points_are_where_they_belong(x: str, unit: float, tmp_path: Path) -> None:
    axes = Axes()
    assert plot.curve(axes, a_run(tmp_path / "a", 40, every=10), "C0", x, 0, several=False)
    (train, at, losses), (val, places, scores) = axes
    assert (train, val) == ("train", "validation")
    assert at == pytest.approx([it * unit for it in range(0, 40, 10)])
    assert losses == pytest.approx([4.0 - it / 40 for it in range(0, 40, 10)])
    assert places == pytest.approx([20 * unit]) and scores == [3.5]


def test_the_mean_is_over_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=50)
    naive = [values[max(0, i - 3) : i + 4].mean() for i in range(50)]
    assert plot.moving_mean(values, 7) == pytest.approx(naive)
    assert plot.moving_mean(values, 1) == pytest.approx(values)


def test_a_long_curve_keeps_its_spikes() -> None:
    y = np.zeros(600_000)
    y[[7, 300_001]] = 9.0, -9.0
    x, drawn = plot.envelope(np.arange(600_000.0), y)
    assert len(x) < 6000 and {7, 300_001} <= set(x) and drawn.min() == -9.0 and drawn.max() == 9.0


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_the_same_runs_give_the_same_file(name: str, begins: bytes, sent: Path) -> None:
    files = []
    for _ in range(2 if name == "a.svg" else 1):
        assert cli.main(["plot", str(RUN), "--out", name, "--x", "tokens", "--log"]) == 0
        files.append(Path(name).read_bytes())
    assert files[0].startswith(begins) and len(set(files)) == 1
    assert not list(Path().glob(".*.tmp"))


def test_what_cannot_be_drawn_is_said(
    sent: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "must end in .png" in refused("plot", str(RUN), "--out", "a.txt", code=2)
    assert "no run at nowhere" in refused("plot", "nowhere")
    assert "cannot write none/a.png" in refused("plot", str(RUN), "--out", "none/a.png")
    assert "smooth=2.0 must be" in refused("plot", str(RUN), "--smooth=2", code=2)
    (RUN / "metrics.jsonl").write_text("")
    assert "no losses in out/a" in refused("plot", str(RUN))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'bardlet[plot]'" in refused("plot", str(RUN), code=2)
